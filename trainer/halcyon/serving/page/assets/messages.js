// The messages of one conversation on the page. Text of users is shown as it is; text of models as Markdown.
import { drawn, sizeOf } from "./attachments.js";
import { TOUCH } from "./browser.js";
import { versionsOf } from "./conversations.js";
import { button, element, iconButton } from "./elements.js";
import { StreamingMarkdown, showMarkdown } from "./streaming.js";

const ENDS = {
  length: "The answer reached the limit of tokens.",
  stopped: "You stopped this answer.",
  interrupted: "The page was closed before this answer was complete.",
  tool_calls: "The model called a tool. This page has no tools.",
  content_filter: "The server filtered this answer.",
};

/** What a message says below its text about its end; "" for nothing. */
export function noteOf(message) {
  if (message.finish === "error") return message.error ?? "The answer failed.";
  if (message.finish === "stop" && !message.content) return "The model answered with no text.";
  return ENDS[message.finish] ?? "";
}

/** The tokens of an answer and their rate; "" if the server did not say them. */
export function figuresOf({ tokens, rate }) {
  if (tokens === undefined) return "";
  const counted = tokens === 1 ? "1 token" : `${tokens} tokens`;
  return rate === undefined ? counted : `${counted}, ${rate < 10 ? rate.toFixed(1) : Math.round(rate)} tokens/s`;
}

/** Puts a folded element for the thinking before the answer. It is not announced: a screen reader reads the answer. */
function thinkingBefore(content) {
  const thought = element("div", { className: "content thought", "aria-live": "off" });
  const folded = element("details", { className: "thinking" }, element("summary", {}, "Thinking"), thought);
  content.before(folded);
  return { folded, thought };
}

/** Shows messages and their buttons. */
export class MessageLog {
  #log;
  #actions;

  /**
   * @param {HTMLElement} log
   * @param {{edit: (index: number, text: string) => void, regenerate: (index: number) => void, resume: (index: number) => void, choose: (index: number, number: number) =>
   *   void, copy: (text: string, from: HTMLElement, pressed: HTMLElement) => void}} actions
   */
  constructor(log, actions) {
    this.#log = log;
    this.#actions = actions;
    log.addEventListener("click", (event) => {
      const copy = event.target.closest?.(".copy-code");
      const code = copy?.closest("figure")?.querySelector("code");
      if (code) actions.copy(code.textContent, code, copy);
    });
  }

