// A conversation as a plain document, and the changes of it. Pure: each change returns a new document.
//
// {id, title, created, updated, system?, messages: [{role: "user" | "assistant", content, files?: [{name, text} | {name, image}], thinking?, model?, finish?, error?, tokens?, rate?,
//   cut?: {text, ids}, earlier?, later?, after?}]}
// `created` and `updated` are milliseconds since 1970. `image` is a data: address, or "" if the browser had no room to keep it. `system` is its own system message; without it, that of the settings holds. An answer
// has what the model thought before it, the name of its model, its tokens, its rate in tokens a second, and the reason why it ended: that of the server, "stopped" by the
// user, "error", or "interrupted" if the page was closed while it came. One that may go on has in
// `cut` the text of the server, with its thinking, and the ids of its tokens. Its other
// versions stand in `earlier` and `later`: the answer itself is the chosen one, which is shown and sent. An edited message of the user has
// versions too; those that are not shown have in `after` the messages that followed them.

import { separated } from "./thinking.js";

/** The address of an image; other addresses of an import are not drawn or sent. */
const IMAGE = /^data:image\/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}$/;
/** Most characters of a title. */
export const LONGEST_TITLE = 60;
const ROLES = ["user", "assistant"];

/** A new conversation without messages. */
export function create(id, now) {
  return { id, title: "", created: now, updated: now, messages: [] };
}

/** The conversation with one more message. The first message gives the title. */
export function add(conversation, message, now) {
  const title = conversation.title || titleOf(message.content || (message.files?.[0].name ?? ""));
  return { ...conversation, title, updated: now, messages: [...conversation.messages, message] };
}

/**
 * The conversation up to a message, without it and all later ones.
 * @param {number} index Position of the first message that is removed.
 */
export function before(conversation, index, now) {
  const messages = conversation.messages.slice(0, index);
  return { ...conversation, title: messages.length ? conversation.title : "", updated: now, messages };
}

/** All versions of a message, the oldest first. */
export function versionsOf({ earlier = [], later = [], ...shown }) {
  return [...earlier, shown, ...later];
}

/** One of the versions of a message, with the others in it. */
export function asVersion(versions, number) {
  const [earlier, later] = [versions.slice(0, number), versions.slice(number + 1)];
  return { ...versions[number], ...(earlier.length && { earlier }), ...(later.length && { later }) };
}

/**
 * The conversation with another version of a message. What follows an answer stays; a message of the user brings what followed it.
 * @param {number} index Position of the message.
 * @param {number} number Position of the version, the oldest is 0.
 */
export function choose(conversation, index, number, now) {
  const { messages } = conversation;
  if (messages[index].role === "assistant") {
    return { ...conversation, updated: now, messages: messages.with(index, asVersion(versionsOf(messages[index]), number)) };
  }
  const { after = [], ...message } = asVersion(branches(messages, index), number);
  return { ...conversation, updated: now, messages: [...messages.slice(0, index), message, ...after] };
}

/** The conversation until an edited message of the user, which keeps its earlier versions. */
export function edited(conversation, index, content, now) {
  const versions = branches(conversation.messages, index);
  const { files } = conversation.messages[index];
  const message = asVersion([...versions, { role: "user", content, ...(files && { files }) }], versions.length);
  return add(before(conversation, index, now), message, now);
}

/** All versions of a message of the user, the shown one too with the messages that follow it. */
function branches(messages, index) {
  const { earlier = [], later = [], ...shown } = messages[index];
  return [...earlier, { ...shown, after: messages.slice(index + 1) }, ...later];
}

/** True if an answer has something to read. */
export function hasText({ content, thinking }) {
  return Boolean(content || thinking);
}

/** The conversation with another title. An empty one changes nothing. */
export function rename(conversation, title) {
  const line = titleOf(title);
  return line ? { ...conversation, title: line } : conversation;
}

/** Those conversations in whose title or messages all words of a search stand, in any case. */
export function search(conversations, words) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  return conversations.filter(({ title, messages }) => {
    const text = [title, ...messages.map((message) => message.content)].join("\n").toLowerCase();
    return wanted.every((word) => text.includes(word));
  });
}

/** The first line of a text, shortened at a word. */
export function titleOf(text) {
  const line = text.trim().split("\n", 1)[0].replace(/\s+/g, " ");
  if (line.length <= LONGEST_TITLE) return line;
  const cut = [...line.slice(0, LONGEST_TITLE)].join("");
  const space = cut.lastIndexOf(" ");
  return `${space > LONGEST_TITLE / 2 ? cut.slice(0, space) : cut}…`;
}

/**
 * The messages of a request, without the thinking of earlier answers, as chat templates expect them. Messages without text are left out, and so is a question that got an error and no text: the server would refuse
 * each later question with it. Neighbours of the same role, as after an answer that was stopped at once, become one message, because many chat templates accept only alternating roles.
 * @param {object} conversation
 * @param {string} usual The system message if the conversation has none of its own; "" for none.
 */
export function requestMessages(conversation, usual) {
  const system = conversation.system ?? usual;
  const messages = system.trim() ? [{ role: "system", content: system }] : [];
  for (const [index, message] of conversation.messages.entries()) {
    const next = conversation.messages[index + 1];
    const { role } = message;
    const content = contentOf(message);
    if (!content || (role === "user" && next?.finish === "error" && !next.content)) continue;
    const last = messages.at(-1);
    if (last?.role === role) messages[messages.length - 1] = { role, content: joined(last.content, content) };
    else messages.push({ role, content });
  }
  return messages;
}

