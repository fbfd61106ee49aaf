// The page: an image comes in, its faces are found, a box is dragged, points are drawn.

import { cropBox, imageFromCrop, neededPart } from "./crop.js";
import { withMargins } from "./detect.js";
import { HANDLE, drawBox, drawOtherBox, drawPoints, dragged, grip } from "./drawing.js";
import { describeNetwork, element, listGroups, listPoints } from "./panels.js";

const $ = (id) => document.getElementById(id);
const canvas = $("canvas");
const context = canvas.getContext("2d");
const sides = ["xmin", "ymin", "xmax", "ymax"].map($);
const LEAST = 4; // pixels of the image that a box is wide and high
const REDETECT = 20; // frames of the camera from one look for faces to the next

let model, worker;
let ready = false;
let image = null; // {bitmap, width, height, name}
let faces = []; // of the image: {box, score, found}; found is what the worker says of a box, or null
let chosen = 0; // the face whose box is shown and dragged
let drag = null;
let stream = null;
let busy = false;
let again = false;
const waiting = new Map(); // by id: what takes the worker's reply
const hidden = new Set();

const face = () => faces[chosen];

/** The worker's reply; null after a failure, which the page then shows. */
function ask(message, transferred = []) {
  return new Promise((resolve) => {
    const id = waiting.size ? Math.max(...waiting.keys()) + 1 : 0;
    waiting.set(id, resolve);
    worker.postMessage({ ...message, id }, transferred);
  });
}

// ---------------------------------------------------------------- starting

async function start() {
  setState("starting", "Loading…");
  const response = await fetch("model.json");
  if (!response.ok) throw new Error(`model.json can't be loaded: ${response.status}`);
  model = await response.json();
  describeNetwork($("network"), model);
  listGroups($("groups"), model.landmarks.parts, (group, shown) => {
    hidden[shown ? "delete" : "add"](group);
    draw();
  });
  draw();
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => receive(data);
  worker.onerror = (event) => fail(event.message || "worker.js can't be loaded");
  if ((await ask({ kind: "load", model })) === null) return;
  ready = true;
  setState("ready", "Ready");
  $("detect").hidden = !model.detector;
  if (image) await look();
}

function receive(data) {
  if (data.kind === "loading") {
    const [loaded, total] = [data.loaded, data.total].map((bytes) => (bytes / 1e6).toFixed(1));
    setState("loading", `Loading the network: ${loaded} of ${total} MB`);
  } else {
    if (data.kind === "failed") fail(data.message);
    waiting.get(data.id)(data.kind === "failed" ? null : (data.result ?? true));
    waiting.delete(data.id);
  }
}

function setState(state, text) {
  document.body.dataset.state = state;
  $("status").textContent = text;
}

function fail(message) {
  setState("failed", "Something is wrong");
  warn(message);
}

function warn(message) {
  $("alert").textContent = message;
  $("alert").hidden = !message;
}

// ---------------------------------------------------------------- images

