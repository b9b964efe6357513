// What the page takes from the browser: the clipboard, downloads, random ids, the kind of pointer.

/** A new id: 128 random bits. Works also over plain HTTP, where crypto.randomUUID is missing. */
export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Matches where a finger is the pointer: then a screen keyboard writes, which has no Shift+Enter and covers the page. */
export const TOUCH = matchMedia("(pointer: coarse)");

/**
 * Copies a text. Without the right to do so (plain HTTP, or the user denied it) the text is selected instead.
 * @param {string} text
 * @param {HTMLElement} shown The element that shows it.
 * @returns {Promise<string>} "" after that; otherwise a sentence that says what was done instead.
 */
export async function copy(text, shown) {
  try {
    await navigator.clipboard.writeText(text);
    return "";
  } catch {
    getSelection().selectAllChildren(shown);
    return "The browser does not let this page copy. The text is selected: copy it with Ctrl+C.";
  }
}

/** Saves a JSON document as a file. */
export function download(name, value) {
  const address = URL.createObjectURL(new Blob([JSON.stringify(value, null, 2)], { type: "application/json" }));
  const link = Object.assign(document.createElement("a"), { href: address, download: name });
  link.click();
  // The download has begun when the click returns; the address is not needed after that.
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
