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
