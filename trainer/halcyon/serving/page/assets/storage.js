// The storage of the browser, or one in memory where the browser gives none (blocked cookies, some private windows).

/** Keeps texts until the page closes; the part of the interface Storage that the page uses. */
export class MemoryStorage {
  #items = new Map();

  get length() {
    return this.#items.size;
  }

  key(index) {
    return [...this.#items.keys()][index] ?? null;
  }

  getItem(name) {
    return this.#items.get(name) ?? null;
  }

  setItem(name, value) {
    this.#items.set(name, String(value));
  }

  removeItem(name) {
    this.#items.delete(name);
  }
}

/**
 * @param {"localStorage" | "sessionStorage"} name
 * @returns {{storage: Storage | MemoryStorage, lasting: boolean}} `lasting` is false for the one in memory.
 */
export function openStorage(name) {
  try {
    const storage = globalThis[name];
    storage.getItem("");
    return { storage, lasting: true };
  } catch {
    return { storage: new MemoryStorage(), lasting: false };
  }
}
