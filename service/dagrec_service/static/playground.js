// The page: its state (composition, selection, suggestions) and the actions of its buttons and keys.

import * as api from "./api.js";
import { Canvas, arrange, shortKey } from "./canvas.js";
import { Composition, History, isService, read } from "./composition.js";
import { Finder, JsonDialog } from "./dialogs.js";
import { listen } from "./keys.js";
import {
  chooseSuggestion, hideProblem, make, showComparison, showProblem, showSuggestions, showWhy,
} from "./panel.js";

const GHOSTS = 8; // drawn at a single node; the list shows all suggestions
const GHOSTS_PER_END = 3;
const MAX_GHOSTS = 30;
const COMPARED = 5;

const get = (id) => document.getElementById(id);
const history = new History();
let answers = [];
let suggestions = []; // {index, answer, at, rank, service, probability, support}
let chosen = null; // index of a suggestion
let requestId = null;
let unknown = new Set();
let connecting = null; // id of the node to connect from
let pending = new AbortController(); // aborts the requests in progress

const canvas = new Canvas(get("graph"), {
  select: pick,
  selectLink: (link) => select({ link }),
  accept,
  connect,
  move: (positions) => edit(history.current.composition.move(positions), history.current.selected, null),
});
const finder = new Finder(addNode, showProblem);
const json = new JsonDialog(load);

const nameOf = (id) => history.current.composition.node(id)?.key ?? id;

function showMessage(text) {
  get("status").textContent = text;
  get("hint").textContent = text;
}

// ---- changes -------------------------------------------------------------------------------------------

/** Replaces the composition. A `message` of null keeps the suggestions. */
function edit(composition, selected, message) {
  history.push({ composition, selected });
  if (message === null) {
    draw();
    return;
  }
  showMessage(message);
  refresh();
}

function select(selected) {
  history.current = { ...history.current, selected };
  refresh();
}

/** Handles a click on a node, or on the background (null). */
function pick(id) {
  if (connecting !== null && id !== null) connect(connecting, id);
  else {
    stopConnecting();
    select(id === null ? null : { node: id });
    get("graph").focus({ preventScroll: true });
  }
}

function addNode(key, kind) {
  const { composition, selected } = history.current;
  const after = selected?.node !== undefined && kind === "service" ? [selected.node] : [];
  const [next, id] = composition.add(key, kind, canvas.positionAfter(after), after);
  edit(next, { node: id }, after.length ? `Added ${key} after ${nameOf(after[0])}.` : `Added ${key}.`);
  get("graph").focus({ preventScroll: true });
}

function accept(index) {
  const suggestion = suggestions[index];
  if (suggestion) take(suggestion.answer, suggestion.service, canvas.ghostPosition(index), requestId);
}

function take({ at, model }, service, position, id) {
  const [next, node] = history.current.composition.add(service, "service", position ?? canvas.positionAfter([at]), [at]);
  api.reportTaken(id, { service, at, model });
  edit(next, { node }, `Added ${service} after ${nameOf(at)}. Ctrl+Z undoes it.`);
}

function connect(source, target) {
  stopConnecting();
  try {
    const next = history.current.composition.connect(source, target);
    edit(next, { node: target }, `Connected ${nameOf(source)} to ${nameOf(target)}.`);
  } catch (error) {
    draw();
    showMessage(error.message);
  }
}

function remove() {
  const { composition, selected } = history.current;
  if (selected?.link) {
    const [source, target] = selected.link;
    edit(composition.disconnect(source, target), null, `Removed the link to ${nameOf(target)}.`);
  } else if (selected?.node !== undefined) {
    edit(composition.remove(selected.node), null, `Removed ${nameOf(selected.node)}.`);
  }
}

function load(composition, message) {
  const arranged = composition.move(arrange(composition));
  edit(arranged, { node: arranged.ends()[0] }, message);
  canvas.fit();
}

function moveInHistory(back) {
  stopConnecting();
  if (!(back ? history.undo() : history.redo())) return;
  showMessage(back ? "Undone." : "Redone.");
  refresh();
}

function toggleConnecting() {
  const from = history.current.selected?.node;
  if (connecting !== null) {
    stopConnecting();
    showMessage("");
  } else if (from === undefined) showMessage("First pick the node to connect from.");
  else {
    connecting = from;
    get("connect").setAttribute("aria-pressed", "true");
    showMessage(`Connect ${nameOf(from)} to: click a node, or select it with ← → and press Enter. Esc cancels.`);
  }
}

function stopConnecting() {
  connecting = null;
  get("connect").setAttribute("aria-pressed", "false");
}

