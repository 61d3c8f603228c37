// The page: what is drawn, what is selected, what was suggested; and what each click and key does to it.

import * as api from "./api.js";
import { Canvas, arranged, shortKey } from "./canvas.js";
import { Composition, History, isService, parse } from "./composition.js";
import { Finder, JsonDialog } from "./dialogs.js";
import { listen } from "./keys.js";
import {
  chooseSuggestion, hideProblem, make, showComparison, showProblem, showSuggestions, showWhy,
} from "./panel.js";

const GHOSTS = 8; // shown at one node; the list has them all
const GHOSTS_OF_AN_END = 3;
const MOST_GHOSTS = 30;
const COMPARED = 5;

const get = (id) => document.getElementById(id);
const history = new History();
let answers = [];
let suggestions = []; // {index, answer, at, rank, service, probability, support}
let chosen = null; // index of a suggestion
let requestId = null;
let unknown = new Set();
let connecting = null; // id of the node to connect from
let asked = new AbortController();

const canvas = new Canvas(get("graph"), {
  select: pick,
  selectLink: (link) => select({ link }),
  accept,
  connect,
  move: (places) => edit(history.now.composition.moved(places), history.now.selected, null),
});
const finder = new Finder(addNode, showProblem);
const json = new JsonDialog((composition, count) => {
  load(composition, count > 1 ? `Loaded the first of ${count} compositions.` : "Loaded the composition.");
});

const nameOf = (id) => history.now.composition.node(id)?.key ?? id;

function say(text) {
  get("status").textContent = text;
  get("hint").textContent = text;
}

// ---- changes -------------------------------------------------------------------------------------------

/** Take another composition; what is said is null where suggestions stay as they are. */
function edit(composition, selected, said) {
  history.push({ composition, selected });
  if (said === null) {
    draw();
    return;
  }
  say(said);
  refresh();
}

function select(selected) {
  history.now = { ...history.now, selected };
  refresh();
}

/** A click on a node, or beside all. */
function pick(id) {
  if (connecting !== null && id !== null) connect(connecting, id);
  else {
    stopConnecting();
    select(id === null ? null : { node: id });
    get("graph").focus({ preventScroll: true });
  }
}

function addNode(key, kind) {
  const { composition, selected } = history.now;
  const after = selected?.node !== undefined && kind === "service" ? [selected.node] : [];
  const [next, id] = composition.add(key, kind, canvas.placeFor(after), after);
  edit(next, { node: id }, after.length ? `Added ${key} after ${nameOf(after[0])}.` : `Added ${key}.`);
  get("graph").focus({ preventScroll: true });
}

function accept(index) {
  const suggestion = suggestions[index];
  if (suggestion) take(suggestion.answer, suggestion.service, canvas.ghostPlace(index), requestId);
}

function take({ at, model }, service, place, id) {
  const [next, node] = history.now.composition.add(service, "service", place ?? canvas.placeFor([at]), [at]);
  api.taken(id, { service, at, model });
  edit(next, { node }, `Added ${service} after ${nameOf(at)}. Ctrl+Z undoes it.`);
}

function connect(source, target) {
  stopConnecting();
  try {
    const next = history.now.composition.connect(source, target);
    edit(next, { node: target }, `Connected ${nameOf(source)} to ${nameOf(target)}.`);
  } catch (error) {
    draw();
    say(error.message);
  }
}

function remove() {
  const { composition, selected } = history.now;
  if (selected?.link) {
    const [source, target] = selected.link;
    edit(composition.disconnect(source, target), null, `Removed the link to ${nameOf(target)}.`);
  } else if (selected?.node !== undefined) {
    edit(composition.without(selected.node), null, `Removed ${nameOf(selected.node)}.`);
  }
}

function load(composition, said) {
  const placed = composition.moved(arranged(composition));
  edit(placed, { node: placed.ends()[0] }, said);
  canvas.fit();
}

function step(back) {
  stopConnecting();
  if (!(back ? history.undo() : history.redo())) return;
  say(back ? "Undone." : "Done again.");
  refresh();
}

