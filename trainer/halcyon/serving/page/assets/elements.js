// Short forms for making elements. No text is ever parsed as HTML here.

/**
 * Makes an element.
 * @param {string} tag
 * @param {object} properties Properties of the element; names with "-" and `role` are attributes.
 * @param {...(Node | string)} children
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "role" || name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Makes a button; `press` is called without arguments. */
export function button(text, press, properties = {}) {
  const made = element("button", { type: "button", className: "quiet", ...properties }, text);
  made.addEventListener("click", () => press());
  return made;
}

/** Shows another name of a button for two seconds. */
export function flash(button, text) {
  const label = button.querySelector("span") ?? button;
  const kept = label.textContent;
  if (kept === text) return;
  label.textContent = text;
  setTimeout(() => (label.textContent = kept), 2000);
}

/** A drawing of `index.html`, without meaning for a screen reader: the button around it has a name. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS(svg.namespaceURI, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** Makes a button that shows an icon and, unless `quiet`, its name beside it. */
export function iconButton(name, text, press, { quiet = false, ...properties } = {}) {
  const made = button("", press, quiet ? { "aria-label": text, title: text, ...properties } : properties);
  made.append(icon(name), ...(quiet ? [] : [element("span", {}, text)]));
  return made;
}
