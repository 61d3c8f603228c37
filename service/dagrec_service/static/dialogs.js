// The two dialogs: the finder of keys, and the composition as JSON.

import * as api from "./api.js";
import { parse } from "./composition.js";
import { make } from "./panel.js";

const get = (id) => document.getElementById(id);
const PAUSE = 120; // milliseconds without a key stroke before the service is asked

/** The searchable list of keys. `add(key, kind)` is called with what was picked. */
export class Finder {
  constructor(add, failed) {
    this.add = add;
    this.failed = failed;
    this.options = [];
    this.place = 0;
    get("search").addEventListener("input", () => this.#later());
    get("search").addEventListener("keydown", (event) => this.#key(event));
    get("own-service").addEventListener("change", () => this.#search());
  }

  open() {
    get("search").value = "";
    this.stale = true;
    get("finder").showModal();
    get("search").focus();
    this.#search();
  }

  #later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#search(), PAUSE);
    this.stale = true;
  }

  async #search() {
    clearTimeout(this.timer);
    this.asked?.abort();
    this.asked = new AbortController();
    const text = get("search").value.trim();
    try {
      this.#show(text, await api.keys(text, this.asked.signal));
    } catch (error) {
      if (error.name === "AbortError") return;
      get("finder").close();
      this.failed(error);
    }
  }

  #show(text, { services, others, more }) {
    this.options = [
      ...services.map((key) => ({ key, kind: "service", about: "service" })),
      ...others.map((key) => ({ key, kind: kindOf(key), about: kindOf(key) })),
    ];
    if (text && !this.options.some((option) => option.key === text)) {
      const kind = get("own-service").checked ? "service" : kindOf(text);
      this.options.push({ key: text, kind, about: `not known to training; as a ${kind} node` });
    }
    get("found").replaceChildren(...this.options.map((option, i) => this.#row(option, i)));
    get("found-more").textContent = more ? `${more} more; type to narrow them down` : "";
    this.stale = false;
    this.#choose(0);
  }

  #row({ key, about }, i) {
    const row = make(
      "li",
      { id: `found-${i}`, role: "option", title: key },
      make("span", { className: "name" }, key),
      make("span", { className: "sub" }, about),
    );
    row.addEventListener("click", () => this.#pick(i));
    return row;
  }

  #choose(place) {
    const rows = [...get("found").children];
    if (!rows.length) return;
    this.place = (place + rows.length) % rows.length;
    rows.forEach((row, i) => row.setAttribute("aria-selected", String(i === this.place)));
    rows[this.place].scrollIntoView({ block: "nearest" });
    get("search").setAttribute("aria-activedescendant", `found-${this.place}`);
  }

  async #key(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in steps) {
      event.preventDefault();
      this.#choose(this.place + steps[event.key]);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (this.stale) await this.#search(); // the list does not show yet what was typed
      this.#pick(this.place);
    }
  }

  #pick(place) {
    const option = this.options[place];
    if (!option || !get("finder").open) return;
    get("finder").close();
    this.add(option.key, option.kind);
  }
}

const kindOf = (key) => (key.startsWith("table_") ? "table" : "data");

/** Import and export. `load(composition, count)` is called with what was read. */
export class JsonDialog {
  constructor(load) {
    this.load = load;
    get("json-load").addEventListener("click", () => this.#read(get("json-text").value));
    get("json-close").addEventListener("click", () => get("json").close());
    get("json-copy").addEventListener("click", () => this.#copy());
    get("json-save").addEventListener("click", () => this.#save());
    get("json-text").addEventListener("input", () => this.#say(""));
    get("json-file").addEventListener("change", async (event) => {
      const [file] = event.target.files;
      event.target.value = "";
      if (file) this.#read(await file.text());
    });
  }

  open(text) {
    get("json-text").value = text;
    this.#say("");
    get("json").showModal();
    get("json-text").focus();
  }

  #say(text) {
    get("json-problem").textContent = text;
  }

  #read(text) {
    try {
      const [composition, count] = parse(text);
      get("json").close();
      this.load(composition, count);
    } catch (error) {
      this.#say(error.message);
    }
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(get("json-text").value);
      get("json-copy").textContent = "Copied";
      setTimeout(() => (get("json-copy").textContent = "Copy"), 1500);
    } catch {
      get("json-text").select(); // without permission, the user copies it themselves
    }
  }

  #save() {
    const url = URL.createObjectURL(new Blob([get("json-text").value], { type: "application/json" }));
    make("a", { href: url, download: "composition.json" }).click();
    URL.revokeObjectURL(url);
  }
}
