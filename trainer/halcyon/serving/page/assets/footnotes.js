// Footnotes in Markdown: `[^1]` in a text, and `[^1]: …` at the beginning of a line. A note stays where the model wrote it.
//
// These are own rules, because those of the published plugin hide a note while the text comes, and their work for many notes is not
// proportional to their number.
import { button } from "./elements.js";

const LABEL = /\[\^([^\s[\]]{1,60})\]/y;
/** Among the definitions of links, whose names are in capitals, so no link finds it. */
const keyOf = (label) => `note ${label}`;

/** Adds the forms to a parser of markdown-it. */
export function footnotes(parser) {
  parser.block.ruler.before("reference", "footnote", note, { alt: ["paragraph", "reference"] });
  parser.inline.ruler.before("link", "footnote_mark", mark);
  const sup = (kind, label) => `<sup class="${kind}">${parser.utils.escapeHtml(label)}</sup>`;
  parser.renderer.rules.footnote_mark = (tokens, index) => sup("note-mark", tokens[index].content);
  parser.renderer.rules.footnote_open = (tokens, index) => `<div class="footnote">${sup("note-label", tokens[index].content)}`;
}

function labelAt(text, position) {
  LABEL.lastIndex = position;
  return LABEL.exec(text)?.[1];
}

function mark(state, silent) {
  const label = labelAt(state.src, state.pos);
  if (!label || !(keyOf(label) in state.env.references)) return false;
  if (!silent) state.push("footnote_mark", "sup", 0).content = label;
  state.pos = LABEL.lastIndex;
  return true;
}

/** A note has blocks of its own; those after the first are indented by four spaces. */
function note(state, start, end, silent) {
  const label = labelAt(state.src, state.bMarks[start] + state.tShift[start]);
  if (!label || state.src[LABEL.lastIndex] !== ":") return false;
  if (silent) return true;
  state.env.references[keyOf(label)] = {};
  const lines = ["bMarks", "tShift", "sCount"].map((name) => [state[name], state[name][start]]);
  const { blkIndent, parentType } = state;
  state.blkIndent += 4;
  state.parentType = "footnote";
  state.bMarks[start] = state.skipSpaces(LABEL.lastIndex + 1);
  state.tShift[start] = 0;
  state.sCount[start] = state.blkIndent;
  const open = state.push("footnote_open", "div", 1);
  open.content = label;
  open.map = [start, end];
  state.md.block.tokenize(state, start, end);
  open.map[1] = state.line;
  state.push("footnote_close", "div", -1);
  Object.assign(state, { blkIndent, parentType });
  for (const [values, value] of lines) values[start] = value;
  return true;
}

/** Makes of each mark a button that leads to its note, and the other way round. */
export function linkNotes(elements) {
  for (const sup of elements.querySelectorAll("sup[class]")) {
    const label = sup.textContent;
    const [other, name] = sup.className === "note-mark" ? ["note-label", `To note ${label}`] : ["note-mark", `Back from note ${label}`];
    const press = () => {
      const found = [...sup.closest(".content").querySelectorAll(`sup.${other}`)].find((one) => one.textContent === label);
      found?.firstChild.focus();
    };
    sup.replaceChildren(button(label, press, { "aria-label": name }));
  }
}
