'use strict';
// Runs the model, so that the page can be used meanwhile. `ort` is defined above.

let session = null;

async function start({ wasm, model }) {
  // More threads need memory that a page opened as a file may not share.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = wasm;
  session = await ort.InferenceSession.create(model, { executionProviders: ['wasm'] });
}

// pixels: width x height x 4 bytes, RGBA.
async function detect({ pixels, width, height, settings }) {
  const begin = performance.now();
  const placed = place({ pixels, width, height }, settings);
  const prepared = performance.now();
  const { canvas, size, scale } = placed;
  const results = await session.run({
    image: new ort.Tensor('uint8', canvas.data, [1, canvas.height, canvas.width, 3]),
    image_size: new ort.Tensor('int32', Int32Array.from(size), [1, 2]),
    scale: new ort.Tensor('float32', Float32Array.from(scale), [1, 2]),
  });
  const detections = [];
  for (let i = 0; i < Number(results.num.data[0]); i++) {
    detections.push({
      box: Array.from(results.boxes.data.subarray(4 * i, 4 * i + 4)),
      score: results.scores.data[i],
      label: Number(results.labels.data[i]),
    });
  }
  for (const tensor of Object.values(results)) tensor.dispose();
  return { detections, prepareMs: prepared - begin, detectMs: performance.now() - prepared };
}

// An image resized and put into the top left corner of a canvas, zero elsewhere.
function place(image, { imgScale, keepRatio, backend, sizeDivisor }) {
  const [width, height] = newSize(image.width, image.height, imgScale, keepRatio);
  const up = (length) => Math.ceil(length / sizeDivisor) * sizeDivisor;
  const canvas = { width: up(width), height: up(height) };
  canvas.data = new Uint8Array(canvas.width * canvas.height * 3);
  resizeInto(canvas, image, width, height, backend);
  return { canvas, size: [height, width], scale: [width / image.width, height / image.height] };
}

function newSize(width, height, [first, second], keepRatio) {
  if (!keepRatio) return [first, second];
  const factor = Math.min(
    Math.max(first, second) / Math.max(width, height),
    Math.min(first, second) / Math.min(width, height),
  );
  const scaled = (length) => Math.max(Math.floor(length * factor + 0.5), 1);
  return [scaled(width), scaled(height)];
}

function resizeInto(canvas, image, width, height, backend) {
  const columns = samples(image.width, width, backend);
  const rows = samples(image.height, height, backend);
  const narrow = new Float32Array(image.height * width * 3);
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < width; x++) {
      const { first, weights } = columns[x];
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) {
          sum += weights[k] * image.pixels[(y * image.width + first + k) * 4 + c];
        }
        narrow[(y * width + x) * 3 + c] = sum;
      }
    }
  }
  for (let y = 0; y < height; y++) {
    const { first, weights } = rows[y];
    for (let i = 0; i < width * 3; i++) {
      let sum = 0;
      for (let k = 0; k < weights.length; k++) sum += weights[k] * narrow[(first + k) * width * 3 + i];
      canvas.data[y * canvas.width * 3 + i] = Math.floor(sum + 0.5);
    }
  }
}

// For each new pixel the old ones that it is made of, and their weights. OpenCV takes two
// whatever the sizes; Pillow all under a triangle that is as wide as the reduction.
function samples(oldLength, newLength, backend) {
  const ratio = oldLength / newLength;
  const support = backend === 'pillow' ? Math.max(ratio, 1) : 1;
  return Array.from({ length: newLength }, (_, index) => {
    const center = (index + 0.5) * ratio - 0.5;
    const low = Math.ceil(center - support);
    const high = Math.floor(center + support);
    const byPixel = new Map();
    for (let pixel = low; pixel <= high; pixel++) {
      const weight = Math.max(1 - Math.abs(pixel - center) / support, 0);
      if (backend === 'pillow' && (pixel < 0 || pixel >= oldLength)) continue;
      const inside = Math.min(Math.max(pixel, 0), oldLength - 1);
      byPixel.set(inside, (byPixel.get(inside) ?? 0) + weight);
    }
    const first = Math.min(...byPixel.keys());
    const weights = [...byPixel.values()];
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

self.onmessage = async ({ data }) => {
  try {
    const result = data.model ? await start(data) : await detect(data);
    self.postMessage({ result: result ?? {} });
  } catch (error) {
    self.postMessage({ error: String(error?.message ?? error) });
  }
};
