
// The page about annotations: one suggestion is shown at a time.
const suspects = [...document.querySelectorAll('.suspect')];
const entries = [...document.querySelectorAll('#list li')];
const doctor = JSON.parse(document.getElementById('edits').textContent);
const chosenKind = document.getElementById('kind');
const states = suspects.map(() => '');
const changes = [];
let current = 0;

// What was decided is kept by the browser, so that a reload loses nothing.
try {
  const kept = JSON.parse(localStorage.getItem(doctor.key) ?? '[]');
  kept.forEach((state, index) => { if (index < states.length) states[index] = state; });
} catch { /* a browser that keeps nothing for files */ }

// The current one is not shown if there is none of the chosen kind.
function isShown(index) {
  const kind = suspects[index]?.dataset.kind;
  return kind !== undefined && ['', kind].includes(chosenKind.value);
}

// The next suggestion that `wanted` accepts, in a direction; without one, stays.
function move(step, wanted = () => true) {
  for (let index = current + step; index >= 0 && index < suspects.length; index += step) {
    if (isShown(index) && wanted(index)) {
      current = index;
      break;
    }
  }
  show();
}

function decide(state) {
  if (!isShown(current)) return;
  changes.push([current, states[current]]);
  states[current] = state;
  keep();
  move(1, (index) => states[index] === '');
}

function undo() {
  if (!changes.length) return;
  const [index, state] = changes.pop();
  states[index] = state;
  if (!isShown(index)) chosenKind.value = '';
  current = index;
  keep();
  show();
}

function keep() {
  try {
    localStorage.setItem(doctor.key, JSON.stringify(states));
  } catch { /* as above */ }
}

function show() {
  const names = { '': 'undecided', accepted: 'accepted', rejected: 'rejected' };
  suspects.forEach((figure, index) => {
    figure.hidden = index !== current || !isShown(index);
    figure.dataset.state = states[index];
    figure.querySelector('.state').textContent = names[states[index]];
    entries[index].dataset.state = states[index];
    entries[index].hidden = !isShown(index);
    entries[index].setAttribute('aria-current', index === current && isShown(index));
    entries[index].querySelector('.decision').textContent = names[states[index]];
  });
  // Only the list scrolls: the page stays where the image is.
  const list = document.getElementById('list');
  list.scrollTop = (entries[current]?.offsetTop ?? 0) - list.clientHeight / 2;
  const count = (state) => states.filter((each) => each === state).length;
  const place = isShown(current) ? `${current + 1} of ${suspects.length}` : 'none of this kind';
  document.getElementById('progress').textContent = suspects.length
    ? `${place}: ${count('accepted')} accepted, `
      + `${count('rejected')} rejected, ${count('')} undecided`
    : 'nothing to decide';
}

// What is saved, with what is accepted, as `carry_out` in review/corrections.py does it.
// Records are text that was written before, so that no number changes on the way.
function corrected() {
  const [head, ...rows] = document.getElementById('lines').textContent.split('\n');
  doctor.edits.forEach(({ index, record }, number) => {
    if (states[number] !== 'accepted') return;
    if (index === null) rows.push(record);
    else rows[index] = record;
  });
  return `${head}\n${rows.filter((row) => row !== null).join(',\n')}\n]}\n`;
}

function save() {
  const text = corrected();
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
  link.download = doctor.file;
  link.click();
  URL.revokeObjectURL(link.href);
  document.getElementById('saved').hidden = false;
}

const actions = {
  j: () => move(1), k: () => move(-1), a: () => decide('accepted'),
  r: () => decide('rejected'), u: undo, s: save,
};
for (const button of document.querySelectorAll('#doctor button')) {
  button.addEventListener('click', () => actions[button.dataset.key]());
}
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  // A key that is held down decides once: also Enter on a button.
  const isHeld = event.repeat && key !== 'j' && key !== 'k';
  // In the choice of kinds too, where arrows choose, and other letters the names.
  if (key in actions || (isHeld && key === 'enter')) event.preventDefault();
  if (key in actions && !isHeld) actions[key]();
});
entries.forEach((entry, index) => {
  entry.querySelector('button').addEventListener('click', () => {
    current = index;
    show();
  });
});
chosenKind.addEventListener('change', () => {
  if (suspects.length && !isShown(current)) {
    const first = suspects.findIndex((figure, index) => isShown(index));
    if (first >= 0) current = first;
  }
  show();
});
show();
