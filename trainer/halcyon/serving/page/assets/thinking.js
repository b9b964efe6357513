// Separates what a model thinks from its answer, where it writes both as one text: `<think>…</think>` at the beginning. Pure.

const OPEN = "<think>";
const CLOSE = "</think>";
/** Most characters of white space before the mark. */
const LONGEST_SPACE = 1000;

/** Takes a text in pieces, cut anywhere. */
export class Thinking {
  /** The end of the text so far that may be the beginning of a mark. */
  #held = "";
  /** "start", "thinking", "space" (after the thinking) or "answer". */
  #part = "start";

  /**
   * Adds the next piece of the text.
   * @param {string} text
   * @returns {{thinking: string, content: string}} What this piece adds to each of the two.
   */
  feed(text) {
    const found = { thinking: "", content: "" };
    this.#held += text;
    if (this.#part === "start" && !this.#begin()) return found;
    if (this.#part === "thinking") found.thinking = this.#think();
    if (this.#part === "space") {
      this.#held = this.#held.trimStart();
      if (this.#held) this.#part = "answer";
    }
    if (this.#part === "answer") found.content = this.#take(this.#held.length);
    return found;
  }

  /** What remains at the end of the text. */
  end() {
    const rest = this.#take(this.#held.length);
    return this.#part === "thinking" ? { thinking: rest, content: "" } : { thinking: "", content: rest };
  }

  /** Decides whether the text begins with thinking. Returns false if that is not known yet. */
  #begin() {
    const begun = this.#held.trimStart();
    if (begun.length < OPEN.length && OPEN.startsWith(begun) && this.#held.length < LONGEST_SPACE) return false;
    this.#part = begun.startsWith(OPEN) ? "thinking" : "answer";
    if (this.#part === "thinking") this.#held = begun.slice(OPEN.length);
    return true;
  }

  #think() {
    const close = this.#held.indexOf(CLOSE);
    if (close >= 0) {
      const thinking = this.#take(close);
      this.#take(CLOSE.length);
      this.#part = "space";
      return thinking;
    }
    let kept = Math.min(CLOSE.length - 1, this.#held.length);
    while (!CLOSE.startsWith(this.#held.slice(this.#held.length - kept))) kept -= 1;
    return this.#take(this.#held.length - kept);
  }

  #take(length) {
    const text = this.#held.slice(0, length);
    this.#held = this.#held.slice(length);
    return text;
  }
}

/**
 * Separates a complete text.
 * @param {string} text
 * @returns {{thinking: string, content: string}}
 */
export function separated(text) {
  const parts = new Thinking();
  const found = parts.feed(text);
  const rest = parts.end();
  return { thinking: found.thinking + rest.thinking, content: found.content + rest.content };
}
