// Cuts the crop and runs the network, beside the page, which stays responsive meanwhile.

import { cropBox, cut, imageFromCrop, normalise } from "./crop.js";

const RUNTIME = "./vendor/ort-wasm-simd-threaded";

let model, session, ort;

self.onmessage = async ({ data: { kind, ...message } }) => {
  try {
    if (kind === "load") await load(message.model);
    if (kind === "find") await find(message);
  } catch (error) {
    self.postMessage({ kind: "failed", what: kind, message: error.message ?? String(error) });
  }
};

async function load(description) {
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
  session = await ort.InferenceSession.create(await download("./model.onnx"), {
    executionProviders: ["wasm"],
  });
  self.postMessage({ kind: "ready" });
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
  const flat = outputs.landmarks.data;
  const points = Array.from({ length: flat.length / 2 }, (_, i) => [
    x.offset + x.scale * flat[2 * i],
    y.offset + y.scale * flat[2 * i + 1],
  ]);
  const pixel = Math.sqrt(x.scale * y.scale); // of the input, in the image's
  const scales = outputs.scale && Array.from(outputs.scale.data, (scale) => scale * pixel);
  const milliseconds = performance.now() - started;
  self.postMessage({ kind: "found", box, points, scales, milliseconds });
}

function readPixels(bitmap) {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}
