// The answer of a model: classes as bars, pictures as pictures, everything else as text; and where the time went.

import { partsLegend, partsOf, splitBar } from "./charts.js";
import { el, format } from "./dom.js";
import { drawValues, layoutOf } from "./image.js";

const MAX_BARS = 10;
const MAX_CLASSES = 1000;
const MAX_ROWS = 4; // of a batch that are drawn
const MAX_NUMBERS = 400;
const MIN_SIDE = 8; // pixels; a smaller output is not drawn as a picture
const ARRAYS = {
  float64: Float64Array, float32: Float32Array, float16: globalThis.Float16Array,
  int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array,
  bool: Uint8Array,
};

// Returns the nodes that show an answer; `seconds` is how long the browser waited for it.
export function answerNodes({ model, version, outputs, receipt, request_id: id }, seconds) {
  return [
    el("p", { class: "muted" }, `${model}/${version}, request ${id}`),
    ...outputs.map((output) =>
      el("div", { class: "output" }, el("h4", {}, output.name, el("code", {}, `${output.data_type} ${format.shape(output.shape)}`)), ...shown(output)),
    ),
    receiptNode(receipt, seconds),
  ];
}

function shown(output) {
  const values = elements(output);
  if (values === null) return [el("p", { class: "muted" }, output.omitted ?? `${output.data_type} cannot be shown here.`)];
  if (output.data_type === "string") return [pre(listed(values, (text) => text))];
  return bars(output, values) ?? picture(output, values) ?? [pre(listed(values, number))];
}

// Returns the elements; null if JavaScript has no type for them.
function elements({ data_type: type, data, base64 }) {
  if (data) return type === "string" ? data : data.map((value) => (typeof value === "string" && type.startsWith("float") ? Number(value) : value));
  if (!base64 || !ARRAYS[type]) return null;
  return new ARRAYS[type](Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)).buffer);
}

// Returns bars for rows of classes: those with labels, and those that look like probabilities.
function bars({ shape, labels, data_type: type }, values) {
  const classes = shape.at(-1);
  const rows = shape.length === 2 ? shape[0] : 1;
  if (shape.length < 1 || shape.length > 2 || classes < 2 || classes > MAX_CLASSES || !type.startsWith("float")) return null;
  const row = (i) => Array.from(values.slice(i * classes, (i + 1) * classes), Number);
  if (labels.length !== classes && !(rows && isDistribution(row(0)))) return null;
  const drawn = Array.from({ length: Math.min(rows, MAX_ROWS) }, (_, i) => barsOf(row(i), labels));
  const left = rows - drawn.length;
  return left > 0 ? [...drawn, el("p", { class: "muted" }, `and ${left} more rows`)] : drawn;
}

const isDistribution = (row) => row.every((value) => value >= 0 && value <= 1.001) && Math.abs(row.reduce((sum, value) => sum + value, 0) - 1) < 0.02;

function barsOf(row, labels) {
  const best = row.map((value, i) => [value, labels[i] ?? `${i}`]).sort(([one], [other]) => other - one).slice(0, MAX_BARS);
  const least = Math.min(0, ...row);
  const greatest = isDistribution(row) ? 1 : Math.max(...row);
  return el(
    "dl",
    { class: "bars" },
    ...best.flatMap(([value, label], i) => {
      const length = el("i");
      length.style.width = `${greatest > least ? (100 * (value - least)) / (greatest - least) : 0}%`;
      const name = i ? "" : "first";
      return [el("dt", { class: name }, label), el("dd", { class: "track", "aria-hidden": "true" }, length), el("dd", { class: name }, number(value))];
    }),
  );
}

function picture({ shape, data_type: type }, values) {
  const layout = shape.length === 3 ? { channels: 1, first: true, height: shape[1], width: shape[2] } : layoutOf(shape);
  if (layout === null || Math.min(layout.height, layout.width) < MIN_SIDE || shape[0] < 1 || !/^(float|uint8)/.test(type)) return null;
  const canvas = el("canvas", { class: "drawn", role: "img", "aria-label": `a picture of ${layout.width} by ${layout.height}` });
  const first = values.slice(0, layout.channels * layout.height * layout.width);
  const [low, high] = drawValues(first, layout, canvas);
  return [canvas, el("p", { class: "muted" }, `values from ${number(low)} to ${number(high)}${shape[0] > 1 ? `, the first of ${shape[0]}` : ""}`)];
}

function receiptNode(receipt, seconds) {
  const parts = partsOf(receipt, seconds);
  const { batch_rows: rows, batch_requests: requests, provider } = receipt;
  return el(
    "div",
    { class: "output" },
    el("h4", {}, "Where the time went", el("code", {}, `${format.seconds(seconds)}, as this browser saw it`)),
    splitBar(parts, seconds),
    el("ul", { class: "legend" }, ...partsLegend(parts)),
    el("p", { class: "muted" }, `ran on ${provider.replace("ExecutionProvider", "")} in a batch of ${rows} rows of ${requests} requests`),
  );
}

const pre = (text) => el("pre", { tabindex: 0 }, text);

function listed(values, form) {
  const text = Array.from(values.slice(0, MAX_NUMBERS), form).join("\n");
  return values.length > MAX_NUMBERS ? `${text}\nand ${format.whole(values.length - MAX_NUMBERS)} more` : text;
}

function number(value) {
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1e-4 && size < 1e7 ? String(Number(value.toPrecision(5))) : value.toExponential(3);
}
