// Elements, and numbers as people read them. Text goes in as text, never as markup: a model's name may hold anything.

const SVG = "http://www.w3.org/2000/svg";

// Returns an element with attributes (functions become listeners, false and null are left out) and children.
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Sets a text only if it has changed: screen readers announce it anew, and a selection in it is lost.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

export function byId(id) {
  return document.getElementById(id);
}

export const NONE = "–";

// Made once: making one takes longer than using it.
const ROUNDING = [0, 1, 2].map((digits) => new Intl.NumberFormat("en", { maximumFractionDigits: digits }));

function rounded(value) {
  return ROUNDING[value >= 100 || value === 0 ? 0 : value >= 10 ? 1 : 2].format(value);
}

// Each accepts null for a missing figure.
export const format = {
  number: (value) => (value === null ? NONE : rounded(value)),
  whole: (value) => (value === null ? NONE : ROUNDING[0].format(value)),
  percent: (share) => (share === null ? NONE : share > 0 && share < 0.001 ? "< 0.1 %" : `${rounded(100 * share)} %`),
  bytes(value) {
    if (value === null) return NONE;
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    const power = value < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(value) / 10));
    return `${rounded(value / 1024 ** power)} ${units[power]}`;
  },
  seconds(value) {
    if (value === null) return NONE;
    if (value < 1e-3) return `${rounded(value * 1e6)} µs`;
    return value < 1 ? `${rounded(value * 1e3)} ms` : `${rounded(value)} s`;
  },
  span(value) {
    if (value < 120) return `${Math.round(value)} s`;
    if (value < 7200) return `${Math.floor(value / 60)} min`;
    return value < 172800 ? `${Math.floor(value / 3600)} h` : `${Math.floor(value / 86400)} days`;
  },
  time: (unix) => new Date(unix * 1e3).toLocaleTimeString("en-GB"),
  shape: (shape) => `[${shape.map((size) => (size === "" ? "?" : size)).join(", ")}]`,
};
