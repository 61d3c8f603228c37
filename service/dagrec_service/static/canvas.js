// The drawing: nodes, links, ghosts of the suggestions. It keeps no truth of its own: it draws what it is given.
/* global cytoscape */

import { isService } from "./composition.js";

const ACROSS = 230;
const DOWN = 58;
const LONGEST_LABEL = 26;

/** A key as short as a node needs: the tool of a Galaxy id; of others the end, which tells most. */
export function shortKey(key) {
  const parts = key.split("/");
  const name = parts.length >= 5 && parts[1] === "repos" ? parts[4] : key;
  return name.length <= LONGEST_LABEL ? name : `…${name.slice(1 - LONGEST_LABEL)}`;
}

export const asPercent = (p) => (p < 0.0005 ? "< 0.1 %" : `${+(p * 100).toFixed(1)} %`);

export class Canvas {
  /** `on`: select(id or null), selectLink([source, target]), accept(index), connect(source, target), move(places). */
  constructor(container, on) {
    this.on = on;
    this.cy = cytoscape({
      container,
      style: styles(),
      minZoom: 0.1,
      maxZoom: 2.5,
      boxSelectionEnabled: false,
      selectionType: "single",
      autounselectify: true,
    });
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => this.cy.style(styles()));
    this.#listen();
  }

  #listen() {
    const { cy, on } = this;
    cy.on("tap", (event) => {
      if (event.target === cy) on.select(null);
    });
    cy.on("tap", "node.real", (event) => on.select(event.target.id().slice(2)));
    cy.on("tap", "node.ghost", (event) => on.accept(event.target.data("index")));
    cy.on("tap", "edge.real", (event) => on.selectLink(event.target.data("ends")));
    cy.on("dragfree", "node.real", (event) => {
      on.move(new Map([[event.target.id().slice(2), { ...event.target.position() }]]));
    });
    cy.on("position", "node.real", (event) => {
      if (event.target.hasClass("chosen")) this.#placeHandle(event.target);
    });
    cy.on("drag", "node.handle", (event) => this.#aim(event.target));
    cy.on("free", "node.handle", (event) => this.#release(event.target));
    cy.on("mouseover", "node.ghost, node.real, node.handle, edge.real", () => this.#cursor("pointer"));
    cy.on("mouseout", () => this.#cursor(""));
  }

  #cursor(kind) {
    this.cy.container().style.cursor = kind;
  }

  /** Draw a composition; `selected`: {node} or {link} or null; `unknown`: keys that training never saw. */
  draw(composition, selected, unknown) {
    const { cy } = this;
    cy.batch(() => {
      const wanted = new Set(composition.nodes.map((node) => `r:${node.id}`));
      cy.nodes(".real").filter((node) => !wanted.has(node.id())).remove(); // and its links
      for (const node of composition.nodes) this.#drawNode(node, selected, unknown);
      const links = new Set(composition.links.map(linkId));
      cy.edges(".real").filter((edge) => !links.has(edge.id())).remove();
      for (const link of composition.links) this.#drawLink(link, selected);
    });
    this.#drawHandle(selected?.node);
  }

  #drawNode(node, selected, unknown) {
    const id = `r:${node.id}`;
    const classes = ["real", isService(node) ? "service" : "data"];
    if (selected?.node === node.id) classes.push("chosen");
    if (unknown.has(node.key)) classes.push("unknown");
    const label = shortKey(node.key);
    const found = this.cy.getElementById(id);
    if (found.empty()) {
      const data = { id, label, width: widthOf(label) };
      this.cy.add({ group: "nodes", data, position: { x: node.x, y: node.y }, classes });
      return;
    }
    found.data({ label, width: widthOf(label) });
    found.classes(classes);
    found.position({ x: node.x, y: node.y });
  }

  #drawLink(link, selected) {
    const [source, target] = link;
    const chosen = selected?.link && linkId(selected.link) === linkId(link);
    const classes = chosen ? ["real", "chosen"] : ["real"];
    const found = this.cy.getElementById(linkId(link));
    if (found.nonempty()) {
      found.classes(classes);
      return;
    }
    const data = { id: linkId(link), source: `r:${source}`, target: `r:${target}`, ends: link };
    this.cy.add({ group: "edges", data, classes });
  }

  /** The dot beside the selected node: dragged onto another node, it connects them. */
  #drawHandle(id) {
    const { cy } = this;
    cy.remove(".handle, .aim");
    if (id === undefined) return;
    const node = cy.getElementById(`r:${id}`);
    cy.add([
      { group: "nodes", data: { id: "handle", of: id }, classes: "handle" },
      { group: "edges", data: { id: "aim", source: node.id(), target: "handle" }, classes: "aim" },
    ]);
    this.#placeHandle(node);
  }

  #placeHandle(node) {
    const { x, y } = node.position();
    this.cy.getElementById("handle").position({ x: x + node.width() / 2 + 14, y });
  }

  #under(handle) {
    const { x, y } = handle.position();
    return this.cy.nodes(".real").filter((node) => {
      const box = node.boundingBox({ includeLabels: false });
      return node.id() !== `r:${handle.data("of")}` && x >= box.x1 && x <= box.x2 && y >= box.y1 && y <= box.y2;
    });
  }

  #aim(handle) {
    this.cy.nodes(".target").removeClass("target");
    this.cy.edges(".aim").addClass("shown");
    this.#under(handle).addClass("target");
  }

  #release(handle) {
    const target = this.#under(handle);
    this.cy.nodes(".target").removeClass("target");
    this.cy.edges(".aim").removeClass("shown");
    const source = handle.data("of");
    this.#placeHandle(this.cy.getElementById(`r:${source}`));
    if (target.nonempty()) this.on.connect(source, target.first().id().slice(2));
  }

  /** Show suggestions as ghosts, one for each of [{index, at, service, probability, support}], and the chosen one of them. */
  ghosts(suggestions, chosen) {
    const { cy } = this;
    cy.batch(() => {
      cy.remove(".ghost");
      const boxes = cy.nodes(".real").map((node) => node.boundingBox({ includeLabels: false }));
      for (const at of new Set(suggestions.map((s) => s.at))) {
        const own = suggestions.filter((s) => s.at === at);
        const places = freePlaces(cy.getElementById(`r:${at}`).position(), own.length, boxes);
        own.forEach((suggestion, i) => {
          const { index, service, probability, support } = suggestion;
          const label = `${shortKey(service)}\n${asPercent(probability)} · ${support}×`;
          const id = `g:${index}`;
          const data = { id, index, label, width: widthOf(shortKey(service)), strength: probability };
          cy.add({ group: "nodes", data, position: places[i], classes: "ghost", grabbable: false });
          const edge = { id: `e:${index}`, source: `r:${at}`, target: id, strength: probability };
          cy.add({ group: "edges", data: edge, classes: "ghost" });
        });
      }
    });
    this.choose(chosen);
  }

  choose(index) {
    this.cy.elements(".ghost").removeClass("chosen");
    this.cy.$(`#g\\:${index}, #e\\:${index}`).addClass("chosen");
  }

  /** Where a ghost stands, so that the node that it becomes stands there too. */
  ghostPlace(index) {
    const ghost = this.cy.getElementById(`g:${index}`);
    return ghost.nonempty() ? { ...ghost.position() } : null;
  }

  /** A free place to the right of these nodes; of none, a free place in the middle of what is seen. */
  placeFor(after) {
    const boxes = this.cy.nodes(".real").map((node) => node.boundingBox({ includeLabels: false }));
    const parents = after.map((id) => this.cy.getElementById(`r:${id}`).position());
    if (parents.length) {
      const x = Math.max(...parents.map((p) => p.x));
      const y = parents.reduce((sum, p) => sum + p.y, 0) / parents.length;
      return freePlaces({ x, y }, 1, boxes)[0];
    }
    const { x1, x2, y1, y2 } = this.cy.extent();
    return freePlaces({ x: (x1 + x2) / 2 - ACROSS, y: (y1 + y2) / 2 }, 1, boxes)[0];
  }

  /** Bring what is drawn into view, if any of it is outside. */
  show() {
    const all = this.cy.elements().not(".handle, .aim");
    if (all.empty()) return;
    this.cy.resize();
    const box = all.boundingBox();
    const view = this.cy.extent();
    const inside = box.x1 >= view.x1 && box.x2 <= view.x2 && box.y1 >= view.y1 && box.y2 <= view.y2;
    if (!inside) this.fit();
  }

  fit() {
    const { cy } = this;
    cy.resize();
    cy.fit(cy.elements().not(".handle, .aim"), 48);
    if (cy.zoom() > 1.1) {
      cy.zoom(1.1);
      cy.center(cy.elements().not(".handle, .aim"));
    }
  }
}