  /** Shows the messages of a conversation instead of the present ones. */
  show(messages) {
    this.#quietly(() => {
      this.#log.replaceChildren();
      for (const message of messages) this.add(message);
    });
  }

  /** Shows another version of a message, and keeps the focus in its buttons. */
  replace(index, messages) {
    const old = this.#log.children[index];
    const pressed = old.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : "";
    if (messages[index].role === "user") this.show(messages);
    else this.#quietly(() => this.add(messages[index], old));
    const buttons = [...this.#log.children[index].querySelectorAll(".versions button:enabled")];
    (buttons.find((one) => one.getAttribute("aria-label") === pressed) ?? buttons[0])?.focus();
  }

  /** A screen reader announces new messages, not those of a conversation that is opened. */
  #quietly(change) {
    this.#log.setAttribute("aria-live", "off");
    change();
    requestAnimationFrame(() => this.#log.setAttribute("aria-live", "polite"));
  }

  /** Adds a complete message, or puts it in the place of another one. */
  add(message, instead = null) {
    const { article, content } = this.#article(message, instead);
    if (message.role === "user") {
      content.textContent = message.content;
      content.hidden = !message.content;
      for (const { name, text, image } of message.files ?? []) {
        if (text === undefined) {
          content.before(image ? drawn({ name, image }) : element("p", { className: "note" }, `${name}: this browser had no room to keep the image.`));
          continue;
        }
        const summary = element("summary", {}, `${name}, ${sizeOf(text)}`);
        const shown = element("div", { className: "content", tabIndex: 0, role: "group", "aria-label": name }, text);
        content.before(element("details", { className: "file" }, summary, shown));
      }
    } else {
      if (message.thinking) showMarkdown(thinkingBefore(content).thought, message.thinking);
      showMarkdown(content, message.content);
    }
    this.#end(article, message);
  }

  /**
   * Adds an answer that is still coming.
   * @param {{content: string, thinking?: string}} message They grow; call `update` after each change.
   * @returns {{update: () => void, finish: () => void}}
   */
  stream(message) {
    const { article, content } = this.#article(message);
    const markdown = new StreamingMarkdown(content);
    article.classList.add("coming");
    let thinking = null;
    let frame = 0;
    const think = (finished) => {
      if (!message.thinking) return;
      if (!thinking) {
        const { folded, thought } = thinkingBefore(content);
        folded.open = true;
        thinking = { folded, text: new StreamingMarkdown(thought), length: 0, answered: false };
      }
      if (finished) thinking.text.finish(message.thinking);
      else if (message.thinking.length > thinking.length) thinking.text.update(message.thinking);
      thinking.length = message.thinking.length;
      // Once: the user may open it again.
      if (message.content && !thinking.answered) thinking.folded.open = false;
      thinking.answered ||= Boolean(message.content);
    };
    const draw = () => {
      frame = 0;
      think(false);
      markdown.update(message.content);
    };
    const update = () => {
      // At most one drawing for each frame of the screen, however fast the text comes.
      frame ||= requestAnimationFrame(draw);
    };
    if (message.content || message.thinking) update();
    return {
      update,
      finish: () => {
        cancelAnimationFrame(frame);
        think(true);
        markdown.finish(message.content);
        article.classList.remove("coming");
        this.#end(article, message);
      },
    };
  }

  #article(message, instead = null) {
    const id = instead ? instead.querySelector("h2").id : `message-${this.#log.children.length + 1}`;
    const content = element("div", { className: "content" });
    const author = element("h2", { id }, message.role === "user" ? "You" : message.model || "Model");
    const article = element("article", { className: `message ${message.role}`, "aria-labelledby": id }, author, content);
    if (instead) instead.replaceWith(article);
    else this.#log.append(article);
    return { article, content };
  }

  /** Adds the note about the end and the buttons. */
  #end(article, message) {
    const index = [...this.#log.children].indexOf(article);
    const of = { "aria-describedby": article.querySelector("h2").id };
    const note = noteOf(message);
    if (note) article.append(element("p", { className: message.finish === "error" ? "note error" : "note" }, note));
    const actions = element("div", { className: "actions" });
    if (message.role === "user") {
      actions.append(iconButton("edit", "Edit", () => this.#edit(article, index, message), of), ...this.#versions(index, message));
    } else {
      const pressed = iconButton("copy", "Copy", () => this.#actions.copy(message.content, article.querySelector(":scope > .content"), pressed), of);
      if (message.content) actions.append(pressed);
      if (message.cut) actions.append(iconButton("continue", "Continue", () => this.#actions.resume(index), { ...of, className: "quiet resume" }));
      actions.append(iconButton("again", "Regenerate", () => this.#actions.regenerate(index), of));
      actions.append(...this.#versions(index, message), element("span", { className: "figures" }, figuresOf(message)));
    }
    article.append(actions);
  }

  /** The buttons to the other versions of a message, if there are any. */
  #versions(index, message) {
    const count = versionsOf(message).length;
    if (count === 1) return [];
    const shown = message.earlier?.length ?? 0;
    const step = (name, text, number) =>
      iconButton(name, text, () => this.#actions.choose(index, number), { quiet: true, disabled: number < 0 || number >= count });
    return [
      element(
        "span",
        { className: "versions", role: "group", "aria-label": `Version ${shown + 1} of ${count}` },
        step("previous", "Previous version", shown - 1),
        `${shown + 1}/${count}`,
        step("next", "Next version", shown + 1),
      ),
    ];
  }

  /** Opens the editor of the last message of the user. Returns false if there is none. */
  editLast() {
    const edit = [...this.#log.querySelectorAll(".message.user .actions button")].at(-1);
    edit?.click();
    return Boolean(edit);
  }

  /** Shows a text box in place of a message. */
  #edit(article, index, message) {
    const kept = [...article.children].slice(1);
    const box = element("textarea", { className: "editor", value: message.content, rows: 3, "aria-label": "Edit your message" });
    const close = () => {
      form.replaceWith(...kept);
      article.querySelector(".actions button")?.focus();
    };
    const form = element(
      "form",
      { className: "edit" },
      box,
      element("p", { className: "note" }, "The messages after this one stay with its earlier version."),
      element("div", { className: "row" }, button("Cancel", close), element("button", { type: "submit" }, "Send the edited message")),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (box.value.trim()) this.#actions.edit(index, box.value);
    });
    box.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (event.key === "Enter" && !event.shiftKey && !TOUCH.matches) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    for (const child of kept) child.remove();
    article.append(form);
    box.focus();
  }
}
