// Samples of /api/status, kept for some minutes, and the figures that follow from their differences.

export const KEPT = 300; // seconds
export const ALL = ""; // the key of all models together
const MAX_GAP = 8; // seconds between two samples; beyond it a line has a gap

export const keyOf = (model, version) => `${model}/${version}`;

const COUNTERS = { "onnxserve.model.energy": "energy", "onnxserve.sequences.evicted": "evicted" };
const GAUGES = { "onnxserve.queue.rows": "queue", "onnxserve.sequences.live": "sequences" };
const HISTOGRAMS = {
  "onnxserve.request.duration": "latency",
  "onnxserve.batch.rows": "batch",
};
const PROCESS = {
  "process.memory.usage": "memory",
  "onnxserve.memory.limit": "memoryLimit",
  "onnxserve.cpu.limit": "cpuLimit",
  "process.thread.count": "threads",
  "process.unix.file_descriptor.count": "descriptors",
  "container.memory.usage": "containerMemory",
  "onnxserve.cpu.throttled": "throttled",
  "onnxserve.streams.active": "streams",
  "onnxserve.streams.requests": "streamRequests",
};

// Returns a sample: the figures of each model, those of all together under ALL, and those of the process.
export function sampleOf(status) {
  const metrics = status.metrics;
  const models = new Map([[ALL, nothing()]]);
  const of = (attributes) => {
    const key = keyOf(attributes.model, attributes.version);
    if (!models.has(key)) models.set(key, nothing());
    return [models.get(key), models.get(ALL)];
  };
  const points = (name) => metrics[name]?.points ?? [];
  for (const { attributes, value } of points("onnxserve.requests")) {
    const code = attributes["rpc.response.status_code"];
    for (const figures of of(attributes)) {
      figures.requests += value;
      figures.codes[code] = (figures.codes[code] ?? 0) + value;
    }
  }
  for (const [name, field] of [...Object.entries(COUNTERS), ...Object.entries(GAUGES)])
    for (const { attributes, value } of points(name))
      for (const figures of of(attributes)) figures[field] = (figures[field] ?? 0) + value;
  const bounds = {};
  for (const [name, field] of Object.entries(HISTOGRAMS)) {
    bounds[field] = metrics[name]?.bounds ?? [];
    for (const point of points(name)) for (const figures of of(point.attributes)) figures[field] = added(figures[field], point);
  }
  const process = { cpu: points("process.cpu.time").reduce((sum, { value }) => sum + value, 0) };
  for (const [name, field] of Object.entries(PROCESS)) process[field] = points(name)[0]?.value ?? null;
  return { at: status.now, models, process, bounds };
}

const nothing = () => ({ requests: 0, codes: {}, energy: null, evicted: null, queue: null, sequences: null, latency: null, batch: null });

function added(one, { counts, sum }) {
  return one === null ? { counts, sum } : { counts: one.counts.map((count, i) => count + counts[i]), sum: one.sum + sum };
}

// Samples of one run of the server, the newest last.
export class History {
  constructor() {
    this.samples = [];
  }

  push(sample) {
    if (this.samples.length && sample.at <= this.samples.at(-1).at) this.samples = []; // its clock was set back
    this.samples.push(sample);
    while (this.samples[0].at < sample.at - KEPT - 10) this.samples.shift();
  }

  get last() {
    return this.samples.at(-1);
  }

  // Returns what happened in the last seconds before a sample; null before there are two.
  over(seconds, end = this.samples.length - 1) {
    const to = this.samples[end];
    let start = end;
    while (start > 0 && to.at - this.samples[start].at < seconds) start -= 1;
    return start === end ? null : new Span(this.samples[start], to);
  }

  // Returns [[time, value], ...] with a value of each span of so many seconds; null where there is none.
  series(seconds, value) {
    const drawn = [];
    for (let i = 1; i < this.samples.length; i += 1) {
      const [before, at] = [this.samples[i - 1].at, this.samples[i].at];
      if (at - before > MAX_GAP) drawn.push([(at + before) / 2, null]);
      drawn.push([at, value(this.over(seconds, i), this.samples[i])]);
    }
    return drawn;
  }
}

// The difference of two samples.
export class Span {
  constructor(from, to) {
    this.from = from;
    this.to = to;
    this.seconds = to.at - from.at;
  }

  requests(key) {
    return this.#counter(key, "requests") ?? 0;
  }

  rate(key) {
    return this.requests(key) / this.seconds;
  }

  energy(key) {
    return this.#counter(key, "energy");
  }

  cpu() {
    return (this.to.process.cpu - this.from.process.cpu) / this.seconds;
  }

  // Returns how often each code was answered.
  codes(key) {
    const [before, after] = [this.from.models.get(key)?.codes ?? {}, this.to.models.get(key)?.codes ?? {}];
    return Object.fromEntries(Object.entries(after).map(([code, count]) => [code, count - (before[code] ?? 0)]));
  }

  // Returns the share of requests that failed; null of none.
  failed(key) {
    const requests = this.requests(key);
    return requests ? 1 - (this.codes(key).OK ?? 0) / requests : null;
  }

  // Returns { bounds, counts, total, sum } of a histogram; null when nothing came.
  distribution(key, field) {
    const after = this.to.models.get(key)?.[field];
    if (!after) return null;
    const before = this.from.models.get(key)?.[field];
    const counts = after.counts.map((count, i) => count - (before?.counts[i] ?? 0));
    const total = counts.reduce((sum, count) => sum + count, 0);
    return total > 0 ? { bounds: this.to.bounds[field], counts, total, sum: after.sum - (before?.sum ?? 0) } : null;
  }

  quantile(key, share) {
    return quantile(this.distribution(key, "latency"), share);
  }

  // Returns the mean rows of a run; null when none was.
  rows(key) {
    const distribution = this.distribution(key, "batch");
    return distribution && distribution.sum / distribution.total;
  }

  #counter(key, field) {
    const after = this.to.models.get(key)?.[field] ?? null;
    return after === null ? null : after - (this.from.models.get(key)?.[field] ?? 0);
  }
}

// Returns the value below which a share of a distribution lies, by a straight line within its bucket; null of nothing.
export function quantile(distribution, share) {
  if (distribution === null) return null;
  const { bounds, counts, total } = distribution;
  let left = share * total;
  for (const [i, count] of counts.entries()) {
    if (count > 0 && left <= count) {
      const low = i ? bounds[i - 1] : 0;
      return low + ((bounds[i] ?? low) - low) * (left / count);
    }
    left -= count;
  }
  return bounds.at(-1);
}
