// The section Slow requests: where the time of the slowest ones went.

import { partsLegend, partsOf, splitBar } from "./charts.js";
import { byId, el, format } from "./dom.js";
import { keyOf } from "./samples.js";

export class SlowRequests {
  constructor() {
    this.body = byId("slow-table").tBodies[0];
    byId("slow-legend").append(...partsLegend());
  }

  draw(slow) {
    const shown = JSON.stringify(slow);
    if (shown === this.shown) return;
    this.shown = shown;
    byId("slow-table").hidden = byId("slow-legend").hidden = slow.length === 0;
    byId("no-slow").hidden = slow.length > 0;
    const longest = Math.max(...slow.map(({ seconds }) => seconds));
    this.body.replaceChildren(...slow.map((request) => row(request, longest)));
  }
}

function row({ time, model, version, method, code, seconds, receipt, request_id: id }, longest) {
  const failed = code === "OK" ? null : el("span", { class: "codes" }, ` ${code}`);
  const batch = receipt ? `${receipt.batch_rows} rows in the run` : "";
  return el(
    "tr",
    {},
    el("td", { class: "moment" }, format.time(time)),
    el("td", {}, keyOf(model, version), failed),
    el("td", { class: "wide" }, el("code", {}, id || "no id"), el("small", {}, [method.split("/").at(-1), batch].filter(Boolean).join(", "))),
    el("td", {}, splitBar(partsOf(receipt, seconds), longest)),
    el("td", { class: "number" }, format.seconds(seconds)),
  );
}
