// Reads server-sent events: lines of `data: …`, with an empty line after each event.
// Format: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
// EventSource is no alternative, because it cannot send a request body.

/** Most characters of one event. A server that never ends an event cannot fill the memory of the browser. */
export const LARGEST_EVENT = 1_000_000;

/** Turns pieces of text, split anywhere, into the data of the events. */
export class EventParser {
  #rest = "";
  #data = [];
  #size = 0;
  #started = false;
  #afterReturn = false;

  /**
   * Adds the next piece of text.
   * @param {string} text A piece of the stream, of any length.
   * @returns {string[]} The data of each event that ended in this piece.
   * @throws {Error} If an event is longer than LARGEST_EVENT.
   */
  feed(text) {
    if (!this.#started && text) {
      this.#started = true;
      text = text.replace(/^\uFEFF/, "");
    }
    // The line feed of a "\r\n" may come in the piece after its carriage return, which has ended the line already.
    if (this.#afterReturn && text.startsWith("\n")) text = text.slice(1);
    if (text) this.#afterReturn = text.endsWith("\r");
    const lines = (this.#rest + text).split(/\r\n|\r|\n/);
    this.#rest = lines.pop();
    const events = lines.map((line) => this.#line(line)).filter((event) => event !== null);
    if (this.#size + this.#rest.length > LARGEST_EVENT) throw new Error("The server sent an event that is too long.");
    return events;
  }

  /** Takes one line; returns the data of the event that it ends, or null. */
  #line(line) {
    if (line === "") {
      const data = this.#data.length ? this.#data.join("\n") : null;
      this.#data = [];
      this.#size = 0;
      return data;
    }
    const [, field, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
    if (field === "data") {
      this.#data.push(value ?? "");
      this.#size += line.length;
    }
    return null;
  }
}

/**
 * Yields the data of each event of a response's body. An event without its empty line at the end of the stream is left out.
 * @param {ReadableStream<Uint8Array>} body
 */
export async function* readEvents(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    // The server stops generating when the connection closes.
    await reader.cancel().catch(() => {});
  }
}
