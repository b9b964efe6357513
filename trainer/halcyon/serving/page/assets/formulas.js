// Formulas in Markdown: \(…\) and $…$ in a line, \[…\] and $$…$$ as blocks, as models write them. Temml turns TeX into MathML, which the
// browser draws. Each form has a longest length, so that a hostile text costs no more than its length times that.
//
// `temml` comes from a script of index.html: its file is no module.

const LONGEST_INLINE = 1000;
const LONGEST_BLOCK_LINES = 100;
/** A formula beyond one of these limits stays the text that the model wrote. */
const MOST = { characters: 4000, depth: 60, elements: 4000, formulas: 500, milliseconds: 2000 };
/** Temml cuts each length to the largest one (in em), and stops after so many expansions of macros. */
const LIMITS = { maxSize: [20, 20], maxExpand: 100 };
/** A dollar opens a formula only before, and closes one only after, something that is no space: "$5 and $6" is no formula. */
const INLINE = [
  new RegExp(String.raw`\\\((.{1,${LONGEST_INLINE}}?)\\\)`, "sy"),
  new RegExp(String.raw`\\\[(.{1,${LONGEST_INLINE}}?)\\\]`, "sy"),
  new RegExp(String.raw`\$\$([^$]{1,${LONGEST_INLINE}})\$\$`, "y"),
  new RegExp(String.raw`\$(?!\s)([^$\n]{1,${LONGEST_INLINE}})(?<![\s\\])\$(?!\d)`, "y"),
];
const BLOCKS = { "$$": "$$", "\\[": "\\]" };

/** Adds the forms to a parser of markdown-it. Their texts become elements `code.formula`, which `drawFormulas` replaces. */
export function formulas(parser) {
  parser.inline.ruler.before("escape", "formula", inline);
  parser.block.ruler.before("fence", "formula_block", block, { alt: ["paragraph", "blockquote", "list"] });
  const code = (kind) => (tokens, index) => `<code class="${kind}">${parser.utils.escapeHtml(tokens[index].content)}</code>`;
  parser.renderer.rules.formula = code("formula");
  parser.renderer.rules.formula_block = (tokens, index) => `<p>${code("formula block")(tokens, index)}</p>`;
}

function inline(state, silent) {
  const first = state.src[state.pos];
  if (first !== "$" && first !== "\\") return false;
  for (const form of INLINE) {
    form.lastIndex = state.pos;
    const match = form.exec(state.src);
    if (!match) continue;
    if (!silent) state.push("formula", "code", 0).content = match[1].trim();
    state.pos += match[0].length;
    return true;
  }
  return false;
}

/** A block ends at its closing mark. Without one it ends with the text, because the mark may still come, but never after an empty line. */
function block(state, start, end, silent) {
  const lineOf = (line) => state.src.slice(state.bMarks[line] + state.tShift[line], state.eMarks[line]).trimEnd();
  const opening = lineOf(start);
  const closing = BLOCKS[opening.slice(0, 2)];
  if (!closing) return false;
  let text = opening.slice(2);
  let line = start;
  for (; !text.endsWith(closing) && line + 1 < end; line += 1) {
    const next = lineOf(line + 1);
    if (!next || line - start === LONGEST_BLOCK_LINES) return false;
    text += `\n${next}`;
  }
  if (silent) return true;
  state.line = line + 1;
  const token = state.push("formula_block", "p", 0);
  token.content = (text.endsWith(closing) ? text.slice(0, -2) : text).trim();
  token.map = [start, state.line];
  return true;
}

/** Draws the formulas among elements. One that TeX does not know, or that is too large, stays the text that the model wrote. */
export function drawFormulas(elements) {
  const began = performance.now();
  for (const code of [...elements.querySelectorAll("code.formula")].slice(0, MOST.formulas)) {
    if (performance.now() - began > MOST.milliseconds) return;
    if (code.textContent.length > MOST.characters) continue;
    const shown = document.createElement("span");
    shown.className = code.className;
    try {
      const displayMode = code.classList.contains("block");
      globalThis.temml.render(code.textContent, shown, { displayMode, throwOnError: true, annotate: true, ...LIMITS });
    } catch {
      continue;
    }
    if (shown.getElementsByTagName("*").length > MOST.elements || deeper(shown, MOST.depth)) continue;
    // A formula may name a part of itself, and the name could be that of an element of this page.
    for (const named of shown.querySelectorAll("[id], [href]")) for (const name of ["id", "href"]) named.removeAttribute(name);
    code.replaceWith(shown);
  }
}

/** Whether elements are nested deeper than so many levels. */
function deeper(element, levels) {
  let level = [element];
  for (let depth = 0; level.length && depth <= levels; depth += 1) level = level.flatMap((one) => [...one.children]);
  return level.length > 0;
}
