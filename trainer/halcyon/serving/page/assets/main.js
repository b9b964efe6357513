// The page: connects the conversations, the requests and the elements.
import { Answer } from "./answering.js";
import { Attachments } from "./attachments.js";
import { copy, download, newId, TOUCH } from "./browser.js";
import { add, asVersion, before, choose, create, edited, exported, hasText, imagesOf, imported, rename, requestMessages, search, versionsOf } from "./conversations.js";
import { flash } from "./elements.js";
import { followEnd } from "./follow.js";
import { Library, PREFIX } from "./library.js";
import { drawList, UNTITLED } from "./list.js";
import { MessageLog } from "./messages.js";
import { Notice } from "./notice.js";
import { listModels, RequestError, streamAnswer } from "./requests.js";
import { wait } from "./retry.js";
import { requestFields, SettingsStore } from "./settings.js";
import { SettingsDialog } from "./settings-dialog.js";
import { openStorage } from "./storage.js";

const CURRENT = "halcyon.chat.current";
/** A text that is coming is kept this often, so that a browser that ends loses no more. */
const KEEP_MILLISECONDS = 2000;

/** Far more than a browser keeps. */
const LARGEST_IMPORT_BYTES = 50_000_000;

const at = (id) => document.getElementById(id);
const local = openStorage("localStorage");
const session = openStorage("sessionStorage").storage;
const library = new Library(local.storage);
const store = new SettingsStore(local.storage, session);
const notice = new Notice(at("notice"), at("alert"));
const toEnd = followEnd(at("log"), (away) => (at("to-end").hidden = !away));
/** With Ctrl, or with the command key of a Mac. */
const SHORTCUTS = {
  "Shift+O": () => open(create(newId(), Date.now())),
  K: () => {
    if (!at("search").checkVisibility()) showList(true);
    at("search").focus();
  },
};
/** The answers that are coming, by the id of their conversation. */
const answers = new Map();
/** Ids of conversations that the browser cannot keep; the user is warned once. */
const unkept = new Set();
/** Ids of conversations whose images the browser cannot keep; the user is told once. */
const unseen = new Set();
const log = new MessageLog(at("log"), { edit, regenerate, resume, choose: chooseVersion, copy: copyText });
const dialog = new SettingsDialog(at("settings"), store, { saved });
const attachments = new Attachments(
  { list: at("attached"), button: at("attach"), input: at("attach-files"), box: at("message") },
  {
    warn: (text) => notice.warn(text),
    added: readyToWrite,
    images: () => ({ most: servedModel()?.images ?? 0, sent: current.messages.flatMap(imagesOf).length }),
  },
);
let current = library.get(session.getItem(CURRENT) ?? "") ?? create(newId(), Date.now());
let models = [];
/** True while the page is being closed, which ends its connections. */
let leaving = false;

// Conversations

/** Shows a conversation, with its answer if one is coming. */
function show(conversation) {
  for (const answer of answers.values()) answer.view = null;
  const answer = answers.get(conversation.id);
  current = answer?.base ?? conversation;
  session.setItem(CURRENT, current.id);
  log.show(current.messages);
  if (answer) answer.view = log.stream(answer.message);
  draw();
  toEnd();
}

/** Brings everything around the messages up to date. */
function draw() {
  const coming = answers.has(current.id);
  at("title").textContent = current.title || UNTITLED;
  document.title = current.title ? `${current.title} - ${chosenModel() || "Chat"}` : chosenModel() || "Chat";
  at("empty").hidden = current.messages.length > 0;
  drawInstructions();
  at("export").disabled = current.messages.length === 0;
  at("log").classList.toggle("busy", coming);
  at("send").hidden = coming;
  at("stop").hidden = !coming;
  const all = library.all();
  const shown = search(all, at("search").value);
  drawList(at("list"), shown, Date.now(), { current: current.id, open: (id) => open(library.get(id)), rename: (id, title) => change(id, (one) => rename(one, title)), remove });
  at("none-found").textContent = shown.length || !all.length ? "" : "No conversation has these words.";
}

/** Shows whose system message holds for this conversation. */
function drawInstructions() {
  const own = current.system !== undefined;
  const text = current.system ?? store.settings.system;
  at("instructions-summary").textContent = text.trim() ? `System message${own ? "" : " (of the settings)"}` : "System message: none";
  if (document.activeElement !== at("own-system")) at("own-system").value = text;
}

