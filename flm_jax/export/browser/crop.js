// The crop that the network was trained with, as flm_jax/data/crop.py cuts it in Python.
//
// Points are pixels of the image, and (0, 0) is the centre of its top-left pixel. A canvas counts
// from that pixel's corner instead, so the page adds half a pixel where it draws. A box is
// [xmin, ymin, xmax, ymax]; pixels are {data, width, height} with RGBA bytes, as of ImageData.

// Bilinear interpolation reads 2 x 2 pixels: shrinking by more than this skips some and aliases.
const MAX_SHRINK = 1.5;

// Python's arithmetic, in its order and precision: sides in whole pixels stand just where `floor` or
// `ceil` decides which part of the image is reduced, and another part gives another crop.
const f32 = Math.fround;

/** What the crop shows: the box, widened by pixels, times a factor, perhaps made square. */
export function cropBox(box, { margin, factor, square }) {
  const wide = box.map((side, i) => f32(f32(side) + f32(i < 2 ? -margin : margin)));
  const scaled = around(wide, (side) => f32(f32(factor / 2) * side));
  if (!square) return scaled;
  const longer = Math.max(f32(scaled[2] - scaled[0]), f32(scaled[3] - scaled[1]));
  return around(scaled, () => f32(longer / 2));
}

/** The box about the same middle with half sides that are a function of its sides. */
function around(box, half) {
  const axes = [0, 1].map((axis) => {
    const [low, high] = [box[axis], box[axis + 2]];
    return [f32(f32(low + high) / 2), half(f32(high - low))];
  });
  const less = axes.map(([middle, distance]) => f32(middle - distance));
  return [...less, ...axes.map(([middle, distance]) => f32(middle + distance))];
}

/** The map x = offset + scale * u from the crop's pixels to the image's, in x and in y. */
export function imageFromCrop(box, size) {
  return [0, 1].map((axis) => {
    const inverse = size / (box[axis + 2] - box[axis]);
    const scale = 1 / inverse;
    return { scale, offset: -scale * (-inverse * box[axis] - 0.5) };
  });
}

/** The part of the image that the crop needs: whole pixels {left, top, width, height}. */
export function neededPart(map, size, width, height) {
  const [x, y] = map.map(({ scale, offset }, axis) => {
    // Two (reduced) pixels more on each side, for the interpolation at the edge.
    const spare = 2 * Math.ceil(scale);
    const most = [width, height][axis];
    const clip = (value) => Math.min(Math.max(value, 0), most);
    const low = clip(Math.floor(-0.5 * scale + offset - spare));
    return { low, length: clip(Math.ceil((size - 0.5) * scale + offset + spare)) - low };
  });
  return { left: x.low, top: y.low, width: x.length, height: y.length };
}

/** The crop as RGB bytes. `pixels` are those of `part`; what lies outside of the image is black. */
export function cut(pixels, part, map, size) {
  if (part.width < 1 || part.height < 1) return new Uint8ClampedArray(size * size * 3);
  let [x, y] = map.map(({ scale, offset }, axis) => ({
    scale,
    offset: offset - [part.left, part.top][axis],
  }));
  if (Math.max(x.scale, y.scale) > MAX_SHRINK) {
    const width = reducedLength(part.width, x.scale);
    const height = reducedLength(part.height, y.scale);
    [x, y] = [shrunk(x, part.width / width), shrunk(y, part.height / height)];
    pixels = reduceArea(pixels, width, height);
  }
  return interpolate(pixels, x, y, size);
}

/** The network's input: 8-bit values to [-1, 1]. */
export function normalise(crop) {
  return Float32Array.from(crop, (value) => (value * 2) / 255 - 1);
}

function reducedLength(length, shrink) {
  return shrink > 1 ? Math.max(1, roundHalfToEven(length / shrink)) : length;
}

function shrunk({ scale, offset }, by) {
  return { scale: scale / by, offset: (offset + 0.5) / by - 0.5 };
}

function roundHalfToEven(value) {
  const low = Math.floor(value);
  return value - low === 0.5 ? low + (low % 2) : Math.round(value);
}

/** Each new pixel is the mean of the area that it covers, parts of pixels by their share. */
function reduceArea({ data, width, height }, newWidth, newHeight) {
  const [columns, rows] = [shares(width, newWidth), shares(height, newHeight)];
  const narrow = new Float64Array(newWidth * height * 4);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < newWidth; x++)
      for (const [from, share] of columns[x])
        for (let c = 0; c < 3; c++)
          narrow[(y * newWidth + x) * 4 + c] += share * data[(y * width + from) * 4 + c];
  const reduced = new Float64Array(newWidth * newHeight * 4);
  for (let y = 0; y < newHeight; y++)
    for (const [from, share] of rows[y])
      for (let i = 0; i < newWidth * 4; i++)
        reduced[y * newWidth * 4 + i] += share * narrow[from * newWidth * 4 + i];
  return { data: reduced.map(Math.round), width: newWidth, height: newHeight };
}

/** For each new pixel the old ones that it covers, [index, share]. */
function shares(length, newLength) {
  const scale = length / newLength;
  return Array.from({ length: newLength }, (_, i) => {
    const [start, end] = [i * scale, Math.min((i + 1) * scale, length)];
    const covered = [];
    for (let from = Math.floor(start); from < end; from++) {
      const overlap = Math.min(from + 1, end) - Math.max(from, start);
      if (overlap > 1e-9) covered.push([from, overlap / (end - start)]);
    }
    return covered;
  });
}

function interpolate({ data, width, height }, mapX, mapY, size) {
  const crop = new Uint8ClampedArray(size * size * 3); // rounds to the nearest
  const value = (x, y, c) =>
    x < 0 || y < 0 || x >= width || y >= height ? 0 : data[(y * width + x) * 4 + c];
  for (let v = 0; v < size; v++) {
    const y = mapY.offset + mapY.scale * v;
    const top = Math.floor(y);
    for (let u = 0; u < size; u++) {
      const x = mapX.offset + mapX.scale * u;
      const left = Math.floor(x);
      const [a, b] = [x - left, y - top];
      for (let c = 0; c < 3; c++) {
        const upper = (1 - a) * value(left, top, c) + a * value(left + 1, top, c);
        const lower = (1 - a) * value(left, top + 1, c) + a * value(left + 1, top + 1, c);
        crop[(v * size + u) * 3 + c] = (1 - b) * upper + b * lower;
      }
    }
  }
  return crop;
}
