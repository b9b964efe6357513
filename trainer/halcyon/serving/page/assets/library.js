// Keeps conversations in the browser: one entry of localStorage for each, so that two tabs do not overwrite each other's conversations.
import { keptText, read, toRemove } from "./conversations.js";

export const PREFIX = "halcyon.chat.conversation.";
/** Most conversations, and most characters of all together. A browser gives an origin about five million characters. */
export const LIMITS = { count: 100, size: 4_000_000 };

/** The conversations of this browser. */
export class Library {
  #storage;
  #limits;
  #entries = new Map();

  /**
   * @param {Storage} storage localStorage, or an object like it.
   * @param {{count: number, size: number}} [limits]
   */
  constructor(storage, limits = LIMITS) {
    this.#storage = storage;
    this.#limits = limits;
    this.reload();
  }

  /** Reads all entries again. Entries that cannot be read are passed over and kept. */
  reload() {
    this.#entries.clear();
    for (let index = 0; index < this.#storage.length; index += 1) {
      const name = this.#storage.key(index);
      if (name?.startsWith(PREFIX)) this.#load(name);
    }
  }

  #load(name) {
    const text = this.#storage.getItem(name) ?? "";
    let conversation = null;
    try {
      conversation = read(JSON.parse(text));
    } catch {
      return;
    }
    if (conversation && name === PREFIX + conversation.id) this.#entries.set(conversation.id, { conversation, size: text.length });
  }

  /** All conversations, the newest first. */
  all() {
    return [...this.#entries.values()].map((entry) => entry.conversation).sort((a, b) => b.updated - a.updated);
  }

  /** A conversation, or undefined. */
  get(id) {
    return this.#entries.get(id)?.conversation;
  }

  /**
   * Keeps a new or changed conversation. If there is no room, its images are only in the memory of this tab, and then the oldest ones are
   * removed.
   * @returns {{removed: object[], kept: boolean, seen: boolean}} The removed conversations; `kept` is false if it is only in the memory of
   *   this tab, because it is too long or the browser stores nothing; `seen` is false if its images are.
   */
  put(conversation) {
    const lean = keptText(conversation, false);
    let text = keptText(conversation, true);
    const others = [...this.#entries.values()].filter((entry) => entry.conversation.id !== conversation.id);
    const sizes = others.map((entry) => ({ id: entry.conversation.id, updated: entry.conversation.updated, size: entry.size }));
    if (sizes.reduce((sum, one) => sum + one.size, text.length) > this.#limits.size) text = lean;
    const ids = toRemove(sizes, text.length, this.#limits);
    const removed = (ids ?? []).map((id) => this.remove(id));
    this.#entries.set(conversation.id, { conversation, size: ids ? text.length : 0 });
    if (!ids) return { removed, kept: false, seen: true };
    for (;;) {
      try {
        this.#storage.setItem(PREFIX + conversation.id, text);
        return { removed, kept: true, seen: text === keptText(conversation, true) };
      } catch {
        // Another page of this origin uses the storage too, or the browser gives less.
        if (text !== lean) {
          text = lean;
          continue;
        }
        const oldest = this.all().filter((one) => one.id !== conversation.id).at(-1);
        if (!oldest) return { removed, kept: false, seen: true };
        removed.push(this.remove(oldest.id));
      }
    }
  }

  /** Removes a conversation and returns it. */
  remove(id) {
    const conversation = this.get(id);
    this.#entries.delete(id);
    this.#storage.removeItem(PREFIX + id);
    return conversation;
  }
}