// ---- suggestions ---------------------------------------------------------------------------------------

/** Returns the request without a recommender; null if no node is selected. */
function makeRequest(everyEnd) {
  const { composition, selected } = history.current;
  if (!composition.nodes.length || (!everyEnd && selected?.node === undefined)) return null;
  const mask = get("mask").value;
  return {
    composition,
    ...(everyEnd ? {} : { at: selected.node }),
    ...(mask ? { mask } : {}),
    no_repeats: get("no-repeats").checked,
    diversity: Number(get("diversity").value),
  };
}

/** Draws the composition and requests new suggestions. */
function refresh() {
  clearSuggestions();
  draw();
  suggest(pending.signal);
  if (!get("compare-panel").hidden) compare(pending.signal);
}

async function suggest(signal) {
  const everyEnd = get("all-ends").checked;
  const request = makeRequest(everyEnd);
  get("answer").setAttribute("aria-busy", String(request !== null));
  if (request === null) return;
  get("answer-sub").textContent = "Loading…";
  try {
    const model = get("model").value;
    const k = get("k").reportValidity() ? get("k").valueAsNumber : 8;
    const response = await api.predict({ ...request, k, explain: !everyEnd, ...(model ? { model } : {}) }, signal);
    hideProblem();
    show(response);
  } catch (error) {
    if (error.name === "AbortError") return; // a newer request replaces this one
    get("answer-sub").textContent = "No suggestions. See the message above.";
    showProblem(error);
  }
  get("answer").setAttribute("aria-busy", "false");
}

function show(response) {
  answers = response.answers;
  requestId = response.id;
  suggestions = answers
    .flatMap((answer) => answer.predictions.map((prediction) => ({ ...prediction, answer, at: answer.at })))
    .map((suggestion, index) => ({ ...suggestion, index }));
  chosen = suggestions.length ? 0 : null;
  unknown = new Set(answers.flatMap((answer) => answer.unknown));
  get("took").textContent = `${response.took.toFixed(1)} ms`;
  const [first] = answers;
  const where = answers.length === 1 ? nameOf(first.at) : `${answers.length} open ends`;
  get("answer-title").textContent = `Next after ${answers.length === 1 ? shortKey(where) : where}`;
  get("answer-sub").textContent = suggestions.length ? `by ${first.model}` : `${first.model}: no service is left`;
  const names = new Map(history.current.composition.nodes.map((node) => [node.id, node.key]));
  showSuggestions(suggestions, answers, names, accept);
  draw();
  canvas.show();
  const best = suggestions[0];
  get("status").textContent = best
    ? `${suggestions.length} suggestions after ${where}. First: ${best.service}.`
    : `No suggestions after ${where}.`;
}

/** Removes the suggestions and aborts the requests in progress. */
function clearSuggestions() {
  pending.abort();
  pending = new AbortController();
  answers = [];
  suggestions = [];
  chosen = null;
  get("suggestions").replaceChildren();
  get("why").replaceChildren();
  get("took").textContent = "";
  get("answer-title").textContent = "Suggestions";
  get("answer-sub").textContent = "Pick a node to see what comes next.";
}

function choose(index) {
  chosen = index;
  chooseSuggestion(chosen);
  canvas.choose(chosen);
  const suggestion = suggestions[chosen];
  showWhy(suggestion?.answer ?? answers[0], suggestion);
}

/** Draws the current state. */
function draw() {
  const { composition, selected } = history.current;
  canvas.draw(composition, selected, unknown);
  const perNode = answers.length > 1 ? GHOSTS_PER_END : GHOSTS;
  canvas.ghosts(suggestions.filter((s) => s.rank <= perNode).slice(0, MAX_GHOSTS), chosen);
  if (answers.length) choose(chosen);
  get("empty").hidden = composition.nodes.length > 0;
  get("undo").disabled = !history.past.length;
  get("redo").disabled = !history.future.length;
  get("delete").disabled = selected === null;
  get("connect").disabled = selected?.node === undefined;
  for (const id of ["arrange", "export", "clear"]) get(id).disabled = !composition.nodes.length;
}

async function compare(signal) {
  const ends = history.current.composition.ends();
  if (history.current.selected?.node === undefined && ends.length === 1) {
    select({ node: ends[0] }); // which calls compare again
    return;
  }
  const request = makeRequest(false);
  const title = get("compare-title");
  if (request === null) {
    title.textContent = "All recommenders: pick a node to compare their suggestions";
    get("compare-table").replaceChildren();
    return;
  }
  title.textContent = "Loading the answers of all recommenders…";
  try {
    const response = await api.predict({ ...request, k: COMPARED, models: "all" }, signal);
    showComparison(response.answers, COMPARED, (answer, service) => take(answer, service, null, response.id));
    title.textContent = `All recommenders after ${nameOf(request.at)}`;
    canvas.show(); // the table reduces the space for the drawing
  } catch (error) {
    if (error.name === "AbortError") return;
    title.textContent = "All recommenders: error";
    showProblem(error);
  }
}

