// One line above the message box: news (announced when the screen reader is idle) or an error (announced at once).
import { button, element } from "./elements.js";

/** The two lines; at most one of them has a text. */
export class Notice {
  #news;
  #alert;

  /**
   * @param {HTMLElement} news Live region with the role status.
   * @param {HTMLElement} alert Live region with the role alert.
   */
  constructor(news, alert) {
    this.#news = news;
    this.#alert = alert;
  }

  /**
   * Shows news.
   * @param {string} text
   * @param {{label: string, press: () => void}} [action] A button beside it.
   */
  say(text, action) {
    this.#show(this.#news, text, action);
  }

  /** Shows an error. */
  warn(text, action) {
    this.#show(this.#alert, text, action);
  }

  /** Shows news that count seconds down. The count is not announced: `text` says it once. */
  count(text, seconds) {
    const shown = this.#news.querySelector(".seconds");
    if (shown && this.#news.dataset.text === text) shown.textContent = `${seconds} s`;
    else this.#show(this.#news, text, null, element("span", { className: "seconds", "aria-hidden": "true" }, `${seconds} s`));
  }

  /** Removes both. */
  clear() {
    for (const line of [this.#news, this.#alert]) {
      line.replaceChildren();
      delete line.dataset.text;
    }
  }

  #show(line, text, action, more) {
    this.clear();
    line.dataset.text = text;
    line.append(element("span", {}, text));
    if (more) line.append(more);
    if (action) {
      line.append(
        button(action.label, () => {
          this.clear();
          action.press();
        }),
      );
    }
    line.append(button("Close", () => this.clear(), { "aria-label": "Close this notice" }));
  }
}
