'use strict';

const details = JSON.parse(element('details').textContent);
const shownClasses = new Set(details.classes.keys());
let worker = null;
let current = null; // the image on the stage and its detections: {image, result}
let stream = null; // of the webcam, while it is used
let asking = false; // for the webcam, until the user allows or refuses it
let busy = false;

function element(id) { return document.getElementById(id); }

function say(text, isError = false) {
  element('status').textContent = text;
  element('status').classList.toggle('error', isError);
}

// The detector ----------------------------------------------------------------------

async function unpack(id) {
  const binary = atob(element(id).textContent);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  element(id).remove(); // the text is no longer needed, and large
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Sends a message to the worker; resolves with its answer.
function ask(message, transferred = []) {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => {
      if (data.error === undefined) resolve(data.result);
      else reject(new Error(data.error));
    };
    worker.onerror = (event) => reject(new Error(event.message ?? 'the worker did not start'));
    worker.postMessage(message, transferred);
  });
}

async function start() {
  if (typeof DecompressionStream === 'undefined' || typeof WebAssembly === 'undefined') {
    say('This browser is too old: the page needs Chrome 80, Firefox 113, Safari 16.4 or newer.', true);
    return;
  }
  try {
    const script = new Blob([await unpack('worker')], { type: 'text/javascript' });
    worker = new Worker(URL.createObjectURL(script));
    const [wasm, model] = [await unpack('wasm'), await unpack('model')];
    await ask({ wasm, model }, [wasm.buffer, model.buffer]);
  } catch (error) {
    say(`The detector cannot be loaded: ${error.message}`, true);
    return;
  }
  element('choose').disabled = false;
  element('webcam').disabled = !navigator.mediaDevices;
  document.body.dataset.ready = 'true';
  say('Ready.');
}

async function detect(image) {
  const { pixels, width, height } = image;
  const copy = pixels.slice();
  return ask({ pixels: copy, width, height, settings: details }, [copy.buffer]);
}

// Images ------------------------------------------------------------------------------

// The RGBA bytes of something that can be drawn.
function pixelsOf(drawable, width, height) {
  const canvas = document.createElement('canvas');
  Object.assign(canvas, { width, height });
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(drawable, 0, 0);
  return { pixels: context.getImageData(0, 0, width, height).data, width, height };
}

async function open(files) {
  const [file] = files;
  if (!document.body.dataset.ready) return;
  stopWebcam();
  while (busy) await new Promise(requestAnimationFrame);
  busy = true;
  try {
    say(`Reading ${file.name} …`);
    let bitmap;
    try {
      // Pixels as they are stored, as Python reads them: no color management.
      bitmap = await createImageBitmap(file, { colorSpaceConversion: 'none' });
    } catch {
      clear();
      say(`${file.name} is no image that this browser can read.`, true);
      return;
    }
    const image = pixelsOf(bitmap, bitmap.width, bitmap.height);
    bitmap.close();
    current = { image, result: { detections: [] }, name: file.name };
    draw();
    say(`Detecting objects in ${file.name} …`);
    current.result = await detect(image);
    draw();
    report(files.length > 1 ? `; ${files.length} images were given, this is ${file.name}` : '');
  } catch (error) {
    say(`The detector failed: ${error.message}`, true);
  } finally {
    busy = false;
  }
}

// The webcam -----------------------------------------------------------------------------

async function startWebcam() {
  if (asking) return;
  asking = true;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
  } catch (error) {
    say(`The webcam cannot be used: ${error.message}`, true);
    return;
  } finally {
    asking = false;
  }
  element('webcam').setAttribute('aria-pressed', 'true');
  element('webcam').textContent = 'Stop the webcam';
  element('status').setAttribute('aria-live', 'off'); // it changes with every frame
  const video = element('video');
  video.srcObject = stream;
  video.hidden = false;
  await video.play();
  follow(stream);
}

// Detects in one frame after the other until the webcam is stopped.
async function follow(own) {
  const video = element('video');
  while (stream === own) {
    if (busy || !video.videoWidth) {
      await new Promise(requestAnimationFrame);
      continue;
    }
    busy = true;
    try {
      const begin = performance.now();
      const image = pixelsOf(video, video.videoWidth, video.videoHeight);
      const result = await detect(image);
      if (stream !== own) return;
      current = { image, result, name: 'webcam' };
      draw();
      report(`, ${(1000 / (performance.now() - begin)).toFixed(1)} frames/s`);
    } catch (error) {
      stopWebcam();
      say(`The detector failed: ${error.message}`, true);
    } finally {
      busy = false;
    }
  }
}

function stopWebcam() {
  if (!stream) return;
  for (const track of stream.getTracks()) track.stop();
  stream = null;
  element('video').hidden = true;
  element('webcam').setAttribute('aria-pressed', 'false');
  element('webcam').textContent = 'Use the webcam';
  element('status').setAttribute('aria-live', 'polite');
  if (current) report();
}

// What is shown ----------------------------------------------------------------------------

function threshold() { return Number(element('threshold').value); }

function shown() {
  return current.result.detections.filter(
    ({ score, label }) => score >= threshold() && shownClasses.has(label),
  );
}

// Empties the stage, so that nothing on it seems to be of another image.
function clear() {
  current = null;
  element('image').hidden = true;
  element('hint').hidden = false;
  element('stage').classList.add('empty');
  listDetections([]);
}

