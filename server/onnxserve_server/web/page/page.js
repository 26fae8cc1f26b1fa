// The status page: asks /api/status every other second while somebody looks, and has each section drawn.

import { byId, format, setAttribute, setText } from "./dom.js";
import { Form } from "./form.js";
import { Models } from "./models.js";
import { History, sampleOf } from "./samples.js";
import { SlowRequests } from "./slow.js";
import { Traffic } from "./traffic.js";

const EVERY = 2000; // ms
const TIMEOUT = 5000; // ms
const NOTICE = 60; // seconds for which a restart is told

const sections = { traffic: new Traffic(), models: new Models(), slow: new SlowRequests(), form: new Form() };
let history = new History();
let last = null; // what was told last
let restarted = null; // when, in Unix time
let lostSince = null; // when the server was first not reached
let timer = null;

async function poll() {
  clearTimeout(timer);
  timer = null;
  let told = null;
  try {
    const response = await fetch("api/status", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
    if (response.ok) told = await response.json();
  } catch {
    // the state says so
  }
  if (told) draw(told);
  else drawLost();
  if (timer === null && !document.hidden) timer = setTimeout(poll, EVERY);
}

function draw(told) {
  lostSince = null;
  if (last && told.started !== last.started) {
    history = new History(); // its counters begin anew
    restarted = told.started;
  }
  last = told;
  if (told.metrics) history.push(sampleOf(told));
  const counted = told.metrics ? history : null;
  drawState(told);
  sections.traffic.offer(told.models);
  sections.traffic.draw(counted, told);
  sections.models.draw(told, counted);
  sections.slow.draw(told.slow);
  sections.form.offer(told.models);
}

function drawState({ ready, draining, loads, started, now, version, metrics }) {
  const loading = loads.find(({ state }) => state === "loading");
  if (ready) tellState("ready", "ready");
  else if (draining || !loading) tellState("draining", loads.length && !loading ? "draining" : "starting");
  else tellState("loading", `loading ${loading.model}/${loading.version}`);
  setText(byId("about"), `version ${version}, up for ${format.span(now - started)}`);
  if (restarted !== null && now - restarted < NOTICE) tell(`The server was restarted at ${format.time(restarted)}: its figures begin anew.`);
  else tell(metrics ? "" : "Nothing is counted: the server was started with --no-telemetry.");
}

function drawLost() {
  lostSince ??= Date.now() / 1e3;
  tellState("unreachable", `cannot reach the server since ${format.time(lostSince)}`);
}

function tellState(state, text) {
  setAttribute(byId("state"), "data-state", state);
  setText(byId("state"), text);
}

function tell(notice) {
  setText(byId("notice"), notice);
  byId("notice").hidden = notice === "";
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else poll();
});
poll();
