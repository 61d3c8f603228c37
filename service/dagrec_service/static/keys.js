// Key strokes that are meant for the page, and not for a field, a button or a dialog of it.

/** Calls the act of a key of `acts`, by its name or its letter; `undo(true)` on Ctrl+Z, `undo(false)` to redo. */
export function listen(acts, undo) {
  document.addEventListener("keydown", (event) => {
    const { target } = event;
    if (document.querySelector("dialog[open]") || target.matches("input, select, textarea")) return;
    const letter = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      if (letter !== "z" && letter !== "y") return;
      event.preventDefault();
      undo(letter === "z" && !event.shiftKey);
      return;
    }
    const ownKeys = target.matches("button, summary") ? ["Enter", " "] : [];
    if (target.closest("#compare-panel")) ownKeys.push("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown");
    const act = acts[event.key.length === 1 ? letter : event.key];
    if (!act || event.altKey || ownKeys.includes(event.key)) return;
    event.preventDefault();
    act();
  });
}