const linkId = (link) => `l:${JSON.stringify(link)}`;
const widthOf = (label) => Math.max(84, 26 + 7.4 * label.length);

/** Places in a column right of a node, near its height, where no node stands; from top to bottom. */
function freePlaces(from, count, boxes) {
  const x = from.x + ACROSS;
  const free = ({ y }) =>
    boxes.every((b) => b.x2 < x - 110 || b.x1 > x + 110 || b.y2 < y - 27 || b.y1 > y + 27);
  const places = [];
  const shift = count % 2 ? 0 : 0.5;
  for (let i = 0; places.length < count; i++) {
    const step = i % 2 ? -Math.ceil(i / 2) : i / 2;
    const place = { x, y: from.y + (step + shift) * DOWN };
    if (free(place)) {
      places.push(place);
      boxes.push({ x1: x - 80, x2: x + 80, y1: place.y - 20, y2: place.y + 20 });
    }
  }
  return places.sort((a, b) => a.y - b.y);
}

/** Places for all nodes of a composition, from left to right along its links: id -> {x, y}. */
export function arranged(composition) {
  const elements = [
    ...composition.nodes.map((node) => ({ data: { id: `r:${node.id}`, width: widthOf(shortKey(node.key)) } })),
    ...composition.links.map(([a, b]) => ({ data: { source: `r:${a}`, target: `r:${b}` } })),
  ];
  const cy = cytoscape({
    headless: true,
    styleEnabled: true,
    elements,
    style: [{ selector: "node", style: { width: "data(width)", height: 40 } }],
  });
  cy.layout({ name: "dagre", rankDir: "LR", nodeSep: 24, rankSep: 80, fit: false, animate: false }).run();
  const places = new Map(cy.nodes().map((node) => [node.id().slice(2), { ...node.position() }]));
  cy.destroy();
  return places;
}

