'use strict';

// A click on a heading sorts the table by it, best first; another click reverses it.
for (const heading of document.querySelectorAll('.sortable thead th')) {
  heading.querySelector('button').addEventListener('click', () => sortBy(heading));
}

function sortBy(heading) {
  const row = heading.parentElement;
  const column = [...row.children].indexOf(heading);
  const byName = column === 0;
  const first = byName ? 'ascending' : 'descending';
  const second = byName ? 'descending' : 'ascending';
  const order = heading.getAttribute('aria-sort') === first ? second : first;
  for (const other of row.children) other.setAttribute('aria-sort', 'none');
  heading.setAttribute('aria-sort', order);
  const sign = order === 'ascending' ? 1 : -1;
  const body = row.closest('table').tBodies[0];
  const value = (line) => line.children[column].dataset.value;
  const compare = (a, b) => {
    if (byName) return sign * value(a).localeCompare(value(b));
    // Values that could not be measured stay at the end.
    if (value(a) === '' || value(b) === '') return (value(a) === '') - (value(b) === '');
    return sign * (Number(value(a)) - Number(value(b)));
  };
  body.append(...[...body.rows].sort(compare));
}

// The page about a data set has no curves.
const curve = document.getElementById('curve');
curve?.addEventListener('change', () => {
  for (const group of document.querySelectorAll('[data-curve]')) {
    group.toggleAttribute('hidden', group.dataset.curve !== curve.value);
  }
});

for (const button of document.querySelectorAll('.enlarge')) {
  button.addEventListener('click', () => {
    const figure = button.closest('figure');
    const isLarge = figure.classList.toggle('large');
    button.setAttribute('aria-pressed', isLarge);
    button.textContent = isLarge ? 'shrink' : 'enlarge';
    figure.scrollIntoView({ block: 'nearest' });
  });
}

// A report without errors, and the page about a data set, have no controls.
const controls = document.getElementById('controls');
if (controls) {
  controls.addEventListener('submit', (event) => event.preventDefault());
  controls.addEventListener('change', showBoxes);
  for (const button of controls.querySelectorAll('[data-all]')) {
    button.addEventListener('click', () => {
      for (const box of controls.querySelectorAll('[name=kind]')) {
        box.checked = button.dataset.all === 'on';
      }
      showBoxes();
    });
  }
  showBoxes();
}

// Shows the images that have a box of the selected class and kinds, visible or not.
// Objects that were found and crowd regions are of no kind: only their class decides.
function showBoxes() {
  const checked = (name) => new Set(
    [...controls.querySelectorAll(`[name=${name}]:checked`)].map((box) => box.value));
  const sides = checked('side');
  const kinds = checked('kind');
  const allKinds = new Set(
    [...controls.querySelectorAll('[name=kind]')].map((box) => box.value));
  const wanted = document.getElementById('class').value;
  const figures = document.querySelectorAll('#gallery figure');
  let shown = 0;
  for (const figure of figures) {
    let isWanted = false;
    for (const box of figure.querySelectorAll('.box')) {
      const { kind, label, side } = box.dataset;
      const isOfKind = kinds.has(kind);
      const fits = (wanted === '' || wanted === label)
        && (isOfKind || !allKinds.has(kind));
      isWanted ||= fits && isOfKind;
      box.hidden = !(fits && sides.has(side));
    }
    figure.hidden = !isWanted;
    shown += isWanted;
  }
  document.getElementById('gallery').classList.toggle('no-names', !sides.has('names'));
  document.getElementById('shown').textContent = `${shown} of ${figures.length} images`;
}
