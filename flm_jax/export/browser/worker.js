// Finds faces and their points, beside the page, which stays responsive meanwhile.

import { cropBox, cut, imageFromCrop, normalise } from "./crop.js";
import { detectorInput, readFaces } from "./detect.js";

const RUNTIME = "./vendor/ort-wasm-simd-threaded";

let model, session, detector, ort;

const TASKS = { load, find, detect };

// Each message is answered by one with its id.
self.onmessage = async ({ data: { kind, id, ...message } }) => {
  try {
    self.postMessage({ kind: "done", id, result: await TASKS[kind](message) });
  } catch (error) {
    self.postMessage({ kind: "failed", id, message: error.message ?? String(error) });
  }
};

async function load({ model: description }) {
  model = description;
  try {
    ort = await import("./vendor/ort.wasm.bundle.min.mjs");
  } catch {
    throw new Error(
      "onnxruntime-web is not in this folder's vendor/. Install npm and export again " +
        "(launch.py --mode export), or put it there as that command says.",
    );
  }
  ort.env.wasm.numThreads = 1; // more need headers that a plain static server does not send
  ort.env.wasm.wasmPaths = { wasm: new URL(RUNTIME + ".wasm", import.meta.url).href };
  session = await open("./model.onnx");
  if (model.detector) detector = await open("./detector.onnx");
}

async function open(name) {
  const options = { executionProviders: ["wasm"] };
  return ort.InferenceSession.create(await download(name), options);
}

async function download(name) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name} can't be loaded: ${response.status}`);
  const total = Number(response.headers.get("Content-Length"));
  const chunks = [];
  let loaded = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    loaded += value.length;
    self.postMessage({ kind: "loading", loaded, total });
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

async function find({ box, part, pixels }) {
  const started = performance.now();
  const size = model.input.size;
  const [x, y] = imageFromCrop(cropBox(box, model.crop), size);
  const crop = cut(readPixels(pixels), part, [x, y], size);
  const images = new ort.Tensor("float32", normalise(crop), [1, size, size, 3]);
  const outputs = await session.run({ [model.input.name]: images });
  const { landmarks, ...others } = outputs;
  const flat = landmarks.data;
  const points = Array.from({ length: flat.length / 2 }, (_, i) => [
    x.offset + x.scale * flat[2 * i],
    y.offset + y.scale * flat[2 * i + 1],
  ]);
  const pixel = Math.sqrt(x.scale * y.scale); // of the input, in the image's
  const beside = {};
  for (const [name, { data }] of Object.entries(others)) {
    const unit = model.pixel_outputs.includes(name) ? pixel : 1;
    beside[name] = Array.from(data, (value) => value * unit);
  }
  return { box, points, outputs: beside, milliseconds: performance.now() - started };
}

/** The faces of an image, of which `pixels` are a reduced copy: so many times as large. */
async function detect({ pixels, scale }) {
  const { values, shape } = detectorInput(readPixels(pixels));
  const images = new ort.Tensor("float32", values, shape);
  const outputs = await detector.run({ [detector.inputNames[0]]: images });
  return readFaces(model.detector.outputs.map((name) => outputs[name]), scale, model.detector);
}

function readPixels(bitmap) {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}
