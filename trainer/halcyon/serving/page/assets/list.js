// The list of conversations, with the days as headings.
import { dayOf } from "./conversations.js";
import { button, element, iconButton } from "./elements.js";

/** The text for a conversation without messages. */
export const UNTITLED = "New conversation";

/**
 * Draws the list again, and keeps the focus on the same button if it is still there.
 * @param {HTMLElement} list
 * @param {object[]} conversations Newest first.
 * @param {number} now Milliseconds since 1970.
 * @param {{current: string, open: (id: string) => void, rename: (id: string, title: string) => void, remove: (id: string) => void}} options
 *   `current` is the id of the shown one.
 */
export function drawList(list, conversations, now, options) {
  const focused = list.contains(document.activeElement) ? document.activeElement.id : "";
  const unfolded = list.querySelector("[aria-expanded=true]")?.id;
  const days = new Map();
  for (const one of conversations) {
    const day = dayOf(one.updated, now);
    if (!days.has(day)) days.set(day, []);
    days.get(day).push(row(list, one, options));
  }
  list.replaceChildren(
    ...[...days].flatMap(([day, rows]) => {
      const id = `day-${day.toLowerCase()}`;
      return [element("h2", { id }, day), element("ul", { "aria-labelledby": id }, ...rows)];
    }),
  );
  if (unfolded) document.getElementById(unfolded)?.click();
  if (focused) document.getElementById(focused)?.focus();
}

/** A title, and a button that shows what can be done with the conversation below it. */
function row(list, { id, title }, { current, open, rename, remove }) {
  const name = title || UNTITLED;
  const shown = id === current ? { "aria-current": "true" } : {};
  const more = iconButton("more", `Rename or delete ${name}`, () => (actions.isConnected ? fold(more) : unfold()), {
    quiet: true,
    id: `more-${id}`,
    title: "Rename or delete",
    "aria-expanded": "false",
  });
  const actions = element(
    "div",
    { className: "row" },
    button("Rename", () => edit(item, more, name, (text) => rename(id, text)), { id: `rename-${id}`, "aria-label": `Rename the conversation ${name}` }),
    button("Delete", () => remove(id), { id: `delete-${id}`, "aria-label": `Delete the conversation ${name}` }),
  );
  const unfold = () => {
    fold(list.querySelector("[aria-expanded=true]"));
    more.setAttribute("aria-expanded", "true");
    item.append(actions);
  };
  const item = element("li", {}, button(name, () => open(id), { className: "quiet open", id: `open-${id}`, title: name, ...shown }), more);
  item.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !actions.isConnected) return;
    event.stopPropagation();
    fold(more);
    more.focus();
  });
  return item;
}

function fold(more) {
  more?.setAttribute("aria-expanded", "false");
  more?.parentElement.querySelector(".row")?.remove();
}

/** Shows a text box in place of a title. Enter and leaving it take the text; Escape does not. */
function edit(item, more, name, done) {
  fold(more);
  const kept = [...item.children];
  const box = element("input", { value: name, maxLength: 200, "aria-label": "Title of the conversation" });
  let open = true;
  const close = (text) => {
    if (!open) return;
    open = false;
    item.replaceChildren(...kept);
    more.focus();
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