/** Shows what an empty conversation is about. */
function drawModel() {
  const model = servedModel();
  at("empty-title").textContent = model?.id ?? "New conversation";
  const facts = [model?.step != null && `weights of step ${model.step}`, model?.longest && `room for ${model.longest} tokens`].filter(Boolean);
  at("empty-about").textContent = facts.length ? `This model has ${facts.join(" and ")}.` : "";
  at("attach").title = model?.images ? "Attach images, or files as text" : "Attach files as text";
  at("max-tokens").placeholder = model?.longest ? `as many as fit in ${model.longest}` : "as many as fit";
}

/** Opens a conversation from the list. */
function open(conversation) {
  notice.clear();
  show(conversation);
  showList(false);
  at(TOUCH.matches ? "toggle-list" : "message").focus();
}

/** Changes a conversation wherever it is: in the list, on the page, and below an answer that is coming. */
function change(id, changed) {
  const kept = library.get(id);
  if (kept) keep(changed(kept));
  const answer = answers.get(id);
  if (answer) answer.base = changed(answer.base);
  if (id === current.id) current = changed(current);
  draw();
}

/** Keeps a conversation, and says so if that is not possible or if others had to be removed. */
function keep(conversation) {
  const { removed, kept, seen } = library.put(conversation);
  if (removed.length) {
    const which = removed.length === 1 ? "the oldest conversation was" : `the ${removed.length} oldest conversations were`;
    notice.say(`The browser's storage is full: ${which} removed.`);
  }
  if (seen) unseen.delete(conversation.id);
  else if (!unseen.has(conversation.id)) {
    unseen.add(conversation.id);
    notice.say("The browser's storage is full: the images of this conversation are kept until the page is closed.");
  }
  if (kept) unkept.delete(conversation.id);
  else if (!unkept.has(conversation.id)) {
    unkept.add(conversation.id);
    notice.warn("The browser cannot keep this conversation. Export it before you close the page.");
  }
}

/** Removes a conversation, with the possibility to undo that. */
function remove(id) {
  dropAnswer(id);
  const removed = library.remove(id);
  const next = library.all()[0];
  if (id === current.id) show(create(newId(), Date.now()));
  draw();
  (next ? at(`open-${next.id}`) : at("new")).focus();
  undoable("The conversation was deleted.", () => keep(removed), removed);
}

function removeAll() {
  const removed = library.all();
  for (const { id } of removed) {
    dropAnswer(id);
    library.remove(id);
  }
  dialog.close();
  show(create(newId(), Date.now()));
  undoable("All conversations were deleted.", () => removed.forEach(keep), removed[0]);
}

/** Says what was done, with a button that brings `conversation` back. */
function undoable(text, undo, conversation) {
  notice.say(text, {
    label: "Undo",
    press: () => {
      if (conversation) dropAnswer(conversation.id);
      undo();
      if (conversation) show(library.get(conversation.id));
      readyToWrite();
    },
  });
}

function dropAnswer(id) {
  const answer = answers.get(id);
  if (!answer) return;
  answer.dropped = true;
  answer.view = null;
  answer.stop();
  answers.delete(id);
}

// Questions and answers

function send(text = at("message").value) {
  if ((!text.trim() && attachments.isEmpty) || answers.has(current.id)) return;
  at("message").value = "";
  fit();
  notice.clear();
  const files = attachments.take();
  const message = { role: "user", content: text.trim() ? text : "", ...(files.length && { files }) };
  current = add(current, message, Date.now());
  log.add(message);
  ask();
}

/** Replaces a message of the user and asks again. */
function edit(index, text) {
  const kept = current;
  current = edited(current, index, text, Date.now());
  log.show(current.messages);
  askAgain(kept, index + 1 < kept.messages.length ? "The edited message was sent." : "");
}

/** Asks for one more version of an answer. */
function regenerate(index) {
  const kept = current;
  const earlier = versionsOf(current.messages[index]).filter(hasText);
  current = before(current, index, Date.now());
  log.show(current.messages);
  askAgain(kept, index + 1 < kept.messages.length ? "The later messages were removed." : "", earlier);
}

/** Goes on with an answer that was cut. */
function resume(index) {
  const { finish, error, rate, ...message } = structuredClone(current.messages[index]);
  current = before(current, index, Date.now());
  log.show(current.messages);
  notice.clear();
  ask([], message);
}

function askAgain(kept, text, earlier) {
  notice.clear();
  if (text) undoable(text, () => keep(kept), kept);
  ask(earlier);
}

/** Shows another version of a message; the next messages send this one. */
function chooseVersion(index, number) {
  current = choose(current, index, number, Date.now());
  keep(current);
  log.replace(index, current.messages);
  draw();
  announce(`Version ${number + 1} of ${versionsOf(current.messages[index]).length}`);
}

