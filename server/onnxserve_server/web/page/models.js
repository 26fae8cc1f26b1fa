// The section Models: a row each, which opens to details of the model; the loads that failed; what batches no more.

import { fillFacts } from "./charts.js";
import { byId, el, format, NONE, setAttribute, setText } from "./dom.js";
import { keyOf } from "./samples.js";

const MINUTE = 60;
const NO_BATCHES = "one request at a time";
const BY_NAME = new Intl.Collator("en", { numeric: true });

// Name, whether narrow windows leave it out, its text, and its key for sorting.
const COLUMNS = [
  { name: "Model", text: (row) => row.model, by: (row) => row.model },
  { name: "Version", wide: true, text: (row) => row.version, by: (row) => Number(row.version) || 0 },
  { name: "State", text: (row) => row.state, by: (row) => row.state },
  { name: "Provider", wide: true, text: (row) => provider(row.spec), by: (row) => provider(row.spec) },
  { name: "Requests/s", number: true, text: (row) => format.number(row.rate), by: (row) => row.rate },
  { name: "p99", number: true, text: (row) => format.seconds(row.p99), by: (row) => row.p99 },
  { name: "Rows/run", number: true, wide: true, text: (row) => format.number(row.rows), by: (row) => row.rows },
  { name: "Waiting", number: true, wide: true, text: (row) => format.whole(row.waiting), by: (row) => row.waiting },
];

