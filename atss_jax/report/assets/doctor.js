
// The page about annotations: one suggestion is shown at a time.
const suspects = [...document.querySelectorAll('.suspect')];
const entries = [...document.querySelectorAll('#list li')];
const doctor = JSON.parse(document.getElementById('corrections').textContent);
const chosenKind = document.getElementById('kind');
const states = suspects.map(() => '');
const changes = [];
let current = 0;

// What was decided is kept by the browser, so that a reload loses nothing.
try {
  const kept = JSON.parse(localStorage.getItem(doctor.key) ?? '[]');
  kept.forEach((state, index) => { if (index < states.length) states[index] = state; });
} catch { /* a browser that keeps nothing for files */ }

function isShown(index) {
  return chosenKind.value === '' || suspects[index].dataset.kind === chosenKind.value;
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
  if (!suspects.length) return;
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
    figure.hidden = index !== current;
    figure.dataset.state = states[index];
    figure.querySelector('.state').textContent = names[states[index]];
    entries[index].dataset.state = states[index];
    entries[index].hidden = !isShown(index);
    entries[index].setAttribute('aria-current', index === current);
    entries[index].querySelector('.decision').textContent = names[states[index]];
  });
  // Only the list scrolls: the page stays where the image is.
  const list = document.getElementById('list');
  list.scrollTop = (entries[current]?.offsetTop ?? 0) - list.clientHeight / 2;
  const count = (state) => states.filter((each) => each === state).length;
  document.getElementById('progress').textContent = suspects.length
    ? `${current + 1} of ${suspects.length}: ${count('accepted')} accepted, `
      + `${count('rejected')} rejected, ${count('')} undecided`
    : 'nothing to decide';
}

// The rows are text that was written before, so that no number changes on the way.
function save() {
  const rows = doctor.rows.filter((row, index) => states[index] === 'accepted');
  const text = `${doctor.head}[\n${rows.join(',\n')}\n]}\n`;
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
  if (event.ctrlKey || event.metaKey || event.altKey || event.target === chosenKind) return;
  const action = actions[event.key.toLowerCase()];
  if (action) {
    event.preventDefault();
    action();
  }
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