/**
 * Asks for an answer to the current conversation.
 * @param {object[]} [earlier] The versions before it.
 * @param {object} [begun] The answer that goes on.
 */
async function ask(earlier = [], begun = { role: "assistant", content: "", model: chosenModel() }) {
  const answer = new Answer(current, { ...begun, ...(earlier.length && { earlier }) });
  const { message } = answer;
  const { id } = answer.base;
  answers.set(id, answer);
  keep(earlier.length || begun.cut ? interrupted(answer) : answer.base);
  answer.view = log.stream(message);
  draw();
  toEnd();
  readyToWrite();
  const withAnswer = () => add(answer.base, message, Date.now());
  const timer = setInterval(() => hasText(message) && keep(interrupted(answer)), KEEP_MILLISECONDS);
  const failed = await answer.run(
    (signal) => request(answer, signal),
    (seconds, signal) => pause(id, seconds, signal),
    () => answer.view?.update(),
  );
  clearInterval(timer);
  if (answer.dropped) return;
  if (failed && leaving) {
    message.finish = "interrupted";
    delete message.error;
  }
  answers.delete(id);
  const nothing = !hasText(message) && message.finish === "stopped";
  const unchanged = earlier.length ? add(answer.base, asVersion(earlier, earlier.length - 1), Date.now()) : answer.base;
  const complete = nothing ? unchanged : withAnswer();
  keep(complete);
  if (current.id === id) {
    current = complete;
    answer.view?.finish();
    if (nothing) log.show(complete.messages);
  }
  draw();
  if (failed?.status === 401 || failed?.status === 403) {
    notice.warn("The server needs a valid API key.", { label: "Enter the API key", press: () => dialog.open("key") });
  }
}

async function* request(answer, signal) {
  if (!models.length) await loadModels();
  signal.throwIfAborted();
  const model = (answer.message.model ||= chosenModel());
  const body = { model, messages: requestMessages(answer.base, store.settings.system), ...requestFields(store.settings) };
  const { cut } = answer.message;
  if (cut) {
    body.messages.push({ role: "assistant", content: cut.text, token_ids: cut.ids });
    body.continue_final_message = true;
  }
  yield* streamAnswer(body, { key: store.key, signal });
}

async function pause(id, seconds, signal) {
  try {
    await wait(seconds, signal, (left) => {
      if (current.id === id) notice.count(`The server is busy. The page asks again in ${seconds} s.`, left);
    });
  } finally {
    if (current.id === id) notice.clear();
  }
}

/** The conversation as it is kept while an answer comes. */
function interrupted(answer) {
  return add(answer.base, { ...answer.message, finish: "interrupted" }, Date.now());
}

/** Copies a text and says so in the pressed button, so that a notice with "Undo" stays. */
async function copyText(text, shown, pressed) {
  const failed = await copy(text, shown);
  if (failed) {
    notice.say(failed);
    return;
  }
  flash(pressed, "Copied");
  announce("Copied.");
}

/** Tells users of a screen reader what others see. */
function announce(text) {
  at("said").textContent = text;
  setTimeout(() => (at("said").textContent = ""), 2000);
}

// The model and the settings

function chosenModel() {
  return models.some(({ id }) => id === store.settings.model) ? store.settings.model : (models[0]?.id ?? "");
}

function servedModel() {
  return models.find(({ id }) => id === chosenModel());
}

/** Asks the server for its models. */
async function loadModels() {
  models = await listModels(store.key);
  at("model").replaceChildren(...models.map(({ id }) => new Option(id, id)));
  at("model").value = chosenModel();
  at("model").disabled = false;
  drawModel();
  draw();
}

async function connect() {
  try {
    await loadModels();
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    const locked = error.status === 401 || error.status === 403;
    const action = locked ? { label: "Enter the API key", press: () => dialog.open("key") } : { label: "Try again", press: connect };
    notice.warn(error.message, action);
  }
}

function saved(keyChanged) {
  applyTheme();
  drawInstructions();
  if (keyChanged || !models.length) {
    notice.clear();
    connect();
  }
}

function applyTheme() {
  document.documentElement.dataset.theme = store.settings.theme;
}

