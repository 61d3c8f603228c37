// The composition that is drawn: nodes {id, key, kind, raw, x, y} and links [source, target].
// Every change makes a new one, so that undo is to go back to the one before.

const MOST_UNDONE = 500;

export const isService = (node) => node.kind === "service";

export class Composition {
  constructor(nodes = [], links = [], outer = {}) {
    this.nodes = nodes;
    this.links = links;
    this.outer = outer; // what else the imported JSON said of the composition: id, owner, time
  }

  node(id) {
    return this.nodes.find((node) => node.id === id);
  }

  /** Ids of the nodes that nothing follows. */
  ends() {
    const sources = new Set(this.links.map(([source]) => source));
    return this.nodes.filter((node) => !sources.has(node.id)).map((node) => node.id);
  }

  /** Whether a link from source to target would close a cycle. */
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

  /** Ids so that each comes after its parents; null where there is a cycle. */
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

  /** With one more node; `after`: ids of its parents. Returns [composition, id]. */
  add(key, kind, place, after = []) {
    const taken = new Set(this.nodes.map((node) => node.id));
    let number = this.nodes.length + 1;
    while (taken.has(`n${number}`)) number++;
    const id = `n${number}`;
    const node = { id, key, kind, raw: { id, key, kind }, ...place };
    const links = after.map((source) => [source, id]);
    return [new Composition([...this.nodes, node], [...this.links, ...links], this.outer), id];
  }

  /** With a link. Raises Error where there may be none. */
  connect(source, target) {
    if (source === target) throw new Error("A node cannot follow itself.");
    if (this.links.some(([a, b]) => a === source && b === target)) {
      throw new Error("These two are connected already.");
    }
    if (this.closesCycle(source, target)) {
      throw new Error("This link would close a cycle; a composition has none.");
    }
    return new Composition(this.nodes, [...this.links, [source, target]], this.outer);
  }

  without(id) {
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

  /** With nodes at other places: id -> {x, y}. */
  moved(places) {
    const nodes = this.nodes.map((node) => ({ ...node, ...places.get(node.id) }));
    return new Composition(nodes, this.links, this.outer);
  }

  /** Native JSON. Imported nodes keep all that they came with. */
  toJSON() {
    return {
      ...this.outer,
      nodes: this.nodes.map((node) => node.raw),
      links: this.links.map(([source, target]) => ({ source, target })),
    };
  }
}

/** Reads native JSON: one composition, or the first of an array or of JSON lines.
 * Returns [composition, how many there were]. Raises Error in words. */
export function parse(text) {
  if (!text.trim()) throw new Error("There is no text; paste a composition, or choose a file.");
  const documents = documentsOf(text);
  const outer = documents[0];
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
    if (ids.has(id)) throw new Error(`Ids of nodes must differ; ${short(id)} stands there twice.`);
    ids.add(id);
  }
  const links = inner.links.map((link, i) => readLink(link, i, ids));
  const { nodes: _nodes, links: _links, ...rest } = inner;
  const { composition: _inner, ...wrapped } = inner === outer ? {} : outer;
  const composition = new Composition(nodes, links, { ...wrapped, ...rest });
  if (composition.order() === null) throw new Error("The links form a cycle; a composition has none.");
  return [composition, documents.length];
}

function documentsOf(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const lines = text.split("\n").filter((line) => line.trim());
    try {
      if (lines.length > 1) return lines.map((line) => JSON.parse(line));
    } catch {
      // No JSON lines either; what is wrong with the whole text says more.
    }
    throw new Error(`This is not JSON: ${error.message}.`);
  }
  if (!Array.isArray(value)) return [value];
  if (!value.length) throw new Error("The array holds no composition.");
  return value;
}

/** The key is made as the reader makes it: <kind>_<mid, or id>, unless the node gives its own. */
function readNode(raw, i) {
  const what = `Node ${i + 1}`;
  if (!isObject(raw)) throw new Error(`${what} must be an object, found ${short(raw)}.`);
  const id = readId(raw.id, `${what}: "id"`);
  const mid = raw.mid == null ? null : readId(raw.mid, `${what}: "mid"`);
  const key = raw.key == null ? null : readId(raw.key, `${what}: "key"`);
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

function readId(value, what) {
  if ((typeof value === "string" && value) || Number.isInteger(value)) return String(value);
  throw new Error(`${what} must be a text or a whole number, found ${short(value)}.`);
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function short(value) {
  const text = value === undefined ? "nothing" : JSON.stringify(value);
  return text.length <= 60 ? text : `${text.slice(0, 57)}...`;
}

/** What is shown now ({composition, selected}), what was before it, and what was undone. */
export class History {
  constructor() {
    this.now = { composition: new Composition(), selected: null };
    this.past = [];
    this.future = [];
  }

  push(state) {
    this.past = [...this.past.slice(-MOST_UNDONE), this.now];
    this.now = state;
    this.future = [];
  }

  /** Whether there was anything to undo. */
  undo() {
    return this.#move(this.past, this.future);
  }

  redo() {
    return this.#move(this.future, this.past);
  }

  #move(from, to) {
    if (!from.length) return false;
    to.push(this.now);
    this.now = from.pop();
    return true;
  }
}
