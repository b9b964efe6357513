// The list of conversations.
import { button, element, iconButton } from "./elements.js";

/** The text for a conversation without messages. */
export const UNTITLED = "New conversation";

/**
 * Draws the list again, and keeps the focus on the same button if it is still there.
 * @param {HTMLElement} list
 * @param {object[]} conversations Newest first.
 * @param {{current: string, open: (id: string) => void, rename: (id: string, title: string) => void, remove: (id: string) => void}} options
 *   `current` is the id of the shown one.
 */
export function drawList(list, conversations, { current, open, rename, remove }) {
  const focused = list.contains(document.activeElement) ? document.activeElement.id : "";
  list.replaceChildren(
    ...conversations.map(({ id, title }) => {
      const name = title || UNTITLED;
      const shown = id === current ? { "aria-current": "true" } : {};
      const item = element(
        "li",
        {},
        button(name, () => open(id), { className: "quiet open", id: `open-${id}`, title: name, ...shown }),
        iconButton("edit", `Rename the conversation ${name}`, () => edit(item, name, (text) => rename(id, text)), { quiet: true, id: `rename-${id}` }),
        iconButton("delete", `Delete the conversation ${name}`, () => remove(id), { quiet: true, id: `delete-${id}` }),
      );
      return item;
    }),
  );
  if (focused) document.getElementById(focused)?.focus();
}

/** Shows a text box in place of a title. Enter and leaving it take the text; Escape does not. */
function edit(item, name, done) {
  const kept = [...item.children];
  const box = element("input", { value: name, maxLength: 200, "aria-label": "Title of the conversation" });
  let open = true;
  const close = (text) => {
    if (!open) return;
    open = false;
    item.replaceChildren(...kept);
    kept[1].focus();
    if (text !== null) done(text);
  };
  box.addEventListener("blur", () => close(box.value));
  box.addEventListener("keydown", (event) => {
    if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
    event.preventDefault();
    event.stopPropagation();
    close(event.key === "Enter" ? box.value : null);
  });
  item.replaceChildren(box);
  box.select();
}
