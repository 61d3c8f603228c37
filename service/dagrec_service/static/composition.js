// The composition on the page: nodes {id, key, kind, raw, x, y} and links [source, target].
// Compositions are immutable. Each change returns a new one, and undo returns to the previous one.

const MAX_UNDO = 500;

export const isService = (node) => node.kind === "service";

export class Composition {
  constructor(nodes = [], links = [], outer = {}) {
    this.nodes = nodes;
    this.links = links;
    this.outer = outer; // other fields of the imported JSON: id, owner, time
  }

  node(id) {
    return this.nodes.find((node) => node.id === id);
  }

  /** Returns the ids of the nodes without outgoing links. */
  ends() {
    const sources = new Set(this.links.map(([source]) => source));
    return this.nodes.filter((node) => !sources.has(node.id)).map((node) => node.id);
  }

  /** Returns whether a link from source to target would close a cycle. */
  closesCycle(source, target) {
    const next = this.#successors();
    const seen = new Set();
    const open = [target];
    while (open.length) {
      const id = open.pop();
      if (id === source) return true;
      if (seen.has(id)) continue;
      seen.add(id);
      open.push(...(next.get(id) ?? []));
    }
    return false;
  }

  /** Returns the ids in topological order; null if there is a cycle. */
  order() {
    const next = this.#successors();
    const waiting = new Map(this.nodes.map((node) => [node.id, 0]));
    for (const [, target] of this.links) waiting.set(target, waiting.get(target) + 1);
    const order = this.nodes.filter((node) => !waiting.get(node.id)).map((node) => node.id);
    for (let i = 0; i < order.length; i++) {
      for (const target of next.get(order[i]) ?? []) {
        waiting.set(target, waiting.get(target) - 1);
        if (!waiting.get(target)) order.push(target);
      }
    }
    return order.length === this.nodes.length ? order : null;
  }

  #successors() {
    const next = new Map();
    for (const [source, target] of this.links) next.set(source, [...(next.get(source) ?? []), target]);
    return next;
  }

  /** Adds a node after the parents with the ids `after`. Returns [composition, id]. */
  add(key, kind, position, after = []) {
    const taken = new Set(this.nodes.map((node) => node.id));
    let number = this.nodes.length + 1;
    while (taken.has(`n${number}`)) number++;
    const id = `n${number}`;
    const node = { id, key, kind, raw: { id, key, kind }, ...position };
    const links = after.map((source) => [source, id]);
    return [new Composition([...this.nodes, node], [...this.links, ...links], this.outer), id];
  }

  /** Adds a link. Throws Error if the link is not allowed. */
  connect(source, target) {
    if (source === target) throw new Error("A node cannot follow itself.");
    if (this.links.some(([a, b]) => a === source && b === target)) {
      throw new Error("These nodes are already connected.");
    }
    if (this.closesCycle(source, target)) {
      throw new Error("This link would close a cycle; a composition must be acyclic.");
    }
    return new Composition(this.nodes, [...this.links, [source, target]], this.outer);
  }

  remove(id) {
    return new Composition(
      this.nodes.filter((node) => node.id !== id),
      this.links.filter((link) => !link.includes(id)),
      this.outer,
    );
  }

  disconnect(source, target) {
    const links = this.links.filter(([a, b]) => a !== source || b !== target);
    return new Composition(this.nodes, links, this.outer);
  }

  /** Moves nodes to new positions: id -> {x, y}. */
  move(positions) {
    const nodes = this.nodes.map((node) => ({ ...node, ...positions.get(node.id) }));
    return new Composition(nodes, this.links, this.outer);
  }

  /** Returns native JSON. Imported nodes keep all their fields. */
  toJSON() {
    return {
      ...this.outer,
      nodes: this.nodes.map((node) => node.raw),
      links: this.links.map(([source, target]) => ({ source, target })),
    };
  }
}

