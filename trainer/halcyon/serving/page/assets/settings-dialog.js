// The dialog of the settings.

const NUMBERS = { temperature: "temperature", topP: "top-p", maxTokens: "max-tokens" };

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
  }

  /**
   * Opens the dialog with the present settings.
   * @param {string} [first] Id of the field that gets the focus.
   */
  open(first = "temperature") {
    const { settings, key } = this.#store;
    for (const [name, id] of Object.entries(NUMBERS)) this.#field(id).value = settings[name] ?? "";
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
    const numbers = Object.entries(NUMBERS).map(([name, id]) => {
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
