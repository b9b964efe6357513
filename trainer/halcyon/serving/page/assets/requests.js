// Requests to the server: the models, and an answer as a stream (OpenAI's `/v1/models` and `/v1/chat/completions`).
// Addresses are relative to the page, so it also works below a path, behind a proxy.
import { retryAfter } from "./retry.js";
import { readEvents } from "./sse.js";

/** An answer that says why there is no text. `message` is a whole sentence for the user. */
export class RequestError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, retryAfter?: number | null}} [details] Status 0: no HTTP answer.
   */
  constructor(message, { status = 0, retryAfter = null } = {}) {
    super(message);
    this.name = "RequestError";
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/**
 * The models that the server has.
 * @param {string} key API key, or "".
 * @returns {Promise<{id: string, step: number | null, longest: number | null, images: number | null}[]>} `step` of its checkpoint, the longest
 *   text in tokens, and most images of a conversation, where the server says them.
 * @throws {RequestError}
 */
export async function listModels(key) {
  const response = await send("v1/models", { headers: headers(key) });
  const document = await response.json().catch(() => null);
  const models = Array.isArray(document?.data) ? document.data.filter((model) => typeof model?.id === "string" && model.id) : [];
  if (!models.length) throw new RequestError("The server lists no model.");
  const number = (value) => (Number.isSafeInteger(value) ? value : null);
  return models.map((model) => ({
    id: model.id,
    step: number(Number.parseInt(/^step-(\d{1,15})-/.exec(model.system_fingerprint)?.[1], 10)),
    longest: number(model.max_model_len),
    images: number(model.max_images),
  }));
}

/**
 * Asks for an answer and yields its pieces.
 * @param {object} body The request, without `stream`.
 * @param {{key: string, signal: AbortSignal}} options
 * @yields {{thinking: string} | {text: string, ids: number[]} | {finish: string} | {tokens: number}} Thinking and text as they come, the
 *   latter with the ids of its tokens, as far as the server says them; then once why it ended: "stop", "length", "tool_calls", …, and the
 *   number of tokens if the server says it.
 * @throws {RequestError} The server rejects the request, reports an error, or the connection ends before the answer does.
 */
export async function* streamAnswer(body, { key, signal }) {
  const response = await send("v1/chat/completions", {
    method: "POST",
    headers: { ...headers(key), "Content-Type": "application/json", Accept: "text/event-stream" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true }, logprobs: true }),
    signal,
  });
  let finished = false;
  try {
    for await (const data of readEvents(response.body)) {
      if (data === "[DONE]") {
        finished = true;
        break;
      }
      const chunk = parse(data);
      if (chunk.error) throw new RequestError(sentence(chunk, "The server reports an error in the answer."));
      const choice = chunk.choices?.[0];
      const { content, reasoning_content: thinking } = choice?.delta ?? {};
      if (typeof thinking === "string" && thinking) yield { thinking };
      const ids = (choice?.logprobs?.content ?? []).map(({ id }) => id).filter(Number.isSafeInteger);
      if (typeof content === "string" && (content || ids.length)) yield { text: content, ids };
      if (choice?.finish_reason) {
        finished = true;
        yield { finish: String(choice.finish_reason) };
      }
      if (Number.isSafeInteger(chunk.usage?.completion_tokens)) yield { tokens: chunk.usage.completion_tokens };
    }
  } catch (error) {
    throw error instanceof RequestError || signal.aborted ? error : new RequestError("The connection ended before the answer was complete.");
  }
  if (!finished) throw new RequestError("The connection ended before the answer was complete.");
}

function headers(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Sends a request; returns the response if it is good. */
async function send(path, options) {
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...options, cache: "no-store", credentials: "same-origin", redirect: "error" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new RequestError("The server cannot be reached. Check that it runs, then try again.");
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  throw new RequestError(sentence(answer, meaning(response.status)), {
    status: response.status,
    retryAfter: retryAfter(response.headers.get("Retry-After"), Date.now()),
  });
}

function parse(data) {
  try {
    const chunk = JSON.parse(data);
    if (chunk && typeof chunk === "object") return chunk;
  } catch {
    // Reported below, like any JSON that is no object.
  }
  throw new RequestError("The server sent a piece of the answer that is not valid.");
}

/** The message of an error document, at most 500 characters; or another sentence. */
function sentence(answer, otherwise) {
  const message = typeof answer?.error === "string" ? answer.error : answer?.error?.message;
  return typeof message === "string" && message.trim() ? message.trim().slice(0, 500) : otherwise;
}

function meaning(status) {
  if (status === 401 || status === 403) return "The server needs a valid API key. Enter it in the settings.";
  if (status === 413) return "The conversation is too long for the server. Start a new one.";
  if (status === 429) return "The server is busy.";
  return `The server answered with status ${status}.`;
}
