// Charts as inline SVG, drawn at the size they have. Each describes in words what it shows: for screen readers, and in its title.

import { el, format, setAttribute, setText, svg } from "./dom.js";
import { KEPT } from "./samples.js";

const MARGIN = { left: 54, right: 8, top: 8, bottom: 20 };
const LETTER = 6.5; // pixels, about, of the axes' text
const MIN_SPAN = 60; // seconds of the axis of time

class Chart {
  constructor(title) {
    this.note = el("span");
    this.svg = svg("svg", { role: "img" });
    this.legend = el("ul", { class: "legend" });
    this.plot = el("div", { class: "plot" }, this.svg);
    this.title = title;
    this.figure = el("figure", { class: "chart" }, el("figcaption", {}, title, this.note), this.plot, this.legend);
    this.drawn = () => {};
    new ResizeObserver(() => this.drawn()).observe(this.plot);
  }

  get width() {
    return this.plot.clientWidth;
  }

  get height() {
    return this.plot.clientHeight;
  }

  describe(note, words) {
    setText(this.note, note);
    setAttribute(this.svg, "aria-label", `${this.title}: ${words}`);
  }

  // Returns the horizontal lines with their values, and the place of a value.
  scale(largest, form, base = 1) {
    const top = niceAbove(largest, base);
    const y = (value) => this.height - MARGIN.bottom - (value / top) * (this.height - MARGIN.top - MARGIN.bottom);
    const lines = [0, 0.5, 1].flatMap((share) => [
      svg("line", { class: "grid", x1: MARGIN.left, x2: this.width - MARGIN.right, y1: y(share * top), y2: y(share * top) }),
      svg("text", { x: MARGIN.left - 6, y: y(share * top) + 4, "text-anchor": "end" }, form(share * top)),
    ]);
    return { y, lines };
  }

  drawNothing(text) {
    this.drawn = () =>
      this.svg.replaceChildren(svg("text", { class: "nothing", x: this.width / 2, y: this.height / 2, "text-anchor": "middle" }, text));
    this.drawn();
    this.legend.replaceChildren();
    this.describe("", text);
  }
}

// Lines over the last minutes; stacked ones are areas that lie on each other.
export class LineChart extends Chart {
  // `form` formats a value; `base` is the ratio of its units: 1024 for bytes.
  constructor(title, { form, base = 1, stacked = false }) {
    super(title);
    this.form = form;
    this.base = base;
    this.stacked = stacked;
    this.cursorX = null; // where the pointer is, while it is there
    this.plot.addEventListener("pointermove", (event) => this.#point(event.clientX - this.plot.getBoundingClientRect().left));
    this.plot.addEventListener("pointerleave", () => this.#point(null));
  }

  // Draws [{ name, color, points: [[time, value or null], ...] }, ...], all with the same times, and perhaps a limit.
  draw(series, { now, note = "", limit = null } = {}) {
    this.drawn = () => this.#draw(series, now, note, limit);
    this.drawn();
  }

  #point(x) {
    this.cursorX = x;
    this.drawn();
  }

  #draw(series, now, note, limit) {
    const { left, right } = MARGIN;
    const first = series[0].points[0]?.[0] ?? now;
    const span = Math.min(KEPT, Math.max(MIN_SPAN, now - first));
    const x = (time) => Math.max(left, this.width - right - ((now - time) / span) * (this.width - left - right));
    const stacks = this.stacked ? stack(series) : series.map(({ points }) => points.map(([time, value]) => [time, 0, value]));
    const values = stacks.flat().map(([, , top]) => top ?? 0);
    const { y, lines } = this.scale(Math.max(limit ?? 0, ...values), this.form, this.base);
    const shown = this.#shown(series, x);
    this.svg.replaceChildren(
      ...lines,
      ...this.#times(x, now, span),
      ...stacks.flatMap((points, i) => this.#curves(points, series[i].color, x, y)),
      ...(limit === null ? [] : [svg("line", { class: "limit", x1: left, x2: this.width - right, y1: y(limit), y2: y(limit) })]),
      ...(shown.time === null ? [] : [svg("line", { class: "cursor", x1: x(shown.time), x2: x(shown.time), y1: MARGIN.top, y2: this.height - MARGIN.bottom })]),
    );
    this.#fillLegend(series, shown.values);
    const words = series.map(({ name, points }) => `${name} ${this.form(points.at(-1)?.[1] ?? null)}`).join(", ");
    this.describe(shown.time === null ? note : `${format.span(now - shown.time)} ago`, words);
  }

  #times(x, now, span) {
    const text = (ago, anchor, label) => svg("text", { x: x(now - ago), y: this.height - 5, "text-anchor": anchor }, label);
    return [text(span, "start", `${format.span(span)} ago`), text(span / 2, "middle", format.span(span / 2)), text(0, "end", "now")];
  }

