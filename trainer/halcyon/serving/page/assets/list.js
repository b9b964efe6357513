// The list of conversations.
import { button, element } from "./elements.js";

/** The text for a conversation without messages. */
export const UNTITLED = "New conversation";

/**
 * Draws the list again, and keeps the focus on the same button if it is still there.
 * @param {HTMLElement} list
 * @param {object[]} conversations Newest first.
 * @param {{current: string, open: (id: string) => void, remove: (id: string) => void}} options `current` is the id of the shown one.
 */
export function drawList(list, conversations, { current, open, remove }) {
  const focused = list.contains(document.activeElement) ? document.activeElement.id : "";
  list.replaceChildren(
    ...conversations.map(({ id, title }) => {
      const name = title || UNTITLED;
      const shown = id === current ? { "aria-current": "true" } : {};
      return element(
        "li",
        {},
        button(name, () => open(id), { className: "quiet open", id: `open-${id}`, ...shown }),
        button("Delete", () => remove(id), { id: `delete-${id}`, "aria-label": `Delete the conversation ${name}` }),
      );
    }),
  );
  if (focused) document.getElementById(focused)?.focus();
}