export class Models {
  constructor() {
    this.table = byId("model-table");
    this.body = this.table.tBodies[0];
    this.region = byId("model-rows");
    this.filter = byId("filter");
    this.rows = new Map(); // Row by key
    this.sorted = { column: COLUMNS[0], down: false };
    this.heads = COLUMNS.map((column) => {
      const head = el("th", { scope: "col", class: classes(column) }, el("button", { type: "button", click: () => this.#sortBy(column) }, column.name));
      this.table.tHead.rows[0].append(head);
      return head;
    });
    this.filter.addEventListener("input", () => this.#show());
  }

  draw(status, history) {
    const specs = new Map(status.models.map((spec) => [keyOf(spec.name, spec.version), spec]));
    const loads = new Map(status.loads.map((load) => [keyOf(load.model, load.version), load]));
    const span = history && history.over(MINUTE);
    const figures = history ? history.last.models : new Map();
    for (const key of this.rows.keys()) if (!specs.has(key) && !loads.has(key)) this.#remove(key);
    for (const key of new Set([...loads.keys(), ...specs.keys()])) {
      if (!this.rows.has(key)) this.rows.set(key, new Row(key));
      this.rows.get(key).draw(specs.get(key), loads.get(key), span, figures.get(key));
    }
    const failed = status.loads.filter(({ state }) => state === "failed");
    drawFaults("failed", failed, ({ model, version, at, error }) => [keyOf(model, version), format.time(at), error]);
    const stopped = status.models.filter(({ batching }) => batching.stopped);
    drawFaults("stopped", stopped, ({ name, version, batching }) => [keyOf(name, version), NO_BATCHES, batching.reason]);
    this.#show();
  }

  #remove(key) {
    this.rows.get(key).remove();
    this.rows.delete(key);
  }

  #sortBy(column) {
    const { sorted } = this;
    this.sorted = { column, down: sorted.column === column ? !sorted.down : Boolean(column.number) };
    this.#show();
  }

  // Puts the rows in order and shows those that the filter lets pass.
  #show() {
    const words = this.filter.value.toLowerCase().split(/\s+/);
    const { column, down } = this.sorted;
    this.heads.forEach((head, i) => {
      if (COLUMNS[i] === column) setAttribute(head, "aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const rows = [...this.rows.values()].sort((one, other) => (down ? -1 : 1) * compare(column.by(one), column.by(other)) || compare(one.key, other.key));
    let shown = 0;
    let place = this.body.firstChild;
    for (const row of rows) {
      const passes = words.every((word) => row.text.includes(word));
      shown += passes;
      row.show(passes);
      if (row.line === place) place = row.details.nextSibling;
      else this.body.insertBefore(row.line, place).after(row.details);
    }
    setText(byId("model-count"), shown === rows.length ? `${rows.length}` : `${shown} of ${rows.length}`);
    const empty = byId("no-models");
    empty.hidden = shown > 0;
    setText(empty, rows.length ? "No model matches the filter." : "No models yet.");
    const { scrollHeight, clientHeight } = this.region;
    this.region.tabIndex = scrollHeight > clientHeight ? 0 : -1; // so that keys scroll it
  }
}

class Row {
  constructor(key) {
    this.key = key;
    const id = `details-${encodeURIComponent(key)}`;
    this.opener = el("button", { type: "button", class: "opener", "aria-expanded": "false", "aria-controls": id, click: () => this.#toggle() });
    this.cells = COLUMNS.map((column, i) => el("td", { class: classes(column) }, i ? null : this.opener));
    this.line = el("tr", {}, ...this.cells);
    this.figures = el("dl", { class: "facts" });
    this.facts = el("dl", { class: "facts" });
    this.details = el("tr", { class: "details", id, hidden: true }, el("td", { colspan: COLUMNS.length }, this.facts, this.figures));
  }

  draw(spec, load, span, figures) {
    this.spec = spec;
    this.load = load;
    this.model = spec?.name ?? load.model;
    this.version = spec?.version ?? load.version;
    this.state = load?.state ?? "ready";
    this.rate = span && spec ? span.rate(this.key) : null;
    this.p99 = span && span.quantile(this.key, 0.99);
    this.rows = span && span.rows(this.key);
    this.waiting = figures?.queue ?? null;
    this.sequences = figures?.sequences ?? null;
    this.text = `${this.model} ${this.version} ${this.state} ${provider(spec)}`.toLowerCase();
    COLUMNS.forEach((column, i) => setText(i ? this.cells[i] : this.opener, column.text(this)));
    setAttribute(this.cells[2], "class", `${classes(COLUMNS[2])} dot ${this.state}`);
    if (!this.details.hidden) this.#drawDetails();
  }

  show(passes) {
    this.line.hidden = !passes;
    if (!passes && !this.details.hidden) this.#toggle();
  }

  remove() {
    this.line.remove();
    this.details.remove();
  }

  #toggle() {
    this.details.hidden = !this.details.hidden;
    this.opener.setAttribute("aria-expanded", String(!this.details.hidden));
    if (!this.details.hidden) this.#drawDetails();
  }

  #drawDetails() {
    const { spec, load } = this;
    fillFacts(this.facts, [...(spec ? factsOf(spec) : []), ...loadFacts(load)]);
    fillFacts(this.figures, [
      ["requests/s", format.number(this.rate)],
      ["p99", format.seconds(this.p99)],
      ["rows per run", format.number(this.rows)],
      ["rows that wait", format.whole(this.waiting)],
      ...(spec?.stateful ? [["live sequences", format.whole(this.sequences)]] : []),
    ]);
  }
}

function factsOf(spec) {
  const { batching } = spec;
  const missing = spec.requested_providers.filter((one) => !spec.providers.includes(one));
  return [
    ["version", spec.version],
    ...(spec.description ? [["description", spec.description]] : []),
    ["inputs", spec.inputs.map(tensorText).join("\n")],
    ["outputs", spec.outputs.map(tensorText).join("\n")],
    ...(spec.left_out.length ? [["not served", spec.left_out.join("\n")]] : []),
    ...(spec.rules.length ? [["refused", spec.rules.join("\n")]] : []),
    ...(spec.untried ? [["not tried", spec.untried]] : []),
    ["providers", spec.providers.map(shortened).join(", ") + (missing.length ? `\nrequested, but not available: ${missing.map(shortened).join(", ")}` : "")],
    [
      "batching",
      batching.enabled
        ? `up to ${batching.max_rows} rows${batching.max_delay_us ? `, waiting up to ${batching.max_delay_us} µs for others` : ""}; ${format.whole(batching.max_queue_rows)} rows may wait`
        : `off, one request at a time: ${batching.reason}`,
    ],
    ...(batching.rows.reason && !batching.reason.includes(batching.rows.reason) ? [["rows", rowsText(batching.rows)]] : []),
    ["instances, threads", `${spec.instances}, of ${spec.threads} each`],
  ];
}

function rowsText({ rows, reason, node }) {
  return `${rows === "independent" ? "independent (proved)" : rows}${node ? ` because of node ${node}` : ""}: ${reason}`;
}

function loadFacts(load) {
  if (!load) return [];
  const took = `${load.state} since ${format.time(load.at)}`;
  const memory = load.memory_bytes ? `, ${format.bytes(load.memory_bytes)} of memory` : "";
  return [["load", load.state === "ready" ? `${took}, took ${format.seconds(load.seconds)}${memory}` : took], ...(load.error ? [["error", load.error]] : [])];
}

// Lists what is at fault in a section that is hidden without any; `textsOf` returns its name, a remark and the reason.
function drawFaults(id, faults, textsOf) {
  byId(id).hidden = faults.length === 0;
  const texts = faults.map(textsOf);
  const shown = JSON.stringify(texts);
  const list = byId(`${id}-list`);
  if (list.dataset.shown === shown) return;
  list.dataset.shown = shown;
  list.replaceChildren(
    ...texts.map(([name, remark, reason]) => el("li", {}, el("strong", {}, name), el("span", { class: "muted" }, remark), el("p", {}, reason))),
  );
}

export const tensorText = ({ name, data_type: type, shape, any_shape: any, optional }) =>
  `${name}: ${type} ${any ? "[...]" : format.shape(shape)}${optional ? ", optional" : ""}`;

const shortened = (name) => name.replace("ExecutionProvider", "");

const provider = (spec) => (spec ? shortened(spec.providers[0] ?? NONE) : NONE);

const classes = ({ number, wide }) => [number && "number", wide && "wide"].filter(Boolean).join(" ");

// Returns the order of two texts or numbers; null comes first.
function compare(one, other) {
  if (one === other) return 0;
  if (one === null || other === null) return one === null ? -1 : 1;
  return typeof one === "string" ? BY_NAME.compare(one, other) : one - other;
}