  #curves(points, color, x, y) {
    const runs = [];
    for (const point of points) {
      if (point[2] === null) runs.push([]);
      else (runs.at(-1) ?? runs[runs.push([]) - 1]).push(point);
    }
    return runs.filter((run) => run.length).flatMap((run) => {
      const upper = run.map(([time, , top]) => `${x(time).toFixed(1)},${y(top).toFixed(1)}`);
      const line = svg("path", { class: `line s${color}`, d: `M${upper.join("L")}${run.length === 1 ? "h.1" : ""}` });
      if (!this.stacked) return [line];
      const lower = run.map(([time, bottom]) => `${x(time).toFixed(1)},${y(bottom).toFixed(1)}`).reverse();
      return [svg("path", { class: `area s${color}`, "fill-opacity": 0.28, d: `M${[...upper, ...lower].join("L")}Z` }), line];
    });
  }

  // Returns the values of the legend: those under the pointer, else the newest.
  #shown(series, x) {
    const points = series[0]?.points ?? [];
    if (!points.length) return { time: null, values: series.map(() => null) };
    if (this.cursorX === null) return { time: null, values: series.map((one) => one.points.at(-1)[1]) };
    let nearest = 0;
    points.forEach(([time], i) => {
      if (Math.abs(x(time) - this.cursorX) < Math.abs(x(points[nearest][0]) - this.cursorX)) nearest = i;
    });
    return { time: points[nearest][0], values: series.map((one) => one.points[nearest][1]) };
  }

  #fillLegend(series, values) {
    const entries = JSON.stringify(series.map(({ name, color }) => [name, color]));
    if (entries !== this.shownEntries) {
      this.shownEntries = entries;
      this.legend.replaceChildren(...series.map(({ name, color }) => el("li", {}, el("span", { class: `key s${color}` }), el("span", {}, name), el("b"))));
    }
    [...this.legend.children].forEach((item, i) => setText(item.lastChild, this.form(values[i] ?? null)));
  }

  drawNothing(text) {
    this.shownEntries = null;
    super.drawNothing(text);
  }
}

// Bars, one a bucket.
export class Histogram extends Chart {
  constructor(title, { color }) {
    super(title);
    this.color = color;
    this.legend.remove();
  }

  // Draws [{ label, short, count }, ...]; `words` say the same for those who cannot see it.
  draw(bins, { note = "", words }) {
    this.drawn = () => this.#draw(bins);
    this.drawn();
    this.describe(note, words);
  }

  #draw(bins) {
    const total = bins.reduce((sum, { count }) => sum + count, 0);
    const { y, lines } = this.scale(Math.max(...bins.map(({ count }) => count / total)), (share) => `${Math.round(100 * share)} %`);
    const step = (this.width - MARGIN.left - MARGIN.right) / bins.length;
    const every = Math.ceil((LETTER * Math.max(...bins.map(({ short }) => short.length)) + 6) / step);
    const bars = bins.flatMap(({ label, short, count }, i) => {
      const share = count / total;
      const x = MARGIN.left + i * step;
      const gap = Math.min(3, step / 5);
      const bar = svg("rect", { class: `area s${this.color}`, x: x + gap / 2, width: step - gap, y: y(share), height: Math.max(0, y(0) - y(share)), rx: 2 });
      bar.append(svg("title", {}, `${label}: ${format.whole(count)} (${format.percent(share)})`));
      const text = svg("text", { x: x + step / 2, y: this.height - 5, "text-anchor": "middle" }, short);
      return i % every === Math.floor(((bins.length - 1) % every) / 2) ? [bar, text] : [bar];
    });
    this.svg.replaceChildren(...lines, ...bars);
  }
}

// A card with names and figures.
export class Facts {
  constructor(title) {
    this.note = el("span");
    this.list = el("dl", { class: "facts" });
    this.figure = el("figure", { class: "chart" }, el("figcaption", {}, title, this.note), this.list);
  }

  draw(facts, note = "") {
    setText(this.note, note);
    fillFacts(this.list, facts);
  }
}

// Fills a list with [[name, text], ...], touching only what has changed.
export function fillFacts(list, facts) {
  if (list.children.length !== 2 * facts.length) list.replaceChildren(...facts.flatMap(() => [el("dt"), el("dd")]));
  facts.flat().forEach((text, i) => setText(list.children[i], text));
}

export const PARTS = [
  ["queue", 0],
  ["batch wait", 2],
  ["compute", 1],
  ["rest", 5],
];

// Returns seconds of queue, batch wait, compute and the rest, from a receipt and the time of it all.
export function partsOf(receipt, total) {
  const parts = receipt === null ? [0, 0, 0] : [receipt.queue_us, receipt.batch_wait_us, receipt.compute_us].map((us) => us / 1e6);
  return [...parts, Math.max(0, total - parts.reduce((sum, part) => sum + part, 0))];
}

// Returns one bar with a piece for each part; its length is `total` of `longest`.
export function splitBar(parts, longest) {
  let start = 0;
  const pieces = parts.map((part, i) => {
    const piece = svg("rect", { class: `area s${PARTS[i][1]}`, x: `${(100 * start) / longest}%`, width: `${(100 * part) / longest}%`, height: "100%" });
    start += part;
    return piece;
  });
  const words = PARTS.map(([name], i) => `${name} ${format.seconds(parts[i])}`).join(", ");
  return svg("svg", { class: "split", role: "img", "aria-label": words }, svg("title", {}, words), ...pieces);
}

export function partsLegend(parts = null) {
  return PARTS.map(([name, color], i) =>
    el("li", {}, el("span", { class: `key s${color}` }), el("span", {}, name), parts && el("b", {}, format.seconds(parts[i]))),
  );
}

function stack(series) {
  const floor = [];
  return series.map(({ points }) =>
    points.map(([time, value], i) => {
      if (value === null) return [time, 0, null];
      const bottom = floor[i] ?? 0;
      floor[i] = bottom + value;
      return [time, bottom, floor[i]];
    }),
  );
}

function niceAbove(value, base) {
  if (!(value > 0)) return 1;
  const unit = base > 1 ? base ** Math.floor(Math.log(value) / Math.log(base)) : 1;
  const power = unit * 10 ** Math.floor(Math.log10(value / unit));
  return [1, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.999) * power;
}