function styles() {
  const css = getComputedStyle(document.documentElement);
  const color = (name) => css.getPropertyValue(`--${name}`).trim();
  const font = css.fontFamily;
  const box = {
    shape: "round-rectangle",
    width: "data(width)",
    height: 40,
    label: "data(label)",
    "text-valign": "center",
    "text-halign": "center",
    "font-family": font,
    "font-size": 13,
    "text-wrap": "wrap",
    "text-max-width": 400,
    "border-width": 1.5,
    "overlay-opacity": 0,
  };
  const line = {
    width: 2,
    "curve-style": "straight",
    "source-endpoint": "90deg",
    "target-endpoint": "270deg",
    "target-arrow-shape": "triangle",
    "arrow-scale": 0.9,
    "overlay-opacity": 0,
    "line-color": color("link"),
    "target-arrow-color": color("link"),
  };
  return [
    { selector: "node.real, node.ghost", style: box },
    {
      selector: "node.service",
      style: {
        "background-color": color("service"),
        "border-color": color("service-line"),
        color: color("service-text"),
      },
    },
    {
      selector: "node.data",
      style: {
        shape: "cut-rectangle",
        "background-color": color("data"),
        "border-color": color("data-line"),
        color: color("data-text"),
      },
    },
    { selector: "node.unknown", style: { "border-style": "dashed", "border-color": color("wrong") } },
    { selector: "node.real.chosen", style: { "border-width": 3, "border-color": color("accent") } },
    { selector: "node.target", style: { "border-width": 4, "border-color": color("accent") } },
    { selector: "edge.real", style: line },
    {
      selector: "edge.real.chosen",
      style: { width: 3.5, "line-color": color("accent"), "target-arrow-color": color("accent") },
    },
    {
      selector: "node.ghost",
      style: {
        "background-color": color("ghost"),
        "border-color": color("ghost-line"),
        "border-style": "dashed",
        color: color("ghost-text"),
        "font-size": 12,
      },
    },
    {
      selector: "edge.ghost",
      style: {
        ...line,
        "line-style": "dashed",
        width: "mapData(strength, 0, 1, 1.2, 4)",
        "line-color": color("ghost-line"),
        "target-arrow-color": color("ghost-line"),
      },
    },
    {
      selector: "node.ghost.chosen",
      style: { "border-style": "solid", "border-width": 2.5, "border-color": color("accent") },
    },
    {
      selector: "edge.ghost.chosen",
      style: { "line-color": color("accent"), "target-arrow-color": color("accent") },
    },
    {
      selector: "node.handle",
      style: {
        width: 14,
        height: 14,
        "background-color": color("accent"),
        "border-width": 2,
        "border-color": color("paper"),
        "overlay-opacity": 0,
        "z-index": 10,
      },
    },
    { selector: "edge.aim", style: { ...line, visibility: "hidden", "line-color": color("accent") } },
    { selector: "edge.aim.shown", style: { visibility: "visible" } },
  ];
}
