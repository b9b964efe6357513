// When to repeat a request that the server was too busy to take.

/** Most tries of one question. */
export const TRIES = 5;
/** The longest wait, in seconds. A server that asks for more is reported as an error, and the user decides. */
export const LONGEST_WAIT = 120;

/**
 * Reads the header Retry-After: seconds, or a date (RFC 9110, section 10.2.3).
 * @param {string | null} header
 * @param {number} now Milliseconds since 1970.
 * @returns {number | null} Whole seconds of at least 0; null if the header is missing or not valid.
 */
export function retryAfter(header, now) {
  const text = header?.trim() ?? "";
  if (/^\d+$/.test(text)) return Number(text);
  const date = /[A-Za-z]/.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(date) ? null : Math.max(0, Math.ceil((date - now) / 1000));
}

/**
 * Decides whether to try again.
 * @param {{status: number, retryAfter: number | null}} error The answer of the server.
 * @param {number} tried Tries so far, 1 after the first.
 * @returns {number | null} Seconds to wait before the next try; null if there is none.
 */
export function waitBefore(error, tried) {
  const busy = error.status === 429 || (error.status === 503 && error.retryAfter !== null);
  if (!busy || tried >= TRIES) return null;
  const seconds = error.retryAfter ?? 2 ** (tried - 1);
  return seconds > LONGEST_WAIT ? null : Math.max(1, seconds);
}

/**
 * Waits, and reports the seconds left: at once, then each second.
 * @param {number} seconds
 * @param {AbortSignal} signal Its abort ends the wait with the reason as an error.
 * @param {(left: number) => void} report
 */
export async function wait(seconds, signal, report) {
  for (let left = seconds; left > 0; left -= 1) {
    report(left);
    await new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const aborted = () => {
        clearTimeout(timer);
        reject(signal.reason);
      };
      const timer = setTimeout(() => {
        signal.removeEventListener("abort", aborted);
        resolve();
      }, 1000);
      signal.addEventListener("abort", aborted, { once: true });
    });
  }
}
