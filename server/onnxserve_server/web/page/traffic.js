// The section Traffic: tiles with the figures of now, and charts of the last minutes.

import { Facts, Histogram, LineChart } from "./charts.js";
import { byId, el, format, setText } from "./dom.js";
import { ALL, keyOf } from "./samples.js";

const NOW = 10; // seconds that a figure of now is taken over
const MINUTE = 60;
const MAX_SERIES = 5;
const OTHER = "_OTHER/_OTHER"; // the server's name for all models that it does not have
const QUANTILES = [["p50", 0.5, 1], ["p90", 0.9, 2], ["p99", 0.99, 3]];

export class Traffic {
  constructor() {
    this.scope = byId("scope");
    this.tiles = byId("tiles");
    this.requests = new LineChart("Requests per second", { form: format.number, stacked: true });
    this.latency = new LineChart("Latency", { form: format.seconds });
    this.latencies = new Histogram("Latency distribution", { color: 1 });
    this.batches = new Histogram("Rows per run", { color: 3 });
    this.queue = new LineChart("Rows that wait", { form: format.number });
    this.codes = new Facts("Answers by code");
    this.cpu = new LineChart("CPUs in use", { form: format.number });
    this.memory = new LineChart("Memory", { form: format.bytes, base: 1024 });
    this.facts = new Facts("Process");
    const charts = [this.requests, this.latency, this.latencies, this.batches, this.queue, this.codes, this.cpu, this.memory, this.facts];
    byId("charts").append(...charts.map(({ figure }) => figure));
  }

  // Offers the models to choose from.
  offer(models) {
    const names = models.map(({ name, version }) => keyOf(name, version));
    const offered = JSON.stringify(names);
    if (offered === this.offered) return;
    this.offered = offered;
    const chosen = this.scope.value;
    this.scope.replaceChildren(el("option", { value: ALL }, "all models"), ...names.map((name) => el("option", { value: name }, name)));
    this.scope.value = names.includes(chosen) ? chosen : ALL;
  }

  // Draws a history; null without metrics.
  draw(history, status) {
    for (const part of [this.tiles, byId("charts"), this.scope.parentNode]) part.hidden = history === null;
    if (history === null) return;
    const key = this.scope.value;
    this.#drawTiles(history, key);
    this.#drawLines(history, key);
    this.#drawDistributions(history.over(MINUTE), key);
    this.#drawFacts(history, key, status);
  }