async function openFile(file) {
  if (!file) return;
  stopCamera();
  try {
    // The stored values: neither colours nor transparency may change them on the way.
    const bitmap = await createImageBitmap(file, {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
    show(bitmap, file.name);
    forget();
    await look();
  } catch {
    warn(`${file.name}: not an image that this browser can read, or too large for it.`);
  }
}

function show(bitmap, name) {
  image?.bitmap.close();
  image = { bitmap, width: bitmap.width, height: bitmap.height, name };
  warn("");
  $("box").disabled = false;
  $("invitation").hidden = true;
  canvas.setAttribute("aria-label", `${name}, ${image.width} x ${image.height} pixels`);
}

/** Of another image nothing holds: neither its points nor its boxes. */
function forget() {
  $("results").disabled = true;
  [faces, chosen] = [[{ box: defaultBox(), score: null, found: null }], 0];
}

/** Finds the faces and the points of each; where there is none, the box waits to be dragged. */
async function look() {
  showBox();
  draw();
  if (!ready) return;
  const shown = image;
  if (model.detector) {
    setState("finding", "Looking for faces…");
    const found = await detect(model.detector.sides);
    if (image !== shown || !found) return;
    if (found.length) [faces, chosen] = [found, largest(found)];
    else warn("No face found. Drag the box over it: from the forehead to the chin.");
  }
  showBox();
  draw();
  await findOthers();
  if (image === shown) await find();
}

/** Finds the points of the faces that are not in hand. */
async function findOthers() {
  const [shown, all] = [image, faces];
  for (const [i, each] of all.entries()) {
    if (!ready || image !== shown || faces !== all) return;
    if (i !== chosen) each.found = (await pointsOf(each.box)) ?? each.found;
  }
}

/** The detector's faces at the first side, in pixels, at which there are any. */
async function detect(sides) {
  const { bitmap, width, height } = image;
  for (const side of sides) {
    const scale = side / Math.max(width, height);
    const pixels = await createImageBitmap(bitmap, {
      resizeWidth: Math.max(1, Math.round(width * scale)),
      resizeHeight: Math.max(1, Math.round(height * scale)),
      resizeQuality: "high",
    });
    const found = await ask({ kind: "detect", pixels, scale }, [pixels]);
    if (!found) return null;
    if (found.length) return found.map((each) => ({ ...each, found: null }));
  }
  return [];
}

function largest(found) {
  const area = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
  return found.reduce((best, each, i) => (area(each) > area(found[best]) ? i : best), 0);
}

/** Half of the image's shorter side, in its middle: something to drag. */
function defaultBox() {
  const half = Math.min(image.width, image.height) / 4;
  const [x, y] = [(image.width - 1) / 2, (image.height - 1) / 2];
  return [x - half, y - 1.15 * half, x + half, y + 1.15 * half];
}

async function toggleCamera() {
  if (stream) return stopCamera();
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "user", width: { ideal: 1280 } },
    });
  } catch (error) {
    const why = navigator.mediaDevices ? error.message : "it needs https, or localhost";
    return warn(`The camera can't be used: ${why}`);
  }
  $("camera").setAttribute("aria-pressed", "true");
  const video = element("video", "", { srcObject: stream, muted: true });
  await video.play();
  const own = stream;
  for (let count = 0; stream === own; count++) {
    const frame = await createImageBitmap(video);
    if (stream !== own) return frame.close(); // Stopped meanwhile, and perhaps a file is shown.
    show(frame, "camera");
    if (!count) forget();
    const follows = ready && !drag && $("follow").checked;
    if (follows && model.detector && count % REDETECT === 0) await renew();
    if (stream !== own) return;
    showBox();
    await findOthers();
    await find();
    if (follows && !drag && stream === own) followAll();
    await new Promise(requestAnimationFrame);
  }
}

/** The camera's faces anew; in hand stays the one that is nearest. */
async function renew() {
  const shown = image;
  const found = await detect(model.detector.sides.slice(-1));
  if (!found?.length || image !== shown) return;
  const middle = ([xmin, ymin, xmax, ymax]) => [(xmin + xmax) / 2, (ymin + ymax) / 2];
  const place = middle(face().box);
  const away = ({ box }) => Math.hypot(...middle(box).map((value, i) => value - place[i]));
  const nearest = found.reduce((best, each, i) => (away(each) < away(found[best]) ? i : best), 0);
  [faces, chosen] = [found, face().found ? nearest : largest(found)];
}

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  $("camera").setAttribute("aria-pressed", "false");
}

// ---------------------------------------------------------------- the box

function useBox(next) {
  faces[chosen] = { box: next, score: null, found: face().found };
  warn("");
  showBox();
  draw();
  find();
}

function showBox() {
  sides.forEach((input, i) => {
    if (input !== document.activeElement) input.value = Number(face().box[i].toFixed(1));
    input.removeAttribute("aria-invalid");
  });
}

function typedBox() {
  const next = sides.map((input) => input.valueAsNumber);
  const wrong = next.some(Number.isNaN) || next[2] <= next[0] || next[3] <= next[1];
  sides.forEach((input) => input.setAttribute("aria-invalid", wrong));
  if (wrong) warn("The box has no area: right must exceed left, and bottom top.");
  else useBox(next);
}

/** The box that training faces have around such points, on average. */
function boxAround(points) {
  const low = [0, 1].map((axis) => Math.min(...points.map((point) => point[axis])));
  const high = [0, 1].map((axis) => Math.max(...points.map((point) => point[axis])));
  return withMargins([...low, ...high], model.crop.margins);
}

