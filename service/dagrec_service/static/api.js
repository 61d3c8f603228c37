// Requests to the service. URLs are relative, since the service may be behind a proxy that strips a prefix.

const KEY = "dagrec-api-key";

/** An error with a readable message; `status` is 0 if the service could not be reached. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function setKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** Returns the parsed response and its request id. Throws Problem, or AbortError if aborted. */
async function send(path, { body, signal } = {}) {
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
    // Not a response of the service, but for example a proxy's page: only its status is used.
  }
  if (!response.ok) {
    const detail = value?.detail ?? response.statusText ?? "";
    throw new Problem(response.status, typeof detail === "string" && detail ? detail : `status ${response.status}`);
  }
  if (value === null && text) throw new Problem(response.status, `${path}: the response is not JSON`);
  return { value, id: response.headers.get("X-Request-ID") };
}

export const models = async () => (await send("models")).value;
export const examples = async () => (await send("playground/examples")).value;

export async function keys(search, signal) {
  return (await send(`playground/keys?limit=60&search=${encodeURIComponent(search)}`, { signal })).value;
}

/** Converts a composition of any format to native JSON. Returns {composition, format, dropped}. */
export async function convert(document) {
  const { value } = await send("compositions/validate", { body: document });
  if (value.valid) return value;
  throw new Error(value.problems.map((problem) => problem.message).join("\n"));
}

/** Returns the answers as a list, even if there is one, and the request id. */
export async function predict(request, signal) {
  const { value, id } = await send("predict", { body: request, signal });
  return { answers: value.answers ?? [value], took: value.took_ms, id };
}

/** Reports which suggestion was taken. Errors are ignored: feedback may be off, or the request too old. */
export function reportTaken(requestId, fields) {
  if (!requestId) return;
  send("feedback", { body: { request_id: requestId, action: "taken", ...fields } }).catch(() => {});
}
