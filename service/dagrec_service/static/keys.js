// Keyboard shortcuts of the page. Keys in its fields, buttons and dialogs keep their meaning.

/** Calls the action of each key in `actions`; `undo(true)` on Ctrl+Z, and `undo(false)` to redo. */
export function listen(actions, undo) {
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
    const reserved = target.matches("button, summary") ? ["Enter", " "] : [];
    if (target.closest("#compare-panel")) reserved.push("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown");
    const action = actions[event.key.length === 1 ? letter : event.key];
    if (!action || event.altKey || reserved.includes(event.key)) return;
    event.preventDefault();
    action();
  });
}