/** Adds the conversations of an export to those of this browser; of two with the same id, the newer one stays. */
async function importFile(file) {
  dialog.close();
  let found = null;
  try {
    if (file.size <= LARGEST_IMPORT_BYTES) found = imported(JSON.parse(await file.text()));
  } catch {
    // Said below, like any other file that is no export.
  }
  if (!found) {
    notice.warn("The file is not an export of this page.");
    return;
  }
  const taken = found.filter(({ id, updated }) => !answers.has(id) && !(library.get(id)?.updated >= updated));
  const counted = taken.length === 1 ? "1 conversation was" : `${taken.length} conversations were`;
  notice.say(taken.length ? `${counted} imported.` : "This browser has all conversations of the file already.");
  // The oldest first: if there is not enough room for all, the newest stay.
  taken.sort((a, b) => a.updated - b.updated).forEach(keep);
  if (taken.some(({ id }) => id === current.id)) show(library.get(current.id) ?? current);
  else draw();
}

function exportAll() {
  download("conversations.json", exported(library.all(), Date.now()));
}

// The elements

/** Opens or closes the list of conversations, which lies over the page where the window is narrow. */
function showList(shown) {
  at("toggle-list").setAttribute("aria-expanded", String(shown));
  document.body.classList.toggle("list-shown", shown);
  at("shade").hidden = !shown;
  for (const element of document.querySelectorAll(".skip, header, main")) element.inert = shown;
  if (shown) at("close-list").focus();
}

function closeList() {
  showList(false);
  at("toggle-list").focus();
}

/** Puts the focus into the message box; on a touch screen nowhere, because the keyboard would cover the answer. */
function readyToWrite() {
  if (TOUCH.matches) at("message").blur();
  else at("message").focus();
}

function explainKeys() {
  at("keys").textContent = TOUCH.matches
    ? "Enter starts a new line, the button “Send” sends."
    : "Enter sends, Shift+Enter starts a new line, Escape stops an answer.";
}

/** Gives the message box the height of its text, in browsers that do not do so themselves. */
function fit() {
  if (CSS.supports("field-sizing", "content")) return;
  const box = at("message");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
at("message").addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey && !TOUCH.matches) {
    event.preventDefault();
    send();
  } else if (event.key === "ArrowUp" && !at("message").value && !answers.has(current.id) && log.editLast()) {
    event.preventDefault();
  }
});
document.addEventListener("keydown", (event) => {
  const shortcut = (event.ctrlKey || event.metaKey) && SHORTCUTS[`${event.shiftKey ? "Shift+" : ""}${event.key.toUpperCase()}`];
  if (shortcut && !at("settings").open) {
    event.preventDefault();
    shortcut();
  }
  if (event.key !== "Escape" || at("settings").open) return;
  if (document.body.classList.contains("list-shown")) closeList();
  else answers.get(current.id)?.stop();
});
at("stop").addEventListener("click", () => {
  answers.get(current.id)?.stop();
  readyToWrite();
});
at("to-end").addEventListener("click", () => {
  toEnd();
  readyToWrite();
});
at("new").addEventListener("click", SHORTCUTS["Shift+O"]);
at("toggle-list").addEventListener("click", () => showList(true));
at("close-list").addEventListener("click", closeList);
at("shade").addEventListener("click", closeList);
matchMedia("(min-width: 48.01rem)").addEventListener("change", () => showList(false));
TOUCH.addEventListener("change", explainKeys);
at("search").addEventListener("input", draw);
at("message").addEventListener("input", fit);
at("prompts").addEventListener("click", (event) => event.target.closest("button") && send(event.target.closest("button").textContent));
at("own-system").addEventListener("input", () => change(current.id, (one) => ({ ...one, system: at("own-system").value })));
at("export").addEventListener("click", () => download("conversation.json", exported([library.get(current.id) ?? current], Date.now())));
at("export-all").addEventListener("click", exportAll);
at("import").addEventListener("click", () => at("import-file").click());
at("import-file").addEventListener("change", () => {
  const [file] = at("import-file").files;
  if (file) importFile(file);
  at("import-file").value = "";
});
at("delete-all").addEventListener("click", removeAll);
at("open-settings").addEventListener("click", () => dialog.open());
at("model").addEventListener("change", () => {
  store.change({ model: at("model").value });
  drawModel();
  draw();
});
addEventListener("pageshow", () => (leaving = false));
addEventListener("pagehide", () => {
  leaving = true;
  for (const answer of answers.values()) if (hasText(answer.message)) keep(interrupted(answer));
});
// Another tab has changed something.
addEventListener("storage", (event) => {
  store.reload();
  applyTheme();
  drawInstructions();
  if (event.key !== null && !event.key.startsWith(PREFIX)) return;
  library.reload();
  const changed = library.get(current.id);
  if (changed && changed.updated > current.updated && !answers.has(current.id)) show(changed);
  else draw();
});

applyTheme();
explainKeys();
show(current);
connect();
if (!local.lasting) notice.warn("This browser keeps no data for this page. Export a conversation before you close it.");
