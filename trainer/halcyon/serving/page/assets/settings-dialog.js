// The dialog of the settings.
import { NUMBERS } from "./settings.js";

/** The numbers, each with the id of its field. */
const FIELDS = Object.entries(NUMBERS).map(([name, { field }]) => [name, field.replaceAll("_", "-")]);
/** They are folded away unless one of them is set. */
const FOLDED = ["topK", "minP", "presencePenalty", "frequencyPenalty", "repetitionPenalty"];

/** Shows the settings and reports changes. */
export class SettingsDialog {
  #dialog;
  #store;

  /**
   * @param {HTMLDialogElement} dialog
   * @param {import("./settings.js").SettingsStore} store
   * @param {{saved: (keyChanged: boolean) => void}} actions
   */
  constructor(dialog, store, { saved }) {
    this.#dialog = dialog;
    this.#store = store;
    dialog.querySelector("#cancel-settings").addEventListener("click", () => dialog.close());
    dialog.querySelector("form").addEventListener("submit", () => saved(this.#save()));
    // The browser shows its message only at a field that is in sight.
    dialog.addEventListener("invalid", ({ target }) => target.closest("details")?.setAttribute("open", ""), true);
  }

  /**
   * Opens the dialog with the present settings.
   * @param {string} [first] Id of the field that gets the focus.
   */
  open(first = "temperature") {
    const { settings, key } = this.#store;
    for (const [name, id] of FIELDS) this.#field(id).value = settings[name] ?? "";
    this.#field("more-sampling").open = FOLDED.some((name) => settings[name] !== null);
    this.#field("system").value = settings.system;
    this.#field("theme").value = settings.theme;
    this.#field("key").value = key;
    this.#dialog.showModal();
    this.#field(first).focus();
  }

  /** Closes the dialog without a change. */
  close() {
    this.#dialog.close();
  }

  #save() {
    const numbers = FIELDS.map(([name, id]) => {
      const value = this.#field(id).valueAsNumber;
      return [name, Number.isNaN(value) ? null : value];
    });
    this.#store.change({ ...Object.fromEntries(numbers), system: this.#field("system").value, theme: this.#field("theme").value });
    const before = this.#store.key;
    this.#store.changeKey(this.#field("key").value);
    return this.#store.key !== before;
  }

  #field(id) {
    return this.#dialog.querySelector(`#${id}`);
  }
}
