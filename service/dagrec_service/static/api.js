// What the page asks of the service. Addresses are relative: it may live behind a proxy's prefix.

const KEY = "dagrec-api-key";

/** A failure in words; `status` is 0 where the service could not be reached. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function setKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** The parsed answer, and the request id to give feedback on. Raises Problem; AbortError where aborted. */
async function ask(path, { body, signal } = {}) {
  const headers = { Accept: "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers["X-API-Key"] = key;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "the service cannot be reached; is it running?");
  }
  const text = await response.text();
  let value = null;
  try {
    value = text ? JSON.parse(text) : null;
  } catch {
    // Not of the service: a proxy's page, for example. Its status still says something.
  }
  if (!response.ok) {
    const detail = value?.detail ?? response.statusText ?? "";
    throw new Problem(response.status, typeof detail === "string" && detail ? detail : `status ${response.status}`);
  }
  if (value === null && text) throw new Problem(response.status, `${path}: the answer is no JSON`);
  return { value, id: response.headers.get("X-Request-ID") };
}

export const models = async () => (await ask("models")).value;
export const examples = async () => (await ask("playground/examples")).value;

export async function keys(search, signal) {
  return (await ask(`playground/keys?limit=60&search=${encodeURIComponent(search)}`, { signal })).value;
}

/** One list of answers, whatever the request; and the id of the request. */
export async function predict(request, signal) {
  const { value, id } = await ask("predict", { body: request, signal });
  return { answers: value.answers ?? [value], took: value.took_ms, id };
}

/** Tells which suggestion was taken; a service that keeps no feedback, or forgot the request, is no problem. */
export function taken(requestId, what) {
  if (!requestId) return;
  ask("feedback", { body: { request_id: requestId, action: "taken", ...what } }).catch(() => {});
}
