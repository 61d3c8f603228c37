// The dialogs: the search for keys, and the composition as JSON.

import * as api from "./api.js";
import { documentsOf, isNative, read } from "./composition.js";
import { make } from "./panel.js";

const get = (id) => document.getElementById(id);
const SEARCH_DELAY = 120; // milliseconds after the last key stroke

/** The searchable list of keys. `add(key, kind)` is called with the picked key, `onError(error)` on errors. */
export class Finder {
  constructor(add, onError) {
    this.add = add;
    this.onError = onError;
    this.options = [];
    this.active = 0;
    get("search").addEventListener("input", () => this.#scheduleSearch());
    get("search").addEventListener("keydown", (event) => this.#key(event));
    get("as-service").addEventListener("change", () => this.#search());
  }

  open() {
    get("search").value = "";
    this.stale = true;
    get("finder").showModal();
    get("search").focus();
    this.#search();
  }

  #scheduleSearch() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#search(), SEARCH_DELAY);
    this.stale = true;
  }

  async #search() {
    clearTimeout(this.timer);
    this.request?.abort();
    this.request = new AbortController();
    const text = get("search").value.trim();
    try {
      this.#show(text, await api.keys(text, this.request.signal));
    } catch (error) {
      if (error.name === "AbortError") return;
      get("finder").close();
      this.onError(error);
    }
  }

  #show(text, { services, others, more }) {
    this.options = [
      ...services.map((key) => ({ key, kind: "service", label: "service" })),
      ...others.map((key) => ({ key, kind: kindOf(key), label: kindOf(key) })),
    ];
    if (text && !this.options.some((option) => option.key === text)) {
      const kind = get("as-service").checked ? "service" : kindOf(text);
      this.options.push({ key: text, kind, label: `not in the training data; added as a ${kind} node` });
    }
    get("found").replaceChildren(...this.options.map((option, i) => this.#row(option, i)));
    get("found-more").textContent = more ? `${more} more; type to narrow the list` : "";
    this.stale = false;
    this.#activate(0);
  }

  #row({ key, label }, i) {
    const row = make(
      "li",
      { id: `found-${i}`, role: "option", title: key },
      make("span", { className: "name" }, key),
      make("span", { className: "sub" }, label),
    );
    row.addEventListener("click", () => this.#pick(i));
    return row;
  }

  #activate(index) {
    const rows = [...get("found").children];
    if (!rows.length) return;
    this.active = (index + rows.length) % rows.length;
    rows.forEach((row, i) => row.setAttribute("aria-selected", String(i === this.active)));
    rows[this.active].scrollIntoView({ block: "nearest" });
    get("search").setAttribute("aria-activedescendant", `found-${this.active}`);
  }

  async #key(event) {
    const moves = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in moves) {
      event.preventDefault();
      this.#activate(this.active + moves[event.key]);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (this.stale) await this.#search(); // the list does not match the text yet
      this.#pick(this.active);
    }
  }

  #pick(index) {
    const option = this.options[index];
    if (!option || !get("finder").open) return;
    get("finder").close();
    this.add(option.key, option.kind);
  }
}

const kindOf = (key) => (key.startsWith("table_") ? "table" : "data");

/** Import and export. `load(composition, note)` is called with the imported composition. */
export class JsonDialog {
  constructor(load) {
    this.load = load;
    get("json-load").addEventListener("click", () => this.#read(get("json-text").value));
    get("json-close").addEventListener("click", () => get("json").close());
    get("json-copy").addEventListener("click", () => this.#copy());
    get("json-save").addEventListener("click", () => this.#save());
    get("json-text").addEventListener("input", () => this.#showProblem(""));
    get("json-file").addEventListener("change", async (event) => {
      const [file] = event.target.files;
      event.target.value = "";
      if (file) this.#read(await file.text());
    });
  }

  open(text) {
    get("json-text").value = text;
    this.#showProblem("");
    get("json").showModal();
    get("json-text").focus();
  }

  #showProblem(text) {
    get("json-problem").textContent = text;
  }

  async #read(text) {
    try {
      const documents = documentsOf(text);
      let [document] = documents;
      let note = "Loaded the composition.";
      if (documents.length > 1) note = `Loaded the first of ${documents.length} compositions.`;
      if (!isNative(document)) {
        // Some formats are arrays of nodes.
        const whole = text.trim().startsWith("[") ? documents : document;
        const { composition, format, dropped } = await api.convert(whole);
        const counts = Object.entries(dropped).map(([what, count]) => `${what}: ${count}`);
        note = [`Loaded the composition (${format}).`, ...counts].join(" ");
        document = composition;
      }
      const composition = read(document);
      get("json").close();
      this.load(composition, note);
    } catch (error) {
      this.#showProblem(error.message);
    }
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(get("json-text").value);
      get("json-copy").textContent = "Copied";
      setTimeout(() => (get("json-copy").textContent = "Copy"), 1500);
    } catch {
      get("json-text").select(); // without permission, the user can copy the selected text
    }
  }

  #save() {
    const url = URL.createObjectURL(new Blob([get("json-text").value], { type: "application/json" }));
    make("a", { href: url, download: "composition.json" }).click();
    URL.revokeObjectURL(url);
  }
}
