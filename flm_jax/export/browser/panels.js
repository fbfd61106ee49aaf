// The lists beside the image: parts of the face, coordinates, what the network is.

import { css } from "./drawing.js";

export function element(name, text = "", properties = {}) {
  return Object.assign(document.createElement(name), { textContent: text }, properties);
}

/** One row a group with its colour, and a check box that calls `toggle(group, shown)`. */
export function listGroups(into, parts, toggle) {
  const groups = new Map();
  for (const { group, indices, colour } of parts) {
    const count = (groups.get(group)?.count ?? 0) + indices.length;
    groups.set(group, { colour, count });
  }
  for (const [group, { colour, count }] of groups) {
    const check = element("input", "", { type: "checkbox", checked: true });
    check.addEventListener("change", () => toggle(group, check.checked));
    const swatch = element("i");
    swatch.style.background = css(colour);
    const label = element("label");
    label.append(check, swatch, group, element("span", String(count)));
    into.append(label);
  }
}

export function listPoints(into, parts, points) {
  const groupOf = new Map(parts.flatMap(({ group, indices }) => indices.map((i) => [i, group])));
  into.replaceChildren(
    ...points.map(([x, y], i) => {
      const row = element("tr");
      const texts = [String(i), groupOf.get(i), x.toFixed(2), y.toFixed(2)];
      row.append(...texts.map((text) => element("td", text)));
      return row;
    }),
  );
}

export function describeNetwork(into, { input, training, evaluation, comparison }) {
  const settings = ({ name, ...further }) =>
    [name, ...Object.entries(further).map(([key, value]) => `${key} ${value}`)].join(", ");
  const half = comparison["landmarks_fp16.onnx"].max_difference.landmarks;
  const rows = {
    input: `${input.size} × ${input.size} px`,
    backbone: settings(training.backbone),
    head: settings(training.head),
    training: `${training.step.toLocaleString("en")} steps, ${training.loss} loss`,
    NME: evaluation
      ? `${evaluation.nme.toFixed(2)} % on ${evaluation.num_faces} faces (${evaluation.split})`
      : "not evaluated",
    "half precision": `off by ${half.toFixed(3)} px at most`,
  };
  for (const [name, value] of Object.entries(rows)) {
    into.append(element("dt", name), element("dd", value));
  }
}