function toggleConnecting() {
  const from = history.now.selected?.node;
  if (connecting !== null) {
    stopConnecting();
    say("");
  } else if (from === undefined) say("Pick the node to connect from first.");
  else {
    connecting = from;
    get("connect").setAttribute("aria-pressed", "true");
    say(`Connect ${nameOf(from)} to: click a node, or go to it with ← → and press Enter. Esc cancels.`);
  }
}

function stopConnecting() {
  connecting = null;
  get("connect").setAttribute("aria-pressed", "false");
}

// ---- suggestions ---------------------------------------------------------------------------------------

/** What the service is asked, but for the recommender; null where nothing can be. */
function question(everyEnd) {
  const { composition, selected } = history.now;
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

/** Draw, and ask anew. */
function refresh() {
  forget();
  draw();
  suggest(asked.signal);
  if (!get("compare-panel").hidden) compare(asked.signal);
}

async function suggest(signal) {
  const everyEnd = get("all-ends").checked;
  const request = question(everyEnd);
  get("answer").setAttribute("aria-busy", String(request !== null));
  if (request === null) return;
  get("answer-sub").textContent = "Asking…";
  try {
    const model = get("model").value;
    const k = get("k").reportValidity() ? get("k").valueAsNumber : 8;
    const found = await api.predict({ ...request, k, explain: !everyEnd, ...(model ? { model } : {}) }, signal);
    hideProblem();
    show(found);
  } catch (error) {
    if (error.name === "AbortError") return; // the next question is under way
    get("answer-sub").textContent = "No suggestions: the service refused. See the message above.";
    showProblem(error);
  }
  get("answer").setAttribute("aria-busy", "false");
}

function show(found) {
  answers = found.answers;
  requestId = found.id;
  suggestions = answers
    .flatMap((answer) => answer.predictions.map((prediction) => ({ ...prediction, answer, at: answer.at })))
    .map((suggestion, index) => ({ ...suggestion, index }));
  chosen = suggestions.length ? 0 : null;
  unknown = new Set(answers.flatMap((answer) => answer.unknown));
  get("took").textContent = `${found.took.toFixed(1)} ms`;
  const [first] = answers;
  const where = answers.length === 1 ? nameOf(first.at) : `${answers.length} open ends`;
  get("answer-title").textContent = `Next after ${answers.length === 1 ? shortKey(where) : where}`;
  get("answer-sub").textContent = suggestions.length ? `by ${first.model}` : `${first.model}: no service is left`;
  const names = new Map(history.now.composition.nodes.map((node) => [node.id, node.key]));
  showSuggestions(suggestions, answers, names, accept);
  draw();
  canvas.show();
  const best = suggestions[0];
  get("status").textContent = best
    ? `${suggestions.length} suggestions after ${where}. First: ${best.service}.`
    : `No suggestions after ${where}.`;
}

/** No suggestions, and none under way. */
function forget() {
  asked.abort();
  asked = new AbortController();
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

/** Draw everything as it is now. */
function draw() {
  const { composition, selected } = history.now;
  canvas.draw(composition, selected, unknown);
  const most = answers.length > 1 ? GHOSTS_OF_AN_END : GHOSTS;
  canvas.ghosts(suggestions.filter((s) => s.rank <= most).slice(0, MOST_GHOSTS), chosen);
  if (answers.length) choose(chosen);
  get("empty").hidden = composition.nodes.length > 0;
  get("undo").disabled = !history.past.length;
  get("redo").disabled = !history.future.length;
  get("delete").disabled = selected === null;
  get("connect").disabled = selected?.node === undefined;
  for (const id of ["arrange", "export", "clear"]) get(id).disabled = !composition.nodes.length;
}

async function compare(signal) {
  const ends = history.now.composition.ends();
  if (history.now.selected?.node === undefined && ends.length === 1) {
    select({ node: ends[0] }); // which asks again
    return;
  }
  const request = question(false);
  const title = get("compare-title");
  if (request === null) {
    title.textContent = "All recommenders: pick a node to compare what they suggest";
    get("compare-table").replaceChildren();
    return;
  }
  title.textContent = "Asking all recommenders…";
  try {
    const found = await api.predict({ ...request, k: COMPARED, models: "all" }, signal);
    showComparison(found.answers, COMPARED, (answer, service) => take(answer, service, null, found.id));
    title.textContent = `All recommenders after ${nameOf(request.at)}`;
    canvas.show(); // the table took its room
  } catch (error) {
    if (error.name === "AbortError") return;
    title.textContent = "All recommenders: refused";
    showProblem(error);
  }
}

function toggleCompare(open) {
  get("compare-panel").hidden = !open;
  if (open) compare(asked.signal);
  else get("compare").focus();
}

// ---- keys ----------------------------------------------------------------------------------------------

function walk(by) {
  const { composition, selected } = history.now;
  const order = composition.order();
  if (!order.length) return;
  const place = order.indexOf(selected?.node);
  const id = order[place < 0 ? 0 : Math.min(Math.max(place + by, 0), order.length - 1)];
  select({ node: id });
  get("graph").focus({ preventScroll: true });
}

/** Choose the next suggestion; the focus goes along, so that Enter is for it and for no button. */
function turn(by) {
  if (!suggestions.length) return;
  choose((chosen + by + suggestions.length) % suggestions.length);
  get("suggestions").focus({ preventScroll: true });
}

function enter() {
  const here = history.now.selected?.node;
  if (connecting !== null && here !== undefined && here !== connecting) connect(connecting, here);
  else if (chosen !== null) accept(chosen);
}

function escape() {
  if (connecting !== null) toggleConnecting();
  else if (!get("compare-panel").hidden) toggleCompare(false);
  else {
    forget();
    get("answer").setAttribute("aria-busy", "false");
    get("answer-sub").textContent = "Dismissed. Pick a node to ask again.";
    draw();
  }
}

const KEYS = {
  ArrowDown: () => turn(1),
  ArrowUp: () => turn(-1),
  ArrowLeft: () => walk(-1),
  ArrowRight: () => walk(1),
  Enter: enter,
  Escape: escape,
  Delete: remove,
  Backspace: remove,
  a: () => finder.open(),
  c: toggleConnecting,
};

listen(KEYS, step);

// ---- start ---------------------------------------------------------------------------------------------

function on(id, type, act) {
  get(id).addEventListener(type, act);
}

on("add", "click", () => finder.open());
on("connect", "click", toggleConnecting);
on("delete", "click", remove);
on("undo", "click", () => step(true));
on("redo", "click", () => step(false));
on("arrange", "click", () => {
  const { composition, selected } = history.now;
  edit(composition.moved(arranged(composition)), selected, "Arranged.");
  canvas.fit();
});
on("open", "click", () => json.open(""));
on("export", "click", () => json.open(JSON.stringify(history.now.composition, null, 2)));
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

/** Ask what the service has; again after an API key was given. */
async function start() {
  draw();
  try {
    const [bundle, examples] = await Promise.all([api.models(), api.examples()]);
    const options = bundle.models.map(({ name, champion }) =>
      make("option", { value: name, selected: champion }, champion ? `${name} (champion)` : name),
    );
    get("model").replaceChildren(...options);
    get("mask").options[0].textContent = `of the bundle: ${bundle.mask}`;
    get("bundle").textContent = `Bundle ${bundle.version}`;
    const place = get("example");
    place.replaceChildren(place.options[0], ...examples.map(({ name }) => make("option", { value: name }, name)));
    const loadExample = (name) => {
      const found = examples.find((example) => example.name === name);
      if (found) load(parse(JSON.stringify(found.composition))[0], `Loaded the example: ${name}.`);
    };
    place.onchange = () => {
      loadExample(place.value);
      place.value = "";
      get("graph").focus();
    };
    get("starts").replaceChildren(
      ...examples.map(({ name }) => make("button", { type: "button", onclick: () => loadExample(name) }, name)),
    );
    if (history.now.composition.nodes.length) refresh();
  } catch (error) {
    showProblem(error);
  }
}

start();
