// The section Predict: a form for any model that is served.

import { answerNodes } from "./answer.js";
import { byId, el, setText } from "./dom.js";
import { Input } from "./input.js";

const TIMEOUT = 35_000; // ms; the server itself ends a request after 30 s

export class Form {
  constructor() {
    this.model = byId("form-model");
    this.version = byId("form-version");
    this.send = byId("send");
    this.error = byId("form-error");
    this.answer = byId("answer-body");
    this.inputs = [];
    this.specs = [];
    this.model.addEventListener("change", () => this.#chooseModel());
    this.version.addEventListener("change", () => this.#chooseVersion());
    byId("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
  }

  // Offers the models; typed inputs stay as long as the chosen model does not change.
  offer(specs) {
    this.specs = specs;
    const names = [...new Set(specs.map(({ name }) => name))];
    fillOptions(this.model, names.map((name) => [name, name]));
    this.#chooseModel();
  }

  #chooseModel() {
    const versions = this.specs.filter(({ name }) => name === this.model.value).map(({ version }) => version).reverse();
    fillOptions(this.version, versions.map((version, i) => [version, i || versions.length === 1 ? version : `${version} (newest)`]));
    this.#chooseVersion();
  }

  #chooseVersion() {
    const spec = this.specs.find(({ name, version }) => name === this.model.value && version === this.version.value);
    this.#enable(Boolean(spec));
    const chosen = JSON.stringify(spec ?? null);
    if (chosen === this.chosen || !spec) return;
    this.chosen = chosen;
    setText(byId("form-description"), spec.description);
    setText(this.error, "");
    this.inputs = spec.inputs.filter(({ optional }) => !optional).map((input) => new Input(input));
    byId("form-inputs").replaceChildren(...this.inputs.map(({ fieldset }) => fieldset));
  }

  // A disabled button would lose the focus of whoever pressed it.
  #enable(enabled) {
    this.send.setAttribute("aria-disabled", String(!enabled));
  }

  async #submit() {
    if (this.send.getAttribute("aria-disabled") === "true") return;
    this.#enable(false);
    setText(this.error, "");
    try {
      const texts = await Promise.all(this.inputs.map((input) => input.read()));
      const wrong = texts.indexOf(null);
      if (wrong >= 0) this.inputs[wrong].focus();
      else await this.#ask(texts);
    } finally {
      this.#enable(true);
    }
  }

  async #ask(texts) {
    const tensors = texts.map((text, i) => `${JSON.stringify(this.inputs[i].spec.name)}:${text}`);
    const head = { model: this.model.value, version: this.version.value, request_id: requestId() };
    const body = `${JSON.stringify(head).slice(0, -1)},"inputs":{${tensors.join(",")}}}`;
    const began = performance.now();
    let response, reply;
    try {
      const headers = { "Content-Type": "application/json" };
      response = await fetch("api/predict", { method: "POST", headers, body, signal: AbortSignal.timeout(TIMEOUT) });
      reply = await response.json();
    } catch (error) {
      setText(this.error, response ? `The server answered with HTTP ${response.status}.` : `No response: ${error.message}`);
      return;
    }
    const seconds = (performance.now() - began) / 1e3;
    if (response.ok) this.answer.replaceChildren(...answerNodes(reply, seconds));
    else this.#blame(reply);
  }

  // Shows an error of the server, and the faults of each input beside that input.
  #blame({ code, reason, message, violations }) {
    setText(this.error, `${code} (${reason}): ${message}`);
    this.answer.replaceChildren(el("p", { class: "muted" }, "The request failed."));
    const blamed = this.inputs.filter((input) => {
      const own = violations.filter(({ field }) => input.has(field));
      if (own.length) input.blame(own.map(({ field, description }) => `${field}: ${description}`).join("\n"));
      return own.length;
    });
    blamed[0]?.focus();
  }
}

// Offers [[value, text], ...] and keeps the choice if it is still offered.
function fillOptions(select, options) {
  const offered = JSON.stringify(options);
  if (select.dataset.offered === offered) return;
  select.dataset.offered = offered;
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

function requestId() {
  const bytes = crypto.getRandomValues(new Uint8Array(6));
  return `page-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