/** Reads the JSON of a native composition. Throws Error with a readable message. */
export function read(outer) {
  const inner = outer?.composition ?? outer;
  if (!isObject(inner)) throw new Error(`A composition must be an object, found ${short(inner)}.`);
  for (const name of ["nodes", "links"]) {
    if (!Array.isArray(inner[name])) {
      throw new Error(`A composition needs "${name}", an array; found ${short(inner[name])}.`);
    }
  }
  if (!inner.nodes.length) throw new Error("A composition needs at least one node, found none.");
  const nodes = inner.nodes.map(readNode);
  const ids = new Set();
  for (const { id } of nodes) {
    if (ids.has(id)) throw new Error(`Node ids must be unique, found ${short(id)} twice.`);
    ids.add(id);
  }
  const links = inner.links.map((link, i) => readLink(link, i, ids));
  const { nodes: _nodes, links: _links, ...rest } = inner;
  const { composition: _inner, ...wrapped } = inner === outer ? {} : outer;
  const composition = new Composition(nodes, links, { ...wrapped, ...rest });
  if (composition.order() === null) throw new Error("The links form a cycle; a composition must be acyclic.");
  return composition;
}

/** Whether a document is native JSON, which the page reads itself. */
export function isNative(document) {
  const inner = document?.composition ?? document;
  if (!isObject(inner) || "connections" in inner || "edges" in inner) return false;
  return Array.isArray(inner.nodes) && (inner.links ?? []).every(isObject);
}

/** The documents of a text: those of an array or of JSON lines, or the only one. Throws Error. */
export function documentsOf(text) {
  if (!text.trim()) throw new Error("The text is empty; paste a composition, or choose a file.");
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const lines = text.split("\n").filter((line) => line.trim());
    try {
      if (lines.length > 1) return lines.map((line) => JSON.parse(line));
    } catch {
      // Not JSON lines either: the error of the whole text is more helpful.
    }
    throw new Error(`This is not JSON: ${error.message}.`);
  }
  if (!Array.isArray(value)) return [value];
  if (!value.length) throw new Error("The array is empty; it must hold a composition.");
  return value;
}

/** Derives the key as the reader of the library does: <kind>_<mid or id>, unless the node has a key. */
function readNode(raw, i) {
  const name = `Node ${i + 1}`;
  if (!isObject(raw)) throw new Error(`${name} must be an object, found ${short(raw)}.`);
  const id = readId(raw.id, `${name}: "id"`);
  const mid = raw.mid == null ? null : readId(raw.mid, `${name}: "mid"`);
  const key = raw.key == null ? null : readId(raw.key, `${name}: "key"`);
  const kind = raw.kind ?? (key === null && mid === null ? "table" : "service");
  return { id, key: key ?? `${kind}_${mid ?? id}`, kind, raw };
}

function readLink(raw, i, ids) {
  if (!isObject(raw)) throw new Error(`Link ${i + 1} must be an object, found ${short(raw)}.`);
  return ["source", "target"].map((end) => {
    const id = readId(raw[end], `Link ${i + 1}: "${end}"`);
    if (!ids.has(id)) throw new Error(`Link ${i + 1}: "${end}" must be the id of a node, found ${short(id)}.`);
    return id;
  });
}

function readId(value, name) {
  if ((typeof value === "string" && value) || Number.isInteger(value)) return String(value);
  throw new Error(`${name} must be a string or an integer, found ${short(value)}.`);
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function short(value) {
  const text = value === undefined ? "nothing" : JSON.stringify(value);
  return text.length <= 60 ? text : `${text.slice(0, 57)}...`;
}

/** The current state ({composition, selected}), the states before it, and the undone states. */
export class History {
  constructor() {
    this.current = { composition: new Composition(), selected: null };
    this.past = [];
    this.future = [];
  }

  push(state) {
    this.past = [...this.past.slice(-MAX_UNDO), this.current];
    this.current = state;
    this.future = [];
  }

  /** Returns whether there was a state to return to. */
  undo() {
    return this.#move(this.past, this.future);
  }

  redo() {
    return this.#move(this.future, this.past);
  }

  #move(from, to) {
    if (!from.length) return false;
    to.push(this.current);
    this.current = from.pop();
    return true;
  }
}
