// One answer: the request, its repetition while the server is busy, and its end.
import { RequestError } from "./requests.js";
import { waitBefore } from "./retry.js";
import { Thinking } from "./thinking.js";

/** Most characters of an answer with its thinking. A server that never ends one cannot fill the memory of the browser. */
export const LONGEST = 1_000_000;

/** An answer that takes less from its first text to its last has no rate. */
const RATED_MILLISECONDS = 200;

/** The ends of an answer with which it may go on. */
const CUT = ["length", "stopped", "interrupted", "error"];

/** A text that is being written by the server. */
export class Answer {
  #controller = new AbortController();
  #held = { text: "", ids: [] };

  /**
   * @param {object} base The conversation up to the question.
   * @param {{role: "assistant", content: string, thinking?: string, model?: string, cut?: {text: string, ids: number[]}}} message Grows
   *   while the text comes; with `cut` it goes on there.
   * @param {() => number} clock Milliseconds.
   */
  constructor(base, message, clock = () => performance.now()) {
    this.base = base;
    this.message = message;
    this.clock = clock;
    /** Set while the answer is shown. */
    this.view = null;
    /** True after the conversation was removed: then the answer is not kept. */
    this.dropped = false;
  }

  /** Ends the answer; the text so far stays. */
  stop() {
    this.#controller.abort();
  }

  /**
   * Runs to the end of the answer. Errors become part of the message.
   * @param {(signal: AbortSignal) => AsyncIterable<object>} ask Sends the request; yields what `streamAnswer` does.
   * @param {(seconds: number, signal: AbortSignal) => Promise<void>} pause Waits before the next try.
   * @param {() => void} changed Called after each piece of text.
   * @returns {Promise<RequestError | null>} What went wrong.
   */
  async run(ask, pause, changed) {
    const { signal } = this.#controller;
    try {
      await this.#tries(ask, pause, changed, signal);
      this.message.finish ??= "stop";
      if (!CUT.includes(this.message.finish)) delete this.message.cut;
      return null;
    } catch (error) {
      if (this.message.cut) this.message.tokens = this.message.cut.ids.length;
      if (signal.aborted) {
        this.message.finish = "stopped";
        return null;
      }
      const reported = error instanceof RequestError ? error : new RequestError(`The page failed: ${error.message}`);
      Object.assign(this.message, { finish: "error", error: reported.message });
      return reported;
    }
  }

  async #tries(ask, pause, changed, signal) {
    for (let tried = 1; ; tried += 1) {
      let began = null;
      let ended = null;
      const parts = new Thinking();
      const { length } = this.#begin(parts);
      try {
        for await (const piece of ask(signal)) {
          if ("finish" in piece) this.message.finish = piece.finish;
          else if ("tokens" in piece) {
            this.message.tokens = length + piece.tokens;
            // The first token comes with the end of the prompt's computation, so the rate counts those after it. Texts of
            // several tokens may come at once, so a short answer has no rate.
            if (ended - began >= RATED_MILLISECONDS) this.message.rate = ((piece.tokens - 1) * 1000) / (ended - began);
          } else {
            ended = this.clock();
            began ??= ended;
            this.#grow("thinking" in piece ? { thinking: piece.thinking, content: "" } : parts.feed(piece.text));
            if ("text" in piece) this.#remember(piece);
            changed();
          }
        }
        return;
      } catch (error) {
        const seconds = error instanceof RequestError && !signal.aborted ? waitBefore(error, tried) : null;
        if (seconds === null) throw error;
        await pause(seconds, signal);
      } finally {
        this.#grow(parts.end());
      }
    }
  }

  /** Shows the text until the cut, and returns its tokens. */
  #begin(parts) {
    const { cut } = this.message;
    if (!cut) return [];
    const { thinking, content } = parts.feed(cut.text);
    Object.assign(this.message, { content, thinking });
    if (!thinking) delete this.message.thinking;
    return cut.ids;
  }

  /** Moves the cut to the end of a piece. After half a character it stays before it, because that comes as a whole then. */
  #remember({ text, ids }) {
    const held = this.#held;
    held.text += text;
    held.ids.push(...ids);
    if (!held.ids.length || held.text.endsWith("\ufffd")) return;
    const cut = (this.message.cut ??= { text: "", ids: [] });
    cut.text += held.text;
    cut.ids.push(...held.ids);
    this.#held = { text: "", ids: [] };
  }

  #grow({ thinking, content }) {
    const { message } = this;
    message.content += content;
    if (thinking) message.thinking = (message.thinking ?? "") + thinking;
    const length = message.content.length + (message.thinking?.length ?? 0);
    if (length > LONGEST) throw new RequestError("The answer is too long for this page, so it was stopped.");
  }
}
