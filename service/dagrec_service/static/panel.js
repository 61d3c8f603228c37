// The panel beside the drawing, the table of all recommenders, the message of a failure: they keep nothing.

import { asPercent } from "./canvas.js";

const MOST_KEYS = 6; // of a path that is shown: its end

/** An element with properties and children; texts are set as texts, never as HTML. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

const get = (id) => document.getElementById(id);
const shortPath = (keys) => (keys.length > MOST_KEYS ? ["…", ...keys.slice(-MOST_KEYS)] : keys).join(" → ");
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

/** The ranked suggestions of all answers; `names`: node id -> key. */
export function showSuggestions(suggestions, answers, names, accept) {
  const list = get("suggestions");
  const several = answers.length > 1;
  list.replaceChildren();
  for (const answer of answers) {
    if (several) {
      list.append(make("li", { className: "end", role: "presentation" }, `after ${names.get(answer.at) ?? answer.at}`));
    }
    for (const suggestion of suggestions.filter((s) => s.answer === answer)) {
      list.append(option(suggestion, accept));
    }
  }
}

function option({ index, rank, service, probability, support }, accept) {
  const bar = make("span", { className: "strength" });
  bar.style.width = `${Math.max(1, probability * 100)}%`;
  const item = make(
    "li",
    { id: `suggestion-${index}`, className: "suggestion", role: "option", title: service },
    make("span", { className: "rank" }, String(rank)),
    make("span", { className: "name" }, service),
    make("span", { className: "probability" }, asPercent(probability)),
    make("span", { className: "support" }, support ? `seen ${support}×` : "not seen"),
    make("span", { className: "strip", ariaHidden: "true" }, bar),
  );
  item.dataset.service = service;
  item.addEventListener("click", () => accept(index));
  return item;
}

/** Mark the chosen suggestion, for eyes and for screen readers. */
export function chooseSuggestion(index) {
  const list = get("suggestions");
  for (const item of list.querySelectorAll(".suggestion")) {
    const chosen = item.id === `suggestion-${index}`;
    item.setAttribute("aria-selected", String(chosen));
    if (chosen) item.scrollIntoView({ block: "nearest" });
  }
  if (index === null) list.removeAttribute("aria-activedescendant");
  else list.setAttribute("aria-activedescendant", `suggestion-${index}`);
}

const STRATEGIES = {
  model: "the recommender knew the whole context",
  "back-off": "unknown nodes were passed over",
  popularity: "nothing of the context is known: the most frequent services",
};

/** Why: of the answer, and of the chosen suggestion where the service explains. */
export function showWhy(answer, suggestion) {
  const box = get("why");
  box.replaceChildren();
  if (!answer) return;
  box.append(make("h3", {}, "Why"));
  const facts = make("dl");
  const fact = (name, value) => facts.append(make("dt", {}, name), make("dd", {}, value));
  fact("Strategy", `${answer.strategy}: ${STRATEGIES[answer.strategy] ?? ""}`);
  if (answer.why) fact("Fell back", answer.why);
  fact("Mask", `${answer.mask}, lets ${plural(answer.candidates, "service")} through`);
  if (answer.terminal) fact("Terminal", "nothing ever followed this node in training");
  if (answer.unknown.length) fact("Unknown", answer.unknown.join(", "));
  box.append(facts);
  const explanation = answer.explanation;
  if (!explanation) return;
  const step = explanation.steps.find((s) => s.service === suggestion?.service);
  if (step) box.append(madeStep(step));
  if (explanation.nearest.length) box.append(nearest(explanation.nearest));
  if (explanation.weights?.length) box.append(weights(explanation.weights));
}

function madeStep(step) {
  const after = shortPath(step.after);
  const text = step.compositions
    ? `${plural(step.compositions, "training composition")} went on to it after ${after}`
    : "No training composition went on to it from here.";
  const examples = step.examples.length ? `, such as ${step.examples.join(", ")}` : "";
  return make("section", { id: "made" }, make("h4", {}, step.service), make("p", {}, text + examples));
}

function nearest(contexts) {
  const rows = contexts.map((near) =>
    make(
      "li",
      {},
      make("span", { className: "path" }, shortPath(near.path)),
      make("span", { className: "sub" }, `${asPercent(near.similarity)} alike, ${plural(near.compositions, "composition")}`),
      make("span", { className: "sub" }, `then ${near.next.map((n) => `${n.service} (${n.compositions})`).join(", ")}`),
    ),
  );
  return make("details", { open: true }, make("summary", {}, "Nearest contexts in training"), make("ul", {}, ...rows));
}

function weights(parts) {
  const largest = Math.max(...parts.map((part) => Math.abs(part.weight)), 1e-9);
  const rows = [...parts]
    .sort((a, b) => b.weight - a.weight)
    .slice(0, 20)
    .map((part) => {
      const bar = make("span", { className: "strength" });
      bar.style.width = `${(Math.abs(part.weight) / largest) * 100}%`;
      const strip = make("span", { className: "strip", ariaHidden: "true" }, bar);
      return make("li", {}, make("span", {}, part.of), make("span", { className: "sub" }, part.weight.toFixed(3)), strip);
    });
  return make("details", { open: true }, make("summary", {}, "What the recommender weighed"), make("ul", {}, ...rows));
}

/** A row for each answer, a column for each rank; a click accepts. */
export function showComparison(answers, columns, accept) {
  const head = make("tr", {}, make("th", { scope: "col" }, "Recommender"));
  for (let rank = 1; rank <= columns; rank++) head.append(make("th", { scope: "col" }, String(rank)));
  const rows = answers.map((answer) => {
    const row = make("tr", {}, make("th", { scope: "row" }, answer.model));
    for (let i = 0; i < columns; i++) {
      const prediction = answer.predictions[i];
      row.append(make("td", {}, prediction ? choice(answer, prediction, accept) : "–"));
    }
    return row;
  });
  get("compare-table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

function choice(answer, { service, probability }, accept) {
  const button = make(
    "button",
    { type: "button", title: `${service}: accept` },
    make("span", { className: "name" }, service),
    make("span", { className: "sub" }, asPercent(probability)),
  );
  button.addEventListener("click", () => accept(answer, service));
  return button;
}

/** A failure above all; where the service wants an API key, with a field for it. */
export function showProblem(error) {
  get("problem").hidden = false;
  get("problem-text").textContent =
    error.status === 401 ? `The service wants an API key: ${error.message}` : error.message;
  get("key-form").hidden = error.status !== 401;
  if (error.status === 401) get("key").focus();
}

export function hideProblem() {
  get("problem").hidden = true;
}