function draw() {
  if (!current) return;
  const { pixels, width, height } = current.image;
  const canvas = element('image');
  Object.assign(canvas, { width, height, hidden: false });
  element('hint').hidden = true;
  element('stage').classList.remove('empty');
  const context = canvas.getContext('2d');
  context.putImageData(new ImageData(pixels, width, height), 0, 0);
  // As thick as two pixels of the page, whatever the image is reduced to.
  const pixel = Math.max(width / (canvas.clientWidth || width), 1);
  const detections = shown();
  context.lineWidth = 2 * pixel;
  for (const { box: [left, top, right, bottom], label } of [...detections].reverse()) {
    context.strokeStyle = details.colors[label];
    context.strokeRect(left, top, right - left, bottom - top);
  }
  drawNames(context, detections, pixel);
  listDetections(detections);
}

// Names the detections, the best first; in a crowd those that would cover another name
// are left out.
function drawNames(context, detections, pixel) {
  const places = [];
  context.font = `${13 * pixel}px system-ui, sans-serif`;
  context.textBaseline = 'middle';
  for (const { box: [left, top], score, label } of detections) {
    const text = `${details.classes[label]} ${score.toFixed(2)}`;
    const [wide, high] = [context.measureText(text).width + 8 * pixel, 18 * pixel];
    const [x, y] = [left - pixel, top >= high ? top - high : top];
    if (places.some((p) => x < p.x + p.wide && p.x < x + wide && y < p.y + high && p.y < y + high)) {
      continue;
    }
    places.push({ x, y, wide });
    context.fillStyle = details.colors[label];
    context.fillRect(x, y, wide, high);
    context.fillStyle = isLight(details.colors[label]) ? '#000' : '#fff';
    context.fillText(text, x + 4 * pixel, y + high / 2);
  }
}

function isLight(color) {
  const [red, green, blue] = color.match(/\d+/g).map(Number);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140;
}

function swatch(label) {
  const part = document.createElement('span');
  part.className = 'swatch';
  part.style.background = details.colors[label];
  return part;
}

function listDetections(detections) {
  element('found-title').textContent = `Detections (${detections.length})`;
  const entries = detections.map(({ box, score, label }) => {
    const entry = document.createElement('li');
    entry.dataset.box = box.join(' ');
    const name = document.createElement('span');
    name.className = 'name';
    name.textContent = details.classes[label];
    entry.append(swatch(label), name, score.toFixed(3));
    return entry;
  });
  element('found').replaceChildren(...entries);
}

function report(addition = '') {
  const { detections, prepareMs, detectMs } = current.result;
  if (detectMs === undefined) return; // the image is still processed
  const count = shown().length;
  const hidden = detections.length - count;
  say(
    `${count} ${count === 1 ? 'object' : 'objects'}`
    + (hidden ? ` (${hidden} more of a lower score or another class)` : '')
    + `; ${Math.round(prepareMs)} ms to resize, ${Math.round(detectMs)} ms to detect${addition}`,
  );
}

function refresh() {
  element('threshold-value').textContent = threshold().toFixed(2);
  if (!current) return;
  draw();
  if (!stream) report();
}

function listClasses() {
  const entries = details.classes.map((name, label) => {
    const box = document.createElement('input');
    box.type = 'checkbox';
    box.checked = true;
    box.addEventListener('change', () => {
      setClass(label, box.checked);
      refresh();
    });
    const row = document.createElement('label');
    row.append(box, swatch(label), name);
    const entry = document.createElement('li');
    entry.append(row);
    return entry;
  });
  element('classes').replaceChildren(...entries);
}

function setClass(label, isShown) {
  if (isShown) shownClasses.add(label);
  else shownClasses.delete(label);
}

// Shows or hides every class that the search leaves.
function setClasses(checked) {
  [...element('classes').children].forEach((entry, label) => {
    if (entry.hidden) return;
    entry.querySelector('input').checked = checked;
    setClass(label, checked);
  });
  refresh();
}

function search() {
  const text = element('search').value.trim().toLowerCase();
  const entries = [...element('classes').children];
  for (const entry of entries) {
    entry.hidden = !entry.textContent.toLowerCase().includes(text);
  }
  element('no-class').hidden = entries.some((entry) => !entry.hidden);
}

// What users do ----------------------------------------------------------------------------

element('choose').addEventListener('click', () => element('file').click());
element('file').addEventListener('change', ({ target }) => {
  const files = [...target.files];
  target.value = ''; // the same file may be chosen again
  if (files.length) open(files);
});
element('webcam').addEventListener('click', () => {
  if (stream) stopWebcam();
  else startWebcam();
});
element('threshold').addEventListener('input', refresh);
element('search').addEventListener('input', search);
element('all').addEventListener('click', () => setClasses(true));
element('none').addEventListener('click', () => setClasses(false));
window.addEventListener('resize', () => draw());
document.addEventListener('dragover', (event) => {
  event.preventDefault();
  element('stage').classList.add('over');
});
document.addEventListener('dragleave', () => element('stage').classList.remove('over'));
document.addEventListener('drop', (event) => {
  event.preventDefault();
  element('stage').classList.remove('over');
  const files = [...event.dataTransfer.files];
  if (files.length) open(files);
  else say('Drop an image file; what was dropped is none.', true);
});
document.addEventListener('paste', (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) open(files);
});

listClasses();
start();