/** The next boxes in the camera; of the lost faces only the one in hand stays. */
function followAll() {
  const own = face();
  faces = faces.filter((each) => follow(each) || each === own);
  chosen = faces.indexOf(own);
}

/** A face's next box in the camera, or the default where the points have lost the face; whether
 * they have it still. */
function follow(each) {
  if (!each.found) return true;
  const next = boxAround(each.found.points);
  const share = (axis) => (next[axis + 2] - next[axis]) / (each.box[axis + 2] - each.box[axis]);
  const inside = next[2] > 0 && next[3] > 0 && next[0] < image.width && next[1] < image.height;
  const lost = !inside || [0, 1].some((axis) => share(axis) < 0.5 || share(axis) > 2);
  each.box = lost ? defaultBox() : next;
  return !lost;
}

function placeOf(event) {
  const unit = image.width / canvas.clientWidth; // pixels of the image in a css pixel
  return [event.offsetX * unit - 0.5, event.offsetY * unit - 0.5];
}

const CURSORS = { "-1-1": "nwse", 11: "nwse", "-11": "nesw", "1-1": "nesw" };

function cursor(taken) {
  if (!taken) return "crosshair";
  if (taken.join("") === "00") return "move";
  return `${CURSORS[taken.join("")] ?? (taken[0] ? "ew" : "ns")}-resize`;
}

canvas.addEventListener("pointerdown", (event) => {
  if (!image) return;
  const place = placeOf(event);
  const reach = (HANDLE * image.width) / canvas.clientWidth;
  let taken = grip(face().box, place, reach);
  const other = faces.findIndex(({ box }) => grip(box, place, 0));
  if (!taken && other >= 0) {
    chosen = other;
    taken = [0, 0];
    showBox();
    draw();
    tellPoints();
  }
  // Beside the boxes a new one is drawn, from its corner.
  const box = taken ? face().box : [...place, ...place.map((value) => value + LEAST)];
  drag = { place, sides: taken ?? [1, 1], box };
  canvas.setPointerCapture(event.pointerId);
});

canvas.addEventListener("pointermove", (event) => {
  if (!image) return;
  const place = placeOf(event);
  if (!drag) {
    const reach = (HANDLE * image.width) / canvas.clientWidth;
    const other = faces.some(({ box }) => grip(box, place, 0));
    canvas.style.cursor = cursor(grip(face().box, place, reach) ?? (other ? [0, 0] : null));
    return;
  }
  const move = [place[0] - drag.place[0], place[1] - drag.place[1]];
  useBox(dragged(drag.box, drag.sides, move, LEAST));
});

for (const name of ["pointerup", "pointercancel"])
  canvas.addEventListener(name, () => (drag = null));

canvas.addEventListener("keydown", (event) => {
  if (!image) return;
  const step = event.shiftKey ? 10 : 1;
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const grow = { "+": step, "-": -step }[event.key];
  const [dx, dy] = (moves[event.key] ?? [0, 0]).map((sign) => sign * step);
  if (!dx && !dy && !grow) return;
  event.preventDefault();
  const larger = dragged(face().box, [1, 1], [grow ?? 0, grow ?? 0], LEAST);
  useBox(dragged(larger, [0, 0], [dx - (grow ?? 0) / 2, dy - (grow ?? 0) / 2], LEAST));
});

// ---------------------------------------------------------------- finding and drawing

/** Finds the points in the newest box; while the worker is busy, older ones are left out. */
async function find() {
  if (!ready || !image) return;
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  if (!stream) setState("finding", "Finding…");
  do {
    again = false;
    await findOnce();
  } while (again);
  busy = false;
}

async function findOnce() {
  const [shown, own, boxes] = [image, chosen, faces];
  const found = await pointsOf(face().box);
  if (!found || image !== shown || faces !== boxes) return;
  faces[own].found = found;
  $("results").disabled = false;
  const time = `${found.milliseconds.toFixed(0)} ms`;
  const count = faces.length > 1 ? `${faces.length} faces, ` : "";
  if (!again) setState("found", count + (stream ? `${time} a frame` : `98 points in ${time}`));
  draw();
  tellPoints();
}

