// One input of the form: JSON, or a picture where the input looks like one.

import { el, format, setText } from "./dom.js";
import { RANGES, takesPictures, tensorOf } from "./image.js";

const MAX_PREFILLED = 1024; // elements
const ITEM_BYTES = { float64: 8, int64: 8, uint64: 8, float32: 4, int32: 4, uint32: 4, float16: 2, bfloat16: 2, int16: 2, uint16: 2 };

export class Input {
  constructor(spec) {
    this.spec = spec;
    this.sizes = spec.shape.map((size) => (typeof size === "number" ? size : 1));
    this.count = this.sizes.reduce((product, size) => product * size, 1);
    const id = `input-${encodeURIComponent(spec.name)}`;
    const prefilled = this.count <= MAX_PREFILLED;
    this.text = el("textarea", {
      id,
      rows: 4,
      spellcheck: "false",
      "aria-label": `${spec.name} as JSON`,
      "aria-describedby": `${id}-error`,
      placeholder: `empty: ${blankName(spec.data_type)} of the shape ${format.shape(this.sizes)}`,
    });
    if (prefilled) this.text.value = nested(this.sizes, blank(spec.data_type));
    this.error = el("p", { class: "error", id: `${id}-error` });
    this.picture = takesPictures(spec) ? new Picture(spec, `${id}-error`, (chosen) => (this.text.hidden = chosen), (message) => this.blame(message)) : null;
    this.fieldset = el(
      "fieldset",
      {},
      el("legend", {}, spec.name, el("code", {}, `${spec.data_type} ${format.shape(spec.shape)}`)),
      this.picture?.drop,
      this.text,
      this.error,
    );
  }

  // Returns the input as the JSON text of a tensor; null, with an error shown, if it is not JSON.
  async read() {
    this.blame("");
    if (this.picture?.file) return this.picture.read();
    const text = this.text.value.trim();
    if (text === "") return this.#blank();
    try {
      JSON.parse(text);
    } catch (error) {
      this.blame(`not valid JSON: ${error.message}`);
      return null;
    }
    return `{"data":${text}}`; // as it was typed: JavaScript would round large integers
  }

  // Shows an error; "" removes it.
  blame(message) {
    setText(this.error, message);
    this.text.setAttribute("aria-invalid", String(message !== ""));
    this.picture?.drop.toggleAttribute("data-invalid", message !== "");
  }

  focus() {
    (this.picture?.file ? this.picture.chooser : this.text).focus();
  }

  // Whether a field that the server names is in this input.
  has(field) {
    const own = `inputs.${this.spec.name}`;
    return field === own || field.startsWith(`${own}.`);
  }

  #blank() {
    const type = this.spec.data_type;
    if (type === "string") return JSON.stringify({ shape: this.sizes, data: Array(this.count).fill("") });
    return JSON.stringify({ shape: this.sizes, base64: toBase64(new Uint8Array(this.count * (ITEM_BYTES[type] ?? 1))) });
  }
}

class Picture {
  constructor(spec, describedBy, onChange, blame) {
    this.spec = spec;
    this.file = null;
    this.onChange = onChange;
    this.blame = blame;
    this.canvas = el("canvas", { width: 1, height: 1, role: "img", "aria-label": "what the model will see", hidden: true });
    this.chooser = el("input", { type: "file", accept: "image/*", "aria-describedby": describedBy, change: () => this.take(this.chooser.files[0] ?? null) });
    this.range = el("select", { change: () => this.#draw() }, ...RANGES.map(({ name }) => el("option", {}, name)));
    this.range.selectedIndex = spec.data_type === "uint8" ? 1 : 0;
    this.inverted = el("input", { type: "checkbox", change: () => this.#draw() });
    this.remove = el("button", { type: "button", class: "plain", hidden: true, click: () => this.take(null) }, "Use JSON instead");
    this.drop = el(
      "div",
      {
        class: "drop",
        dragover: (event) => this.#over(event, true),
        dragleave: (event) => this.#over(event, false),
        drop: (event) => {
          this.#over(event, false);
          this.take(event.dataTransfer.files[0] ?? null);
        },
      },
      this.canvas,
      el("div", { class: "options" }, el("label", {}, "Picture, chosen or dropped here ", this.chooser)),
      el("div", { class: "options" }, el("label", {}, "Values ", this.range), el("label", {}, this.inverted, " inverted"), this.remove),
    );
  }

  async take(file) {
    this.file = file;
    this.canvas.hidden = this.remove.hidden = file === null;
    if (file === null) {
      this.chooser.value = "";
      this.chooser.focus();
    }
    this.blame("");
    this.onChange(file !== null);
    await this.#draw();
  }

  // Returns the picture as the JSON text of a tensor; null, with an error shown, when the browser cannot read it.
  async read() {
    const tensor = await this.#draw();
    return tensor && JSON.stringify({ shape: tensor.shape, base64: toBase64(new Uint8Array(tensor.values.buffer)) });
  }

  async #draw() {
    if (this.file === null) return null;
    try {
      return await tensorOf(this.file, this.spec, RANGES[this.range.selectedIndex], this.inverted.checked, this.canvas);
    } catch {
      this.canvas.hidden = true;
      this.blame(`${this.file.name}: the browser cannot read it as a picture`);
      return null;
    }
  }

  #over(event, over) {
    event.preventDefault();
    this.drop.classList.toggle("over", over);
  }
}

const blank = (type) => (type === "string" ? '""' : type === "bool" ? "false" : "0");

const blankName = (type) => (type === "string" ? "empty strings" : type === "bool" ? "false" : "zeros");

function nested([size, ...rest], value) {
  return size === undefined ? value : `[${Array(size).fill(nested(rest, value)).join(", ")}]`;
}

function toBase64(bytes) {
  const parts = [];
  for (let i = 0; i < bytes.length; i += 0x8000) parts.push(String.fromCharCode(...bytes.subarray(i, i + 0x8000)));
  return btoa(parts.join(""));
}
