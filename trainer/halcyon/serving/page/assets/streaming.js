// Shows Markdown while it comes. Only the last block can still change, so only that one is drawn again: the work for a text is proportional
// to its length, not to its square. A finished block moves into the settled part once, where a screen reader announces it.
import { parse, render } from "./markdown.js";

/** Draws a growing Markdown text into an element. */
export class StreamingMarkdown {
  #settled = document.createElement("div");
  #tail = document.createElement("div");
  #references = {};
  #text = "";
  #at = 0;
  #parsed = 0;

  /** @param {HTMLElement} parent Gets the elements. */
  constructor(parent) {
    // The tail changes many times a second: a screen reader waits until its block is settled.
    this.#tail.setAttribute("aria-live", "off");
    this.#tail.className = "tail";
    this.#settled.className = "settled";
    parent.replaceChildren(this.#settled, this.#tail);
  }

  /** Number of characters that were parsed in all calls. */
  get parsed() {
    return this.#parsed;
  }

  /**
   * Shows the text so far.
   * @param {string} text The whole text; it begins with the text of the call before.
   */
  update(text) {
    this.#text = normalized(text);
    const rest = this.#text.slice(this.#at);
    const { tokens, lastBlock } = this.#parse(rest, { ...this.#references });
    if (lastBlock === 0) {
      this.#tail.replaceChildren(render(tokens, false));
      return;
    }
    this.#settle(rest.slice(0, lastBlock));
    this.#at += lastBlock;
    this.#tail.replaceChildren(render(this.#parse(rest.slice(lastBlock), { ...this.#references }).tokens, false));
  }

  /** Shows the complete text. */
  finish(text) {
    this.#text = normalized(text);
    const rest = this.#text.slice(this.#at);
    this.#tail.remove();
    this.#settle(rest);
    this.#at = this.#text.length;
    // A link may be used before its definition, so a text with definitions is drawn once more as a whole.
    if (Object.keys(this.#references).length) this.#settled.replaceChildren(render(this.#parse(this.#text, {}).tokens, true));
  }

  #settle(text) {
    this.#settled.append(render(this.#parse(text, this.#references).tokens, true));
  }

  #parse(text, references) {
    this.#parsed += text.length;
    return parse(text, references);
  }
}

/** Draws a complete Markdown text into an element. */
export function showMarkdown(parent, text) {
  new StreamingMarkdown(parent).finish(text);
}

function normalized(text) {
  return text.replace(/\r\n?/g, "\n");
}
