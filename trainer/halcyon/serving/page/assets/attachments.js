// Files that go with a message, as text: the browser reads them, and nothing but their text is sent.
import { element, iconButton } from "./elements.js";

/** Most characters of a file. */
export const LONGEST_FILE = 500_000;
/** Most bytes of a file that is read at all. */
const LARGEST_BYTES = 50_000_000;
/** Where pdf.js is, if it is installed. It is large, so it is no part of the page. */
const PDF_LIBRARY = "./pdfjs/";
const CONVERT = "Convert it first, for example with pdftotext, and attach the text.";

/**
 * Reads a file.
 * @param {File} file
 * @returns {Promise<{name: string, text: string}>}
 * @throws {Error} It cannot be read as text. The message is a sentence for the user.
 */
export async function readFile(file) {
  const { name } = file;
  if (file.size > LARGEST_BYTES) throw new Error(`“${name}” is larger than 50 MB: attach a part of it.`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  const isPdf = new TextDecoder("latin1").decode(bytes.subarray(0, 5)) === "%PDF-";
  const text = isPdf ? await textOfPdf(name, bytes) : textOf(name, bytes);
  if (!text.trim()) throw new Error(`“${name}” has no text.${isPdf ? " Its pages may be pictures." : ""}`);
  if (text.length > LONGEST_FILE) throw new Error(`“${name}” has more than ${LONGEST_FILE} characters: attach a part of it.`);
  return { name, text };
}

function textOf(name, bytes) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (!text.includes("\0")) return text;
  } catch {
    // Said below, like any other file that is no text.
  }
  throw new Error(`“${name}” is not text in UTF-8. ${CONVERT}`);
}

async function textOfPdf(name, bytes) {
  const folder = new URL(PDF_LIBRARY, import.meta.url);
  let library;
  try {
    // With its worker in the same thread: the policy of the page lets no text become the address of a script.
    [library] = await Promise.all(["pdf.min.mjs", "pdf.worker.min.mjs"].map((file) => import(new URL(file, folder))));
  } catch {
    throw new Error(`“${name}” is a PDF, and this server has no pdf.js to read it. ${CONVERT}`);
  }
  try {
    const task = library.getDocument({ data: bytes, cMapUrl: new URL("cmaps/", folder).href, useWasm: false, verbosity: 0 });
    const pages = [];
    try {
      const pdf = await task.promise;
      for (let number = 1, length = 0; number <= pdf.numPages && length <= LONGEST_FILE; number += 1) {
        const { items } = await (await pdf.getPage(number)).getTextContent();
        pages.push(items.map(({ str = "", hasEOL }) => (hasEOL ? `${str}\n` : str)).join(""));
        length += pages.at(-1).length;
      }
    } finally {
      await task.destroy();
    }
    return pages.join("\n\n");
  } catch {
    throw new Error(`“${name}” is a PDF that cannot be read: it is damaged, or has a password. ${CONVERT}`);
  }
}

/** The size of a text for people. A token has about four characters. */
export function sizeOf({ length }) {
  const tokens = Math.ceil(length / 4);
  return `about ${tokens.toLocaleString("en")} ${tokens === 1 ? "token" : "tokens"}`;
}

/** The files of the next message, shown above the message box: chosen, dropped on the page, or pasted. */
export class Attachments {
  #list;
  #files = [];

  /**
   * @param {{list: HTMLElement, button: HTMLElement, input: HTMLInputElement, box: HTMLElement}} elements The list gets a line for each
   *   file; into the box files are pasted.
   * @param {{warn: (text: string) => void, added: () => void}} actions `warn` gets a sentence for each file that cannot be read.
   */
  constructor({ list, button, input, box }, { warn, added }) {
    this.#list = list;
    this.warn = warn;
    const add = async (files) => {
      await this.add(files);
      added();
    };
    button.addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      const files = [...input.files];
      input.value = "";
      add(files);
    });
    const moved = (event) => {
      const given = event.dataTransfer ?? event.clipboardData;
      if (!given.types.includes("Files")) return;
      event.preventDefault();
      if (event.type !== "dragover") add([...given.files]);
    };
    for (const name of ["dragover", "drop"]) addEventListener(name, moved);
    box.addEventListener("paste", moved);
  }

  /** Reads files and adds their texts. */
  async add(files) {
    for (const file of files) {
      try {
        this.#files.push(await readFile(file));
      } catch (error) {
        this.warn(error.message);
      }
    }
    this.#draw();
  }

  /** Takes the files away for a message. */
  take() {
    const taken = this.#files;
    this.#files = [];
    this.#draw();
    return taken;
  }

  /** Whether there are none. */
  get isEmpty() {
    return this.#files.length === 0;
  }

  #draw() {
    this.#list.replaceChildren(
      ...this.#files.map((file) => {
        const remove = iconButton("close", `Remove ${file.name}`, () => this.#remove(file), { quiet: true });
        return element("li", {}, `${file.name}, ${sizeOf(file.text)}`, remove);
      }),
    );
  }

  #remove(file) {
    this.#files = this.#files.filter((one) => one !== file);
    this.#draw();
  }
}