/** What the worker finds in a box of the image; null where there is nothing to be found. */
async function pointsOf(box) {
  const shown = image;
  const map = imageFromCrop(cropBox(box, model.crop), model.input.size);
  const part = neededPart(map, model.input.size, shown.width, shown.height);
  const { left, top, width, height } = part;
  if (width < 1 || height < 1) {
    setState("ready", "No points");
    warn("The box shows nothing of the image; drag it back over the face.");
    return null;
  }
  try {
    const pixels = await createImageBitmap(shown.bitmap, left, top, width, height);
    return await ask({ kind: "find", box, part, pixels }, [pixels]);
  } catch (error) {
    if (image === shown) warn(`The image under the box can't be read: ${error.message}`);
    return null; // Otherwise another image has come.
  }
}

function tellPoints() {
  if ($("coordinates").open && face()?.found) {
    listPoints($("points"), model.landmarks.parts, face().found.points);
  }
}

function draw() {
  const stage = $("stage");
  const density = window.devicePixelRatio;
  const [width, height] = [image?.width ?? 1, image?.height ?? 1];
  const scale = Math.min(stage.clientWidth / width, stage.clientHeight / height);
  canvas.style.width = `${Math.floor(width * scale)}px`;
  canvas.style.height = `${Math.floor(height * scale)}px`;
  canvas.width = Math.floor(width * scale * density);
  canvas.height = Math.floor(height * scale * density);
  if (!image) return drawMeanShape(density);
  paint(context, canvas.width, canvas.height, density);
}

/** The image over the whole context, with the box if `unit`, a css pixel, is given. */
function paint(into, width, height, unit) {
  const scale = width / image.width;
  const view = ([x, y]) => [(x + 0.5) * scale, (y + 0.5) * scale];
  into.imageSmoothingQuality = "high";
  into.drawImage(image.bitmap, 0, 0, width, height);
  if (unit) drawBox(into, view, face().box, width, height, unit);
  for (const [i, { box, found }] of faces.entries()) {
    if (unit && i !== chosen) drawOtherBox(into, view, box, unit);
    if (!found) continue;
    const side = Math.min(found.box[2] - found.box[0], found.box[3] - found.box[1]) * scale;
    const dot = Math.max(side / 150, 1.1 * (unit ?? 1));
    drawPoints(into, view, found.points, found.outputs, model.landmarks.parts, hidden, dot);
  }
}

/** Before there is an image: the mean shape of the training faces. */
function drawMeanShape(density) {
  const size = Math.min(canvas.width, canvas.height);
  const view = ([x, y]) => [
    canvas.width / 2 + (x - 0.5) * size * 0.62,
    canvas.height / 2 + (y - 0.62) * size * 0.66,
  ];
  context.globalAlpha = 0.75;
  drawPoints(context, view, model.landmarks.mean_shape, {}, model.landmarks.parts, hidden, 2 * density);
  context.globalAlpha = 1;
}

// ---------------------------------------------------------------- saving

function save(blob, name) {
  const link = element("a", "", { href: URL.createObjectURL(blob), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

function savePoints() {
  const content = faces
    .filter(({ found }) => found)
    .map(({ score, found }) => ({
      box: found.box,
      score,
      landmarks: found.points,
      ...found.outputs,
    }));
  const text = JSON.stringify([{ image: image.name, faces: content }]);
  save(new Blob([text], { type: "application/json" }), "landmarks.json");
}

async function saveImage() {
  const whole = new OffscreenCanvas(image.width, image.height);
  paint(whole.getContext("2d"), whole.width, whole.height, null);
  save(await whole.convertToBlob({ type: "image/png" }), "landmarks.png");
}

// ---------------------------------------------------------------- events

$("file").addEventListener("change", ({ target }) => openFile(target.files[0]));
$("camera").addEventListener("click", toggleCamera);
$("whole").addEventListener("click", () =>
  useBox([-0.5, -0.5, image.width - 0.5, image.height - 0.5]),
);
$("fit").addEventListener("click", () => {
  if (face().found) useBox(boxAround(face().found.points));
});
$("detect").addEventListener("click", look);
$("save-points").addEventListener("click", savePoints);
$("save-image").addEventListener("click", saveImage);
$("coordinates").addEventListener("toggle", tellPoints);
sides.forEach((input) => input.addEventListener("change", typedBox));
addEventListener("paste", (event) => openFile(event.clipboardData.files[0]));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  openFile(event.dataTransfer.files[0]);
});
new ResizeObserver(() => model && draw()).observe($("stage"));

start().catch((error) => fail(error.message));
