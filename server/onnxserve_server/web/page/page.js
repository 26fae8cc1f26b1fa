// The status page: fetches /api/status every other second while the page is visible, and has each section drawn.

import { byId, format, setAttribute, setText } from "./dom.js";
import { Form } from "./form.js";
import { Models } from "./models.js";
import { History, sampleOf } from "./samples.js";
import { SlowRequests } from "./slow.js";
import { Traffic } from "./traffic.js";

const EVERY = 2000; // ms
const TIMEOUT = 5000; // ms
const NOTICE = 60; // seconds for which a restart is shown

const sections = { traffic: new Traffic(), models: new Models(), slow: new SlowRequests(), form: new Form() };
let history = new History();
let last = null; // the last status
let restarted = null; // when, in Unix time
let lostSince = null; // when the server became unreachable
let timer = null;

async function poll() {
  clearTimeout(timer);
  timer = null;
  let status = null;
  try {
    const response = await fetch("api/status", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
    if (response.ok) status = await response.json();
  } catch {
    // drawLost() shows it
  }
  if (status) draw(status);
  else drawLost();
  if (timer === null && !document.hidden) timer = setTimeout(poll, EVERY);
}

function draw(status) {
  lostSince = null;
  if (last && status.started !== last.started) {
    history = new History(); // its counters start again
    restarted = status.started;
  }
  last = status;
  if (status.metrics) history.push(sampleOf(status));
  const counted = status.metrics ? history : null;
  drawState(status);
  sections.traffic.offer(status.models);
  sections.traffic.draw(counted, status);
  sections.models.draw(status, counted);
  sections.slow.draw(status.slow);
  sections.form.offer(status.models);
}

function drawState({ ready, draining, loads, started, now, version, metrics }) {
  const loading = loads.find(({ state }) => state === "loading");
  if (ready) showState("ready", "ready");
  else if (draining || !loading) showState("draining", loads.length && !loading ? "draining" : "starting");
  else showState("loading", `loading ${loading.model}/${loading.version}`);
  setText(byId("about"), `version ${version}, up for ${format.span(now - started)}`);
  if (restarted !== null && now - restarted < NOTICE) showNotice(`The server was restarted at ${format.time(restarted)}: its figures start again.`);
  else showNotice(metrics ? "" : "No metrics: the server was started with --no-telemetry.");
}

function drawLost() {
  lostSince ??= Date.now() / 1e3;
  showState("unreachable", `server unreachable since ${format.time(lostSince)}`);
}

function showState(state, text) {
  setAttribute(byId("state"), "data-state", state);
  setText(byId("state"), text);
}

function showNotice(notice) {
  setText(byId("notice"), notice);
  byId("notice").hidden = notice === "";
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else poll();
});
poll();