function toggleCompare(open) {
  get("compare-panel").hidden = !open;
  if (open) compare(pending.signal);
  else get("compare").focus();
}

// ---- keys ----------------------------------------------------------------------------------------------

function moveSelection(by) {
  const { composition, selected } = history.current;
  const order = composition.order();
  if (!order.length) return;
  const place = order.indexOf(selected?.node);
  const id = order[place < 0 ? 0 : Math.min(Math.max(place + by, 0), order.length - 1)];
  select({ node: id });
  get("graph").focus({ preventScroll: true });
}

/** Chooses another suggestion, and moves the focus to the list so that Enter does not press a button. */
function moveChoice(by) {
  if (!suggestions.length) return;
  choose((chosen + by + suggestions.length) % suggestions.length);
  get("suggestions").focus({ preventScroll: true });
}

function enter() {
  const selected = history.current.selected?.node;
  if (connecting !== null && selected !== undefined && selected !== connecting) connect(connecting, selected);
  else if (chosen !== null) accept(chosen);
}

function escape() {
  if (connecting !== null) toggleConnecting();
  else if (!get("compare-panel").hidden) toggleCompare(false);
  else {
    clearSuggestions();
    get("answer").setAttribute("aria-busy", "false");
    get("answer-sub").textContent = "Dismissed. Pick a node to see suggestions.";
    draw();
  }
}

const KEYS = {
  ArrowDown: () => moveChoice(1),
  ArrowUp: () => moveChoice(-1),
  ArrowLeft: () => moveSelection(-1),
  ArrowRight: () => moveSelection(1),
  Enter: enter,
  Escape: escape,
  Delete: remove,
  Backspace: remove,
  a: () => finder.open(),
  c: toggleConnecting,
};

listen(KEYS, moveInHistory);

// ---- start ---------------------------------------------------------------------------------------------

function on(id, type, action) {
  get(id).addEventListener(type, action);
}

on("add", "click", () => finder.open());
on("connect", "click", toggleConnecting);
on("delete", "click", remove);
on("undo", "click", () => moveInHistory(true));
on("redo", "click", () => moveInHistory(false));
on("arrange", "click", () => {
  const { composition, selected } = history.current;
  edit(composition.move(arrange(composition)), selected, "Arranged.");
  canvas.fit();
});
on("open", "click", () => json.open(""));
on("export", "click", () => json.open(JSON.stringify(history.current.composition, null, 2)));
on("clear", "click", () => edit(new Composition(), null, "Removed all nodes. Ctrl+Z undoes it."));
on("compare", "click", () => toggleCompare(true));
on("compare-close", "click", () => toggleCompare(false));
on("problem-close", "click", hideProblem);
on("settings", "submit", (event) => event.preventDefault());
on("settings", "change", refresh);
on("diversity", "input", () => (get("diversity-value").textContent = get("diversity").value));
on("key-form", "submit", (event) => {
  event.preventDefault();
  api.setKey(get("key").value);
  get("key").value = "";
  hideProblem();
  start();
});

/** Loads the models and examples; called again when an API key is entered. */
async function start() {
  draw();
  try {
    const [bundle, examples] = await Promise.all([api.models(), api.examples()]);
    const options = bundle.models.map(({ name, champion }) =>
      make("option", { value: name, selected: champion }, champion ? `${name} (champion)` : name),
    );
    get("model").replaceChildren(...options);
    get("mask").options[0].textContent = `bundle default: ${bundle.mask}`;
    get("bundle").textContent = `Bundle ${bundle.version}`;
    const list = get("example");
    list.replaceChildren(list.options[0], ...examples.map(({ name }) => make("option", { value: name }, name)));
    const loadExample = (name) => {
      const example = examples.find((candidate) => candidate.name === name);
      if (example) load(read(example.composition), `Loaded the example: ${name}.`);
    };
    list.onchange = () => {
      loadExample(list.value);
      list.value = "";
      get("graph").focus();
    };
    get("starts").replaceChildren(
      ...examples.map(({ name }) => make("button", { type: "button", onclick: () => loadExample(name) }, name)),
    );
    if (history.current.composition.nodes.length) refresh();
  } catch (error) {
    showProblem(error);
  }
}

start();
