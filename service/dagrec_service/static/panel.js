// The panel with the suggestions, the comparison table and the error message. They hold no state.

import { asPercent } from "./canvas.js";

const MAX_KEYS = 6; // last keys of a path that are shown

/** Returns an element with properties and children. Strings become text, never HTML. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

const get = (id) => document.getElementById(id);
const shortPath = (keys) => (keys.length > MAX_KEYS ? ["…", ...keys.slice(-MAX_KEYS)] : keys).join(" → ");
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

/** Shows the ranked suggestions of all answers; `names` maps node ids to keys. */
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

/** Marks the chosen suggestion, also for screen readers. */
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
  model: "all nodes of the context are known",
  "back-off": "unknown nodes are ignored",
  popularity: "no node of the context is known: services are ranked by frequency",
};

/** Shows facts about the answer, and the explanation of the chosen suggestion if there is one. */
export function showWhy(answer, suggestion) {
  const box = get("why");
  box.replaceChildren();
  if (!answer) return;
  box.append(make("h3", {}, "Why"));
  const facts = make("dl");
  const fact = (name, value) => facts.append(make("dt", {}, name), make("dd", {}, value));
  fact("Strategy", `${answer.strategy}: ${STRATEGIES[answer.strategy] ?? ""}`);
  if (answer.why) fact("Fell back", answer.why);
  fact("Mask", `${answer.mask}, allows ${plural(answer.candidates, "service")}`);
  if (answer.terminal) fact("Terminal", "no service followed this node in the training data");
  if (answer.unknown.length) fact("Unknown", answer.unknown.join(", "));
  box.append(facts);
  const explanation = answer.explanation;
  if (!explanation) return;
  const step = explanation.steps.find((s) => s.service === suggestion?.service);
  if (step) box.append(evidence(step));
  if (explanation.nearest.length) box.append(nearest(explanation.nearest));
  if (explanation.weights?.length) box.append(weights(explanation.weights));
}

function evidence(step) {
  const after = shortPath(step.after);
  const text = step.compositions
    ? `follows ${after} in ${plural(step.compositions, "training composition")}`
    : "does not follow this path in any training composition";
  const examples = step.examples.length ? `, such as ${step.examples.join(", ")}` : "";
  return make("section", { id: "evidence" }, make("h4", {}, step.service), make("p", {}, text + examples));
}

function nearest(contexts) {
  const rows = contexts.map((near) =>
    make(
      "li",
      {},
      make("span", { className: "path" }, shortPath(near.path)),
      make("span", { className: "sub" }, `${asPercent(near.similarity)} similar, ${plural(near.compositions, "composition")}`),
      make("span", { className: "sub" }, `then ${near.next.map((n) => `${n.service} (${n.compositions})`).join(", ")}`),
    ),
  );
  return make("details", { open: true }, make("summary", {}, "Most similar training contexts"), make("ul", {}, ...rows));
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
  return make("details", { open: true }, make("summary", {}, "Weights of the recommender"), make("ul", {}, ...rows));
}

/** Shows a table with a row per answer and a column per rank; a click accepts a service. */
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

/** Shows an error message at the top, with a field for the API key if the service requires one. */
export function showProblem(error) {
  get("problem").hidden = false;
  get("problem-text").textContent =
    error.status === 401 ? `The service requires an API key: ${error.message}` : error.message;
  get("key-form").hidden = error.status !== 401;
  if (error.status === 401) get("key").focus();
}

export function hideProblem() {
  get("problem").hidden = true;
}