  #drawTiles(history, key) {
    const [now, minute, sample] = [history.over(NOW), history.over(MINUTE), history.last];
    const failed = minute && minute.failed(key);
    const { process } = sample;
    const tiles = [
      ["Requests/s", format.number(now && now.rate(key)), `last ${NOW} s`],
      ["Failed", format.percent(failed), "last minute", failed > 0],
      ["Latency p50", format.seconds(now && now.quantile(key, 0.5)), `last ${NOW} s`],
      ["Latency p99", format.seconds(now && now.quantile(key, 0.99)), `last ${NOW} s`],
      ["Rows per run", format.number(now && now.rows(key)), `mean, last ${NOW} s`],
      ["Rows that wait", format.whole(sample.models.get(key)?.queue ?? null), "now"],
      ["CPUs in use", format.number(now && now.cpu()), process.cpuLimit && `of ${format.number(process.cpuLimit)}`],
      ["Memory", format.bytes(process.memory), process.memoryLimit && `of ${format.bytes(process.memoryLimit)}`],
    ];
    if (!this.tiles.children.length)
      this.tiles.append(...tiles.map(([name]) => el("div", {}, el("dt", {}, name), el("dd", {}, el("span"), el("small")))));
    tiles.forEach(([, text, more, bad], i) => {
      const figure = this.tiles.children[i].lastChild;
      setText(figure.firstChild, text);
      setText(figure.lastChild, more || "");
      figure.classList.toggle("bad", Boolean(bad));
    });
  }

  #drawLines(history, key) {
    const { at: now, process } = history.last;
    if (history.samples.length < 2) {
      for (const chart of [this.requests, this.latency, this.queue, this.cpu, this.memory]) chart.drawNothing("collecting");
      return;
    }
    const rates = busiest(history, key).map(([name, keys], color) => ({
      name,
      color,
      points: history.series(0.5, (span) => keys.reduce((sum, one) => sum + span.rate(one), 0)),
    }));
    this.requests.draw(rates, { now, note: key === ALL ? "by model" : key });
    const note = `of ${NOW} s each`;
    const quantiles = QUANTILES.map(([name, share, color]) => ({ name, color, points: history.series(NOW, (span) => span.quantile(key, share)) }));
    if (quantiles[0].points.some(([, value]) => value !== null)) this.latency.draw(quantiles, { now, note });
    else this.latency.drawNothing("no request was answered");
    this.queue.draw([{ name: "waiting", color: 0, points: history.series(0.5, (_, sample) => sample.models.get(key)?.queue ?? null) }], { now });
    this.cpu.draw([{ name: "process", color: 4, points: history.series(NOW, (span) => span.cpu()) }], { now, ...limits(process.cpuLimit, format.number) });
    this.memory.draw(
      [{ name: "process", color: 2, points: history.series(0.5, (_, sample) => sample.process.memory) }],
      { now, ...limits(process.memoryLimit, format.bytes, process.memory) },
    );
  }

  #drawDistributions(span, key) {
    const latency = span && span.distribution(key, "latency");
    if (latency) {
      const words = QUANTILES.map(([name, share]) => `${name} ${format.seconds(span.quantile(key, share))}`).join(", ");
      this.latencies.draw(trimmed(latency, (i) => secondsLabels(latency.bounds, i)), { note: "last minute", words });
    } else this.latencies.drawNothing("no request in the last minute");
    const batch = span && span.distribution(key, "batch");
    if (batch) {
      const words = `${format.number(batch.sum / batch.total)} rows on average over ${format.whole(batch.total)} runs`;
      this.batches.draw(trimmed(batch, (i) => rowsLabels(batch.bounds, i)), { note: "last minute", words });
    } else this.batches.drawNothing("no run in the last minute");
  }

  #drawFacts(history, key, status) {
    const { process, models } = history.last;
    const minute = history.over(MINUTE);
    const recent = minute ? minute.codes(key) : {};
    const all = Object.entries(models.get(key)?.codes ?? {}).sort(([, one], [, other]) => other - one);
    this.codes.draw(
      all.length ? all.map(([code, count]) => [code, `${format.whole(count)} (${format.whole(recent[code] ?? null)})`]) : [["none yet", ""]],
      "total (last minute)",
    );
    const figures = models.get(key);
    const facts = [
      ["up for", format.span(status.now - status.started)],
      ["threads", format.whole(process.threads)],
      ["open files and sockets", format.whole(process.descriptors)],
      ["streams open", format.whole(process.streams)],
      ["stream requests in flight", format.whole(process.streamRequests)],
      ["live sequences", format.whole(figures?.sequences ?? null)],
    ];
    if (process.containerMemory !== null) facts.push(["memory of the container", format.bytes(process.containerMemory)]);
    if (process.throttled !== null) facts.push(["throttled by the CPU quota", format.seconds(process.throttled)]);
    const energy = minute && minute.energy(key);
    if (energy !== null) {
      facts.push(["power, last minute", `${format.number(energy / minute.seconds)} W`]);
      const requests = minute.requests(key);
      if (requests) facts.push(["energy per request", `${format.number(energy / requests)} J`]);
    }
    this.facts.draw(facts);
  }
}

// Returns [[name, keys], ...]: the models with most requests, and all others together.
function busiest(history, key) {
  if (key !== ALL) return [[key, [key]]];
  const whole = history.over(Infinity);
  const keys = [...history.last.models.keys()].filter((one) => one !== ALL && whole.requests(one) > 0);
  keys.sort((one, other) => whole.requests(other) - whole.requests(one));
  const [first, others] = [keys.slice(0, MAX_SERIES), keys.slice(MAX_SERIES)];
  if (!keys.length) return [["no requests", [ALL]]];
  return [...first.map((one) => [one === OTHER ? "unknown models" : one, [one]]), ...(others.length ? [[`${others.length} others`, others]] : [])];
}

// Returns a chart's note on a limit, and its line if values come near it: else the chart would show the line alone.
function limits(limit, form, value = limit) {
  if (limit === null) return {};
  return { note: `limit ${form(limit)}`, limit: value > 0.4 * limit ? limit : null };
}

// Returns bins from the first bucket with something in it to the last.
function trimmed({ counts }, labels) {
  const filled = counts.map((count, i) => (count ? i : -1)).filter((i) => i >= 0);
  const [first, last] = [Math.max(0, filled[0] - 1), Math.min(counts.length - 1, filled.at(-1) + 1)];
  return counts.map((count, i) => ({ ...labels(i), count })).slice(first, last + 1);
}

function secondsLabels(bounds, i) {
  if (i === bounds.length) return both(`> ${format.seconds(bounds.at(-1))}`);
  const high = format.seconds(bounds[i]);
  return { label: `${format.seconds(i ? bounds[i - 1] : 0)} to ${high}`, short: `≤ ${high}` };
}

function rowsLabels(bounds, i) {
  if (i === bounds.length) return both(`> ${bounds.at(-1)}`);
  const low = i ? bounds[i - 1] + 1 : 1;
  return both(low >= bounds[i] ? `${bounds[i]}` : `${low}–${bounds[i]}`);
}

const both = (label) => ({ label, short: label });
