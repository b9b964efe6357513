// The settings of the page, and where each is kept: the API key in sessionStorage, which ends with the tab; all others in localStorage.

const NAME = "halcyon.chat.settings";
const KEY_NAME = "halcyon.chat.key";
const THEMES = ["system", "light", "dark"];

/** Settings of a new browser. null: the page does not send the field, so the server's own default holds. */
export const DEFAULTS = Object.freeze({ model: "", temperature: null, topP: null, maxTokens: null, system: "", theme: "system" });

/**
 * Reads settings from any value. A setting that is missing or not valid gets its default.
 * @param {unknown} value
 */
export function readSettings(value) {
  const given = typeof value === "object" && value !== null ? value : {};
  return {
    model: typeof given.model === "string" ? given.model : DEFAULTS.model,
    temperature: numberIn(given.temperature, 0, 2),
    topP: given.topP === 0 ? null : numberIn(given.topP, 0, 1),
    maxTokens: Number.isInteger(given.maxTokens) ? numberIn(given.maxTokens, 1, 1_000_000) : null,
    system: typeof given.system === "string" ? given.system.slice(0, 20_000) : DEFAULTS.system,
    theme: THEMES.includes(given.theme) ? given.theme : DEFAULTS.theme,
  };
}

function numberIn(value, least, most) {
  return typeof value === "number" && value >= least && value <= most ? value : null;
}

/** The fields of a request that the settings give. */
export function requestFields(settings) {
  const fields = {};
  if (settings.temperature !== null) fields.temperature = settings.temperature;
  if (settings.topP !== null) fields.top_p = settings.topP;
  if (settings.maxTokens !== null) fields.max_tokens = settings.maxTokens;
  return fields;
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
