// The drawing of nodes, links and suggestions ("ghosts"). It holds no state beyond what it draws.
/* global cytoscape */

import { isService } from "./composition.js";

const COLUMN_WIDTH = 230;
const ROW_HEIGHT = 58;
const MAX_LABEL = 26;

/** Shortens a key to a label: the tool of a Galaxy id, or the end of another key, which is the most specific part. */
export function shortKey(key) {
  const parts = key.split("/");
  const name = parts.length >= 5 && parts[1] === "repos" ? parts[4] : key;
  return name.length <= MAX_LABEL ? name : `…${name.slice(1 - MAX_LABEL)}`;
}

export const asPercent = (p) => (p < 0.0005 ? "< 0.1 %" : `${+(p * 100).toFixed(1)} %`);

export class Canvas {
  /** `on`: select(id or null), selectLink([source, target]), accept(index), connect(source, target),
   * move(positions). */
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

  /** Draws a composition. `selected` is {node}, {link} or null; `unknown` holds the unknown keys. */
  draw(composition, selected, unknown) {
    const { cy } = this;
    cy.batch(() => {
      const nodes = new Set(composition.nodes.map((node) => `r:${node.id}`));
      cy.nodes(".real").filter((node) => !nodes.has(node.id())).remove(); // also removes their links
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
    const element = this.cy.getElementById(id);
    if (element.empty()) {
      const data = { id, label, width: widthOf(label) };
      this.cy.add({ group: "nodes", data, position: { x: node.x, y: node.y }, classes });
      return;
    }
    element.data({ label, width: widthOf(label) });
    element.classes(classes);
    element.position({ x: node.x, y: node.y });
  }

  #drawLink(link, selected) {
    const [source, target] = link;
    const chosen = selected?.link && linkId(selected.link) === linkId(link);
    const classes = chosen ? ["real", "chosen"] : ["real"];
    const element = this.cy.getElementById(linkId(link));
    if (element.nonempty()) {
      element.classes(classes);
      return;
    }
    const data = { id: linkId(link), source: `r:${source}`, target: `r:${target}`, ends: link };
    this.cy.add({ group: "edges", data, classes });
  }

  /** Draws the dot beside the selected node. Dragging it onto another node connects the two. */
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

  #nodesUnder(handle) {
    const { x, y } = handle.position();
    return this.cy.nodes(".real").filter((node) => {
      const box = node.boundingBox({ includeLabels: false });
      return node.id() !== `r:${handle.data("of")}` && x >= box.x1 && x <= box.x2 && y >= box.y1 && y <= box.y2;
    });
  }

  #aim(handle) {
    this.cy.nodes(".target").removeClass("target");
    this.cy.edges(".aim").addClass("shown");
    this.#nodesUnder(handle).addClass("target");
  }

  #release(handle) {
    const target = this.#nodesUnder(handle);
    this.cy.nodes(".target").removeClass("target");
    this.cy.edges(".aim").removeClass("shown");
    const source = handle.data("of");
    this.#placeHandle(this.cy.getElementById(`r:${source}`));
    if (target.nonempty()) this.on.connect(source, target.first().id().slice(2));
  }

  /** Draws a ghost for each suggestion {index, at, service, probability, support}, and marks the chosen one. */
  ghosts(suggestions, chosen) {
    const { cy } = this;
    cy.batch(() => {
      cy.remove(".ghost");
      const boxes = cy.nodes(".real").map((node) => node.boundingBox({ includeLabels: false }));
      for (const at of new Set(suggestions.map((s) => s.at))) {
        const atNode = suggestions.filter((s) => s.at === at);
        const positions = freePositions(cy.getElementById(`r:${at}`).position(), atNode.length, boxes);
        atNode.forEach((suggestion, i) => {
          const { index, service, probability, support } = suggestion;
          const label = `${shortKey(service)}\n${asPercent(probability)} · ${support}×`;
          const id = `g:${index}`;
          const data = { id, index, label, width: widthOf(shortKey(service)), strength: probability };
          cy.add({ group: "nodes", data, position: positions[i], classes: "ghost", grabbable: false });
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

  /** Returns the position of a ghost, or null. The accepted node takes its position. */
  ghostPosition(index) {
    const ghost = this.cy.getElementById(`g:${index}`);
    return ghost.nonempty() ? { ...ghost.position() } : null;
  }

  /** Returns a free position to the right of the nodes `after`; without any, one in the middle of the view. */
  positionAfter(after) {
    const boxes = this.cy.nodes(".real").map((node) => node.boundingBox({ includeLabels: false }));
    const parents = after.map((id) => this.cy.getElementById(`r:${id}`).position());
    if (parents.length) {
      const x = Math.max(...parents.map((p) => p.x));
      const y = parents.reduce((sum, p) => sum + p.y, 0) / parents.length;
      return freePositions({ x, y }, 1, boxes)[0];
    }
    const { x1, x2, y1, y2 } = this.cy.extent();
    return freePositions({ x: (x1 + x2) / 2 - COLUMN_WIDTH, y: (y1 + y2) / 2 }, 1, boxes)[0];
  }

  /** Fits the view to the drawing if a part of it is outside. */
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

/** Returns positions in the column to the right of a node that overlap no box, from top to bottom. */
function freePositions(from, count, boxes) {
  const x = from.x + COLUMN_WIDTH;
  const free = ({ y }) =>
    boxes.every((b) => b.x2 < x - 110 || b.x1 > x + 110 || b.y2 < y - 27 || b.y1 > y + 27);
  const positions = [];
  const shift = count % 2 ? 0 : 0.5;
  for (let i = 0; positions.length < count; i++) {
    const step = i % 2 ? -Math.ceil(i / 2) : i / 2;
    const position = { x, y: from.y + (step + shift) * ROW_HEIGHT };
    if (free(position)) {
      positions.push(position);
      boxes.push({ x1: x - 80, x2: x + 80, y1: position.y - 20, y2: position.y + 20 });
    }
  }
  return positions.sort((a, b) => a.y - b.y);
}

/** Returns positions for all nodes, from left to right along the links: id -> {x, y}. */
export function arrange(composition) {
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
  const positions = new Map(cy.nodes().map((node) => [node.id().slice(2), { ...node.position() }]));
  cy.destroy();
  return positions;
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
