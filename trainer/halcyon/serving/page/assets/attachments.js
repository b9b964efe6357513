// Files that go with a message: the browser reads them, and nothing but their text, or the image, is sent.
import { element, iconButton } from "./elements.js";

/** Most characters of a file. */
export const LONGEST_FILE = 500_000;
/** Most bytes of a file that is read at all. */
const LARGEST_BYTES = 50_000_000;
/** Most bytes of an image that is sent as it is. A larger one is drawn anew: the browser keeps few megabytes in all. */
const LARGEST_IMAGE = 300_000;
/** Most pixels of a side of an image that is drawn anew. */
const LONGEST_SIDE = 1280;
/** What the server reads. Other images are drawn anew. */
const IMAGES = ["image/png", "image/jpeg", "image/webp", "image/gif"];
/** Where pdf.js is, if it is installed. It is large, so it is no part of the page. */
const PDF_LIBRARY = "./pdfjs/";
const CONVERT = "Convert it first, for example with pdftotext, and attach the text.";

/** Whether a file is an image by its type. A drawing in SVG is text. */
function isImage({ type }) {
  return type.startsWith("image/") && !type.startsWith("image/svg");
}

/**
 * Reads an image.
 * @param {File} file
 * @returns {Promise<{name: string, image: string}>} `image` is a data: address.
 * @throws {Error} It cannot be read. The message is a sentence for the user.
 */
export async function readImage(file) {
  const { name, size, type } = file;
  if (size > LARGEST_BYTES) throw new Error(`“${name}” is larger than 50 MB: attach a smaller image.`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`“${name}” is no image that this browser can read. Convert it to PNG or JPEG first.`);
  }
  try {
    if (size <= LARGEST_IMAGE && IMAGES.includes(type)) {
      const bytes = new Uint8Array(await file.arrayBuffer());
      return { name, image: `data:${type};base64,${btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""))}` };
    }
    const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
    const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
    const canvas = element("canvas", { width, height });
    const context = canvas.getContext("2d");
    context.fillStyle = "white"; // JPEG has no transparent pixels
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, width, height);
    return { name, image: canvas.toDataURL("image/jpeg", 0.9) };
  } finally {
    bitmap.close();
  }
}

/** The small image of a file. */
export function drawn({ name, image }) {
  return element("img", { className: "picture", src: image, alt: name, title: name });
}

/**
 * Reads a file as text.
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
   * @param {{warn: (text: string) => void, added: () => void, images: () => {most: number, sent: number}}} actions `warn` gets a sentence
   *   for each file that cannot be read; `images` says how many images the model sees in a conversation, and how many this one has.
   */
  constructor({ list, button, input, box }, { warn, added, images }) {
    this.#list = list;
    this.warn = warn;
    this.images = images;
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

  /** Reads files and adds their texts and images. */
  async add(files) {
    for (const file of files) {
      try {
        this.#files.push(await (isImage(file) ? this.#seen(file) : readFile(file)));
      } catch (error) {
        this.warn(error.message);
      }
    }
    this.#draw();
  }

  #seen(file) {
    const { most, sent } = this.images();
    if (!most) throw new Error(`“${file.name}” is an image, and this model sees none.`);
    if (sent + this.#files.filter(({ image }) => image).length >= most) {
      throw new Error(`“${file.name}” is one too many: this model sees at most ${most === 1 ? "1 image" : `${most} images`} in a conversation.`);
    }
    return readImage(file);
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
        return element("li", {}, file.image ? drawn(file) : `${file.name}, ${sizeOf(file.text)}`, remove);
      }),
    );
  }

  #remove(file) {
    this.#files = this.#files.filter((one) => one !== file);
    this.#draw();
  }
}
