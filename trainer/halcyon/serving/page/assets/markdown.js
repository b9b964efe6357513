// Markdown of a model → elements of the page. The text is hostile: a model may repeat what a web page or a user wrote.
//
// Three layers keep it harmless. markdown-it makes no HTML from HTML in the text. DOMPurify keeps only the elements and attributes below.
// The policy in index.html lets no script, style, frame or image run or load that is not a file of this page. Images are links here,
// because loading an image tells its server what the address says, which may be a part of the conversation.
import hljs from "./highlight.min.js";
import "./markdown-it.umd.min.js";
import "./purify.min.js";
import { footnotes, linkNotes } from "./footnotes.js";
import { drawFormulas, formulas } from "./formulas.js";

const { markdownit, DOMPurify } = globalThis;

const LINKS = /^(?:https?|mailto):/i;
const ALLOWED = {
  ALLOWED_TAGS: [
    ..."a blockquote br code del div em h3 h4 h5 h6 hr li ol p pre s strong sup table tbody td th thead tr ul".split(" "),
    "#text",
  ],
  ALLOWED_ATTR: ["class", "href", "start", "title"],
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  ALLOWED_URI_REGEXP: LINKS,
  KEEP_CONTENT: true,
  RETURN_DOM_FRAGMENT: true,
};

const COLOURS = { ...ALLOWED, ALLOWED_TAGS: ["span", "#text"], ALLOWED_ATTR: ["class"] };
/** Most characters of a block of code that gets colours. */
const LONGEST_COLOURED = 20_000;

const parser = markdownit({ html: false, linkify: true, breaks: true });
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
formulas(parser);
footnotes(parser);
// Other links, also those to this server, stay the text that the model wrote.
parser.validateLink = (address) => LINKS.test(address.trim());
// The page's own headings have the levels 1 and 2.
parser.core.ruler.push("levels", ({ tokens }) => {
  for (const token of tokens) {
    if (token.type === "heading_open" || token.type === "heading_close") token.tag = `h${Math.min(6, Number(token.tag.slice(1)) + 2)}`;
  }
});
// The policy permits no style attributes, with which markdown-it aligns the cells of tables.
parser.core.ruler.push("alignment", ({ tokens }) => {
  for (const token of tokens) {
    const aligned = /^text-align:(left|center|right)$/.exec(token.attrGet("style") ?? "");
    if (aligned) token.attrs = [["class", `align-${aligned[1]}`]];
  }
});

// A box of a task is a character: it can be read and copied, and nothing that could be pressed.
parser.core.ruler.push("tasks", ({ tokens }) => {
  for (const [index, { type, children }] of tokens.entries()) {
    const item = tokens[index - 2];
    const box = type === "inline" && item?.type === "list_item_open" && /^\[([ xX])\] /.exec(children[0]?.content);
    if (!box) continue;
    children[0].content = `${box[1] === " " ? "☐" : "☑"} ${children[0].content.slice(box[0].length)}`;
    item.attrSet("class", "task");
  }
});
// An image within a link is only its description: a link cannot hold another.
parser.core.ruler.push("images", ({ tokens }) => {
  for (const { children } of tokens) {
    let depth = 0;
    for (const child of children ?? []) {
      if (child.type === "image") child.meta = { linked: depth > 0 };
      else if (child.type.startsWith("link_")) depth += child.nesting;
    }
  }
});
parser.renderer.rules.image = (tokens, index, options, env, self) => {
  const { attrs, children, meta } = tokens[index];
  const { escapeHtml } = parser.utils;
  const text = escapeHtml(`Image: ${self.renderInlineAsText(children, options, env) || "without a description"}`);
  return meta.linked ? text : `<a href="${escapeHtml(attrs[0][1])}">${text}</a>`;
};

/**
 * Parses a text into blocks.
 * @param {string} text With "\n" at the ends of lines.
 * @param {object} references Definitions of links so far; new ones are added.
 * @returns {{tokens: object[], lastBlock: number}} `lastBlock` is the position in the text where the last block begins: later text can
 *   change only that one.
 */
export function parse(text, references) {
  const tokens = parser.parse(text, { references });
  const blocks = tokens.filter((token) => token.level === 0 && token.nesting !== -1 && token.map);
  return { tokens, lastBlock: blocks.length ? startOfLine(text, blocks.at(-1).map[0]) : 0 };
}

function startOfLine(text, line) {
  let at = 0;
  for (let passed = 0; passed < line; passed += 1) at = text.indexOf("\n", at) + 1;
  return at;
}

/**
 * Makes the elements of a parsed text.
 * @param {object[]} tokens
 * @param {boolean} settled Whether nothing will be added to it: then its code gets colours, and its formulas are drawn.
 * @returns {DocumentFragment}
 */
export function render(tokens, settled) {
  const fragment = DOMPurify.sanitize(parser.renderer.render(tokens, parser.options, {}), ALLOWED);
  for (const link of fragment.querySelectorAll("a[href]")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  linkNotes(fragment);
  for (const code of fragment.querySelectorAll("pre > code")) wrapCode(code, settled);
  if (settled) drawFormulas(fragment);
  for (const table of fragment.querySelectorAll("table")) {
    const box = scrollable(document.createElement("div"), "Table");
    table.replaceWith(box);
    box.append(table);
  }
  return fragment;
}

/** Puts a block of code into a figure with its language and a button that copies it. */
function wrapCode(code, settled) {
  const language = /^language-(\S{1,30})$/.exec(code.className)?.[1] ?? "";
  const pre = scrollable(code.parentElement, language ? `Code in ${language}` : "Code");
  const figure = document.createElement("figure");
  figure.className = "code";
  const caption = document.createElement("figcaption");
  const name = document.createElement("span");
  name.textContent = language || "code";
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "quiet copy-code";
  copy.textContent = "Copy code";
  caption.append(name, copy);
  pre.replaceWith(figure);
  figure.append(caption, pre);
  if (settled && hljs.getLanguage(language) && code.textContent.length <= LONGEST_COLOURED) {
    const coloured = hljs.highlight(code.textContent, { language, ignoreIllegals: true }).value;
    code.replaceChildren(DOMPurify.sanitize(coloured, COLOURS));
  }
}

/** Lets the keyboard scroll an element that is wider than the page. */
function scrollable(element, label) {
  element.classList.add("scrollable");
  element.tabIndex = 0;
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", label);
  return element;
}
