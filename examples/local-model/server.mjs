// An OpenAI-compatible server over a small model: POST /v1/chat/completions, GET /v1/models, /health, /stats.
//
//   node server.mjs [--port 4718] [--context 2048] [--threads N] [--calls 1..2] [--exit-with-parent]
//
// `cargo xtask local-model` installs what it needs into MOTE_LOCAL_MODEL (~/.cache/mote/local-model). It serves this machine
// alone, and one reply at a time. It is no server for production: it has no keys, and its model is far too small.

import {randomUUID} from "node:crypto";
import {existsSync} from "node:fs";
import http from "node:http";
import {availableParallelism, homedir} from "node:os";
import {join} from "node:path";
import {parseArgs} from "node:util";

import {ContextLengthExceeded, Model, UnusableSchema} from "./model.mjs";
import {Reply} from "./reply.mjs";

/** Bytes of a request's body. */
const BODY_BYTES_MAX = 8 << 20;
/** Requests that may be under way or wait for their turn. */
const OPEN_MAX = 32;
/** Models by name, and whether a grammar holds their choice of tools. */
const MODELS = {"gemma-3-270m": {held: true}, "gemma-3-270m-free": {held: false}};

const {values: options} = parseArgs({options: {
  port: {type: "string", default: "4718"},
  context: {type: "string", default: "2048"},
  // Threads wait for each other by spinning: more than there are free processors make it slower by an order of magnitude.
  threads: {type: "string", default: String(Math.max(1, Math.min(8, Math.floor(availableParallelism() / 2))))},
  // How many calls a turn has: a model this small knows neither when to call nor when to stop.
  calls: {type: "string", default: "1..2"},
  "exit-with-parent": {type: "boolean", default: false},
}});

const number = (name, text) => {
  if (!/^\d+$/.test(text ?? "")) {
    console.error(`--${name}: ${text} is no number`);
    process.exit(2);
  }
  return Number(text);
};
const [least, most] = options.calls.split("..").map(bound => number("calls", bound));
const folder = process.env.MOTE_LOCAL_MODEL || join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "mote/local-model");

const stats = {requests: 0, open: 0, replied: 0, abandoned: 0, refused: 0, failed: 0, prompt_tokens: 0, completion_tokens: 0};

/** What the caller did wrong, as OpenAI answers it. */
class Refusal extends Error {
  constructor(status, code, message, headers = {}) {
    super(message);
    Object.assign(this, {status, code, headers});
  }
}

function send(response, status, body, headers = {}) {
  response.writeHead(status, {"content-type": "application/json", ...headers});
  response.end(JSON.stringify(body));
}

function fault({status, code, message, headers}) {
  const type = status >= 500 ? "server_error" : "invalid_request_error";
  return [status, {error: {message, type, param: null, code}}, headers];
}

async function read(request) {
  const chunks = [];
  let bytes = 0;
  for await (const chunk of request) {
    bytes += chunk.length;
    if (bytes > BODY_BYTES_MAX) throw new Refusal(413, "body_too_large", `The body is larger than ${BODY_BYTES_MAX} bytes.`);
    chunks.push(chunk);
  }
  let body;
  try {
    body = JSON.parse(Buffer.concat(chunks).toString());
  } catch {
    throw new Refusal(400, "invalid_json", "The body is not JSON.");
  }
  if (!Array.isArray(body?.messages) || body.messages.length === 0) {
    throw new Refusal(400, "invalid_messages", "`messages` has to be a list, and not empty.");
  }
  if (!MODELS[body.model]) {
    throw new Refusal(404, "model_not_found", `There is no model ${JSON.stringify(body.model)}; see /v1/models.`);
  }
  return body;
}

