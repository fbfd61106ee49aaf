// The face detector: boxes from the outputs of CenterFace, as flm_jax/inference/detector.py has it.

/** The network's input from RGBA bytes: RGB, channel by channel, black up to multiples of 32 px. */
export function detectorInput({ data, width, height }) {
  const [wide, high] = [width, height].map((side) => 32 * Math.ceil(side / 32));
  const values = new Float32Array(3 * wide * high);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < 3; c++)
        values[(c * high + y) * wide + x] = data[(y * width + x) * 4 + c];
  return { values, shape: [1, 3, high, wide] };
}

/** The faces, best first: {box, score}, boxes as WFLW's rectangles in pixels of the image. */
export function readFaces([heat, size, offset], scale, { threshold, overlap, stride, margins }) {
  const [rows, columns] = heat.dims.slice(2);
  const cells = rows * columns;
  const found = [];
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const cell = row * columns + column;
      const score = heat.data[cell];
      if (score <= threshold) continue;
      // Centre cell + offset + 1/2 and size exp(s), y before x, both in cells.
      const middle = [column + offset.data[cells + cell] + 0.5, row + offset.data[cell] + 0.5];
      const half = [Math.exp(size.data[cells + cell]) / 2, Math.exp(size.data[cell]) / 2];
      const edge = (axis, sign) => (stride * (middle[axis] + sign * half[axis])) / scale - 0.5;
      found.push({ box: [edge(0, -1), edge(1, -1), edge(0, 1), edge(1, 1)], score });
    }
  found.sort((a, b) => b.score - a.score);
  const kept = [];
  for (const face of found)
    if (kept.every((other) => shared(other.box, face.box) <= overlap)) kept.push(face);
  return kept.map(({ box, score }) => ({ box: withMargins(box, margins), score }));
}

/** Intersection over union. */
function shared(a, b) {
  const side = (axis) => Math.max(0, Math.min(a[axis + 2], b[axis + 2]) - Math.max(a[axis], b[axis]));
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  const both = side(0) * side(1);
  return both / (area(a) + area(b) - both);
}

/** The box widened by shares of its sides: left, top, right, bottom. */
export function withMargins([xmin, ymin, xmax, ymax], [left, top, right, bottom]) {
  const [width, height] = [xmax - xmin, ymax - ymin];
  return [xmin - left * width, ymin - top * height, xmax + right * width, ymax + bottom * height];
}