/** The content of a message in a request: its text, or its images and its text. */
function contentOf(message) {
  const text = withFiles(message);
  const images = imagesOf(message).map(({ image }) => ({ type: "image_url", image_url: { url: image } }));
  return images.length ? [...images, ...partsOf(text)] : text;
}

function partsOf(content) {
  if (typeof content !== "string") return content;
  return content ? [{ type: "text", text: content }] : [];
}

function joined(one, other) {
  const between = "\n\n";
  if (typeof one === "string" && typeof other === "string") return `${one}${between}${other}`;
  return [...partsOf(one), ...partsOf(between), ...partsOf(other)];
}

/** The images of a message that are there. */
export function imagesOf({ files = [] }) {
  return files.filter(({ image }) => image);
}

/** The text of a conversation as it is kept; without its images where there is no room for them. */
export function keptText(conversation, withImages) {
  return JSON.stringify(conversation, (name, value) => (name === "image" && !withImages ? "" : value));
}

/** The text of a message after those of its files. A fence is longer than any in its text. */
function withFiles({ content, files = [] }) {
  const parts = files.filter(({ text }) => text).map(({ name, text }) => {
    const fence = "`".repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length + 1)));
    return `File ${name}:\n${fence}\n${text}${text.endsWith("\n") ? "" : "\n"}${fence}`;
  });
  return [...parts, ...(content || !parts.length ? [content] : [])].join("\n\n");
}

/**
 * Reads a kept conversation. Another version of the page, or another page of the same origin, may have written it.
 * @param {unknown} value
 * @returns {object | null} null if it is none.
 */
export function read(value) {
  if (!isObject(value) || typeof value.id !== "string" || typeof value.title !== "string") return null;
  if (!Number.isFinite(value.created) || !Number.isFinite(value.updated) || !Array.isArray(value.messages)) return null;
  const messages = value.messages.map(readVersions);
  if (messages.includes(null)) return null;
  const system = typeof value.system === "string" ? { system: value.system } : {};
  return { id: value.id, title: value.title, created: value.created, updated: value.updated, ...system, messages };
}

function readVersions(value) {
  const message = readMessage(value);
  if (!message) return null;
  const others = (list) => (Array.isArray(list) ? list.map(readBranch).filter((one) => one?.role === message.role) : []);
  const earlier = others(value.earlier);
  return asVersion([...earlier, message, ...others(value.later)], earlier.length);
}

function readBranch(value) {
  const message = readMessage(value);
  const after = Array.isArray(value?.after) ? value.after.map(readVersions).filter(Boolean) : [];
  return message && after.length ? { ...message, after } : message;
}

function readMessage(value) {
  if (!isObject(value) || !ROLES.includes(value.role) || typeof value.content !== "string") return null;
  const message = { role: value.role, content: value.content };
  // Earlier versions of the page kept the thinking as a part of the answer.
  if (value.role === "assistant" && value.thinking === undefined) {
    const { thinking, content } = separated(value.content);
    Object.assign(message, { content }, thinking && { thinking });
  }
  for (const name of ["thinking", "model", "finish", "error"]) if (typeof value[name] === "string") message[name] = value[name];
  for (const name of ["tokens", "rate"]) if (Number.isFinite(value[name])) message[name] = value[name];
  const isImage = ({ image }) => typeof image === "string" && (!image || IMAGE.test(image));
  const isFile = (one) => typeof one?.name === "string" && (typeof one.text === "string" || isImage(one));
  if (Array.isArray(value.files) && value.files.length && value.files.every(isFile)) {
    message.files = value.files.map(({ name, text, image }) => ({ name, ...(typeof text === "string" ? { text } : { image }) }));
  }
  const { text, ids } = value.cut ?? {};
  if (typeof text === "string" && Array.isArray(ids) && ids.length && ids.every(Number.isSafeInteger)) message.cut = { text, ids };
  return message;
}

/** The document of an export. */
export function exported(conversations, now) {
  return { format: "halcyon-chat", version: 1, exported: new Date(now).toISOString(), conversations };
}

/**
 * The conversations of an export; those that are not valid are left out.
 * @param {unknown} value
 * @returns {object[] | null} null if it is no export.
 */
export function imported(value) {
  if (!isObject(value) || value.format !== "halcyon-chat" || value.version !== 1 || !Array.isArray(value.conversations)) return null;
  return value.conversations.map(read).filter(Boolean);
}

/** The heading of a conversation in the list: "Today", "Yesterday" or "Earlier", in the time of the browser. */
export function dayOf(updated, now) {
  const start = new Date(now);
  start.setHours(0, 0, 0, 0);
  if (updated >= start) return "Today";
  start.setDate(start.getDate() - 1);
  return updated >= start ? "Yesterday" : "Earlier";
}

/**
 * Chooses the conversations to remove, oldest first, so that a new or changed one fits.
 * @param {{id: string, updated: number, size: number}[]} others The conversations beside it; `size` in characters.
 * @param {number} size Characters of the one to keep.
 * @param {{count: number, size: number}} limits Of all together.
 * @returns {string[] | null} Their ids; null if it is longer than the limit even alone.
 */
export function toRemove(others, size, limits) {
  if (size > limits.size) return null;
  const oldest = [...others].sort((a, b) => a.updated - b.updated);
  let total = size + oldest.reduce((sum, one) => sum + one.size, 0);
  const removed = [];
  while (oldest.length + 1 > limits.count || total > limits.size) {
    const one = oldest.shift();
    total -= one.size;
    removed.push(one.id);
  }
  return removed;
}

function isObject(value) {
  return typeof value === "object" && value !== null;
}
