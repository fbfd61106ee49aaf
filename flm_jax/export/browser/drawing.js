// What lies over the image: the box with its handles, and the points by part of the face.

export const HANDLE = 14; // css pixels around a corner or side that still take hold of it

export const css = ([r, g, b], alpha = 1) =>
  `rgb(${[r, g, b].map((value) => Math.round(255 * value)).join(" ")} / ${alpha})`;

/**
 * Draws into a context whose unit is the canvas' own; `view` takes pixels of the image there. A
 * point has its scale around it, and is hollow where it is hidden, if the outputs tell.
 */
export function drawPoints(context, view, points, { scale, visibility }, parts, hidden, dot) {
  context.lineJoin = context.lineCap = "round";
  for (const { group, indices, closed, colour } of parts) {
    if (hidden.has(group)) continue;
    const places = indices.map((i) => view(points[i]));
    context.beginPath();
    places.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (closed) context.closePath();
    context.strokeStyle = css(colour, 0.55);
    context.lineWidth = dot * 0.55;
    context.stroke();
    places.forEach(([x, y], i) => {
      if (scale) {
        const radius = Math.abs(view([scale[indices[i]], 0])[0] - view([0, 0])[0]);
        disc(context, x, y, Math.max(radius, dot), css(colour, 0.14));
      }
      if (visibility && visibility[indices[i]] < 0.5) {
        ring(context, x, y, dot, css(colour));
        return;
      }
      disc(context, x, y, dot * 1.5, "rgb(8 10 16 / 0.55)");
      disc(context, x, y, dot, css(colour));
    });
  }
}

/** The box of a face that is not in hand. */
export function drawOtherBox(context, view, box, unit) {
  const [left, top] = view(box.slice(0, 2));
  const [right, bottom] = view(box.slice(2));
  context.strokeStyle = "rgb(255 255 255 / 0.6)";
  context.lineWidth = unit;
  context.setLineDash([4 * unit, 4 * unit]);
  context.strokeRect(left, top, right - left, bottom - top);
  context.setLineDash([]);
}

/** The box: what is outside is dimmed, corners are heavy, so that they ask to be taken. */
export function drawBox(context, view, box, width, height, unit) {
  const [left, top] = view(box.slice(0, 2));
  const [right, bottom] = view(box.slice(2));
  context.fillStyle = "rgb(6 8 14 / 0.42)";
  context.beginPath();
  context.rect(0, 0, width, height);
  context.rect(left, top, right - left, bottom - top);
  context.fill("evenodd");
  context.strokeStyle = "rgb(255 255 255 / 0.75)";
  context.lineWidth = unit;
  context.strokeRect(left, top, right - left, bottom - top);
  const arm = Math.min(18 * unit, (right - left) / 3, (bottom - top) / 3);
  context.strokeStyle = "#fff";
  context.lineWidth = 3.5 * unit;
  context.lineCap = context.lineJoin = "round";
  for (const [x, y, dx, dy] of [
    [left, top, arm, arm],
    [right, top, -arm, arm],
    [right, bottom, -arm, -arm],
    [left, bottom, arm, -arm],
  ]) {
    context.beginPath();
    context.moveTo(x + dx, y);
    context.lineTo(x, y);
    context.lineTo(x, y + dy);
    context.stroke();
  }
}

/** Which sides of the box a place takes hold of: [x, y], each -1, 0 or 1; null outside of it. */
export function grip([left, top, right, bottom], [x, y], reach) {
  if (x < left - reach || x > right + reach || y < top - reach || y > bottom + reach) return null;
  const side = (value, low, high) => {
    if (Math.min(Math.abs(value - low), Math.abs(value - high)) > reach) return 0;
    return Math.abs(value - low) < Math.abs(value - high) ? -1 : 1;
  };
  return [side(x, left, right), side(y, top, bottom)];
}

/** The box after a drag of [dx, dy] by those sides; at least `least` pixels wide and high. */
export function dragged(box, [sideX, sideY], [dx, dy], least) {
  const moved = [...box];
  if (!sideX && !sideY) return [box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy];
  if (sideX < 0) moved[0] = Math.min(box[0] + dx, box[2] - least);
  if (sideX > 0) moved[2] = Math.max(box[2] + dx, box[0] + least);
  if (sideY < 0) moved[1] = Math.min(box[1] + dy, box[3] - least);
  if (sideY > 0) moved[3] = Math.max(box[3] + dy, box[1] + least);
  return moved;
}

function ring(context, x, y, radius, colour) {
  context.strokeStyle = colour;
  context.lineWidth = radius * 0.6;
  context.beginPath();
  context.arc(x, y, radius * 1.1, 0, 2 * Math.PI);
  context.stroke();
}

function disc(context, x, y, radius, colour) {
  context.fillStyle = colour;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}