/** One request of Chat Completions, from its body to its last byte. */
async function complete(model, request, response) {
  const gone = new AbortController();
  response.on("close", () => response.writableEnded || gone.abort(new Error("the client went away")));
  const body = await read(request);
  const prepared = await model.prepare(body, MODELS[body.model].held);
  const id = `chatcmpl-${randomUUID()}`;
  const created = Math.floor(Date.now() / 1000);
  const chunk = (choices, more = {}) =>
    response.write(`data: ${JSON.stringify({id, object: "chat.completion.chunk", created, model: body.model, choices, ...more})}\n\n`);
  const reply = new Reply(prepared.form);
  const message = {role: "assistant", content: ""};
  const take = deltas => {
    for (const delta of deltas) {
      if (body.stream) chunk([{index: 0, delta, finish_reason: null}]);
      else join_delta(message, delta);
    }
  };
  if (body.stream) {
    response.writeHead(200, {"content-type": "text/event-stream", "cache-control": "no-store"});
    take([{role: "assistant", content: ""}]);
  }
  const {completionTokens, cut} = await model.reply(prepared, gone.signal, text => take(reply.push(text)));
  take(reply.end(!cut));
  const finish = cut ? "length" : reply.isCall ? "tool_calls" : "stop";
  const usage = {
    prompt_tokens: prepared.promptTokens,
    completion_tokens: completionTokens,
    total_tokens: prepared.promptTokens + completionTokens,
  };
  stats.replied += 1;
  stats.prompt_tokens += prepared.promptTokens;
  stats.completion_tokens += completionTokens;
  console.log(`replied: ${finish}, ${prepared.promptTokens} + ${completionTokens} tokens`);
  if (!body.stream) {
    send(response, 200, {id, object: "chat.completion", created, model: body.model, choices: [{index: 0, message, finish_reason: finish}], usage});
    return;
  }
  chunk([{index: 0, delta: {}, finish_reason: finish}]);
  if (body.stream_options?.include_usage) chunk([], {usage});
  response.end("data: [DONE]\n\n");
}

/** Adds a delta to a whole message. */
function join_delta(message, {content, tool_calls: [part] = []}) {
  if (content) message.content += content;
  if (part?.id) message.tool_calls = [{id: part.id, type: part.type, function: {...part.function}}];
  else if (part) message.tool_calls[0].function.arguments += part.function.arguments;
}

async function serve(model, request, response) {
  stats.requests += 1;
  stats.open += 1;
  try {
    if (stats.open > OPEN_MAX) throw new Refusal(429, "rate_limit_exceeded", "Too many requests wait.", {"retry-after": "1"});
    await complete(model, request, response);
  } catch (error) {
    if (error instanceof ContextLengthExceeded) error = new Refusal(400, "context_length_exceeded", error.message);
    if (error instanceof UnusableSchema) error = new Refusal(400, "invalid_schema", error.message);
    if (response.destroyed && !response.writableEnded) {
      stats.abandoned += 1;
      console.log("abandoned: the client went away");
    } else if (error instanceof Refusal) {
      stats.refused += 1;
      console.log(`refused: ${error.status} ${error.code}`);
      send(response, ...fault(error));
    } else {
      stats.failed += 1;
      console.error("failed:", error);
      if (response.headersSent) response.destroy();
      else send(response, ...fault({status: 500, code: "internal", message: String(error)}));
    }
  } finally {
    stats.open -= 1;
  }
}

if (!existsSync(join(folder, "model.gguf"))) {
  console.error(`There is no model in ${folder}. Install it with: cargo xtask local-model`);
  process.exit(1);
}
const model = await Model.load(folder, {context: number("context", options.context), threads: number("threads", options.threads), calls: {least, most}});
const server = http.createServer((request, response) => {
  const route = `${request.method} ${new URL(request.url, "http://local").pathname}`;
  switch (route) {
    case "POST /v1/chat/completions":
      return serve(model, request, response);
    case "GET /v1/models":
      return send(response, 200, {object: "list", data: Object.keys(MODELS).map(id => ({id, object: "model", owned_by: "local"}))});
    case "GET /health":
      return send(response, 200, {ok: true});
    case "GET /stats":
      return send(response, 200, stats);
    default:
      return send(response, ...fault({status: 404, code: "unknown_url", message: `There is no ${route}.`}));
  }
});
server.listen(number("port", options.port), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}/v1, ${model.contextSize} tokens of context`);
});
if (options["exit-with-parent"]) process.stdin.resume().on("end", () => process.exit(0));
