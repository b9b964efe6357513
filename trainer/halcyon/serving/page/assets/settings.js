// The settings of the page, and where each is kept: the API key in sessionStorage, which ends with the tab; all others in localStorage.

const NAME = "halcyon.chat.settings";
const KEY_NAME = "halcyon.chat.key";
const THEMES = ["system", "light", "dark"];

/** The numbers: the field of a request, and the range. Such a field of the dialog has its name with "-". */
export const NUMBERS = {
  temperature: { field: "temperature", least: 0, most: 2 },
  topP: { field: "top_p", least: 0.0001, most: 1 },
  topK: { field: "top_k", least: 1, most: 1_000_000, whole: true },
  minP: { field: "min_p", least: 0, most: 1 },
  presencePenalty: { field: "presence_penalty", least: -2, most: 2 },
  frequencyPenalty: { field: "frequency_penalty", least: -2, most: 2 },
  repetitionPenalty: { field: "repetition_penalty", least: 0.01, most: 100 },
  maxTokens: { field: "max_tokens", least: 1, most: 1_000_000, whole: true },
};
const NONE = Object.fromEntries(Object.keys(NUMBERS).map((name) => [name, null]));
/** Settings of a new browser. null: the page does not send the field, so the server's own default holds. */
export const DEFAULTS = Object.freeze({ model: "", ...NONE, system: "", theme: "system" });

/**
 * Reads settings from any value. A setting that is missing or not valid gets its default.
 * @param {unknown} value
 */
export function readSettings(value) {
  const given = typeof value === "object" && value !== null ? value : {};
  return {
    model: typeof given.model === "string" ? given.model : DEFAULTS.model,
    ...Object.fromEntries(Object.entries(NUMBERS).map(([name, range]) => [name, numberIn(given[name], range)])),
    system: typeof given.system === "string" ? given.system.slice(0, 20_000) : DEFAULTS.system,
    theme: THEMES.includes(given.theme) ? given.theme : DEFAULTS.theme,
  };
}

function numberIn(value, { least, most, whole }) {
  return (whole ? Number.isInteger(value) : typeof value === "number") && value >= least && value <= most ? value : null;
}

/** The fields of a request that the settings give. */
export function requestFields(settings) {
  const set = Object.entries(NUMBERS).filter(([name]) => settings[name] !== null);
  return Object.fromEntries(set.map(([name, { field }]) => [field, settings[name]]));
}

/** Loads and keeps the settings and the API key. */
export class SettingsStore {
  #local;
  #session;

  /**
   * @param {Storage} local localStorage, or an object like it.
   * @param {Storage} session sessionStorage, or an object like it.
   */
  constructor(local, session) {
    this.#local = local;
    this.#session = session;
    this.key = session.getItem(KEY_NAME) ?? "";
    this.reload();
  }

  /** Reads the settings again, for example after a change in another tab. */
  reload() {
    try {
      this.settings = readSettings(JSON.parse(this.#local.getItem(NAME) ?? "{}"));
    } catch {
      this.settings = { ...DEFAULTS };
    }
  }

  /** Changes some settings; returns false if the browser does not keep them. */
  change(settings) {
    this.settings = readSettings({ ...this.settings, ...settings });
    try {
      this.#local.setItem(NAME, JSON.stringify(this.settings));
      return true;
    } catch {
      return false;
    }
  }

  /** Changes the API key. It is kept until the tab closes. */
  changeKey(key) {
    this.key = key.trim();
    if (this.key) this.#session.setItem(KEY_NAME, this.key);
    else this.#session.removeItem(KEY_NAME);
  }
}
