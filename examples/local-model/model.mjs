// The model: loads the weights, turns messages into a prompt, and holds the reply to a grammar.
//
// It knows nothing of HTTP. One reply at a time is generated; others wait their turn.

import {join} from "node:path";
import {pathToFileURL} from "node:url";

/** Characters of a string, where its schema sets no bound: a small model may not find the end by itself. */
const STRING_CHARS_MAX = 120;
/** Items of an array, where its schema sets no bound. */
const ARRAY_ITEMS_MAX = 6;
/** Tokens of a reply, where the request sets no bound. */
const REPLY_TOKENS_MAX = 512;
/** Tokens that have to be free behind a prompt, where the request sets no bound. */
const REPLY_TOKENS_MIN = 32;

/** The prompt leaves no room for a reply. */
export class ContextLengthExceeded extends Error {}
/** A schema that no grammar can be made of. */
export class UnusableSchema extends Error {}

export class Model {
  #llama; #model; #context; #chat; #calls; #turn = Promise.resolve();

  /** Loads the weights of a folder. `calls` is how many calls a turn has at least and at most. */
  static async load(folder, {context, threads, calls}) {
    const library = pathToFileURL(join(folder, "node_modules/node-llama-cpp/dist/index.js"));
    const {getLlama, LlamaChat} = await import(library);
    const self = new Model();
    // The prebuilt binary or nothing: building one takes a compiler and a quarter of an hour.
    self.#llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: threads});
    self.#model = await self.#llama.loadModel({modelPath: join(folder, "model.gguf")});
    self.#context = await self.#model.createContext({contextSize: context, sequences: 1});
    self.#chat = new LlamaChat({contextSequence: self.#context.getSequence()});
    self.#calls = calls;
    return self;
  }

  get contextSize() {
    return this.#context.contextSize;
  }

  /**
   * What a request of Chat Completions asks for, checked: the prompt, its size in tokens, and the grammar.
   * `held` is whether tools are chosen by a grammar.
   */
  async prepare(request, held) {
    const tools = request.tools ?? [];
    const schema = wantedSchema(request);
    const rules = tools.length > 0 && held ? this.#rules(request, tools, schema) : schema && bounded(schema);
    const grammar = rules ? await this.#grammar(rules) : undefined;
    const history = conversation(request.messages, tools);
    const promptTokens = this.#chat.chatWrapper.generateContextState({chatHistory: history})
      .contextText.tokenize(this.#model.tokenizer).length;
    // One token is kept free: at a full context the library would drop the beginning of the conversation.
    const room = this.contextSize - promptTokens - 1;
    const wanted = request.max_completion_tokens ?? request.max_tokens;
    if (room < (wanted ?? REPLY_TOKENS_MIN)) {
      throw new ContextLengthExceeded(
        `This model's maximum context length is ${this.contextSize} tokens. However, you requested ` +
        `${promptTokens + (wanted ?? REPLY_TOKENS_MIN)} tokens (${promptTokens} in the messages, ${wanted ?? REPLY_TOKENS_MIN} ` +
        "in the completion). Please reduce the length of the messages or completion.");
    }
    const maxTokens = wanted ?? Math.min(REPLY_TOKENS_MAX, room);
    const temperature = request.temperature ?? 0;
    const form = tools.length > 0 && held ? (schema ? "call or JSON" : "call or text") : "as it is";
    return {history, grammar, promptTokens, maxTokens, temperature, form};
  }

  /** Generates the reply to what was prepared; `onText` gets its pieces. Ends early when `signal` says so. */
  async reply(prepared, signal, onText) {
    const before = this.#turn;
    const turn = Promise.withResolvers?.() ?? withResolvers();
    this.#turn = turn.promise;
    await before;
    try {
      signal.throwIfAborted();
      let completionTokens = 0;
      const {metadata} = await this.#chat.generateResponse(prepared.history, {
        signal,
        maxTokens: prepared.maxTokens,
        temperature: prepared.temperature,
        repeatPenalty: {penalty: 1.1},
        ...(prepared.grammar && {grammar: prepared.grammar}),
        onToken: tokens => { completionTokens += tokens.length; },
        onTextChunk: onText,
      });
      return {completionTokens, cut: metadata.stopReason === "maxTokens"};
    } finally {
      turn.resolve();
    }
  }

  /** A call of one of the tools, or an answer: which of them is allowed depends on the calls of the turn so far. */
  #rules(request, tools, schema) {
    const turn = request.messages.findLastIndex(message => message.role === "user");
    const made = request.messages.slice(turn + 1).filter(message => message.role === "tool").length;
    const allowed = [];
    if (made < this.#calls.most && request.tool_choice !== "none") {
      for (const {function: tool} of tools) {
        const call = {tool: {const: tool.name}, arguments: bounded(tool.parameters ?? {type: "object"})};
        allowed.push({type: "object", properties: call, required: ["tool", "arguments"]});
      }
    }
    if (made >= this.#calls.least || allowed.length === 0) {
      const answer = schema ? bounded(schema) : {type: "string", maxLength: STRING_CHARS_MAX * 4};
      allowed.push({type: "object", properties: {answer}, required: ["answer"]});
    }
    return allowed.length === 1 ? allowed[0] : {oneOf: allowed};
  }

  async #grammar(rules) {
    try {
      return await this.#llama.createGrammarForJsonSchema(rules);
    } catch (error) {
      throw new UnusableSchema(`no grammar can be made of the schema: ${error.message}`);
    }
  }
}

/** `Promise.withResolvers`, which Node 20 does not have. */
function withResolvers() {
  let resolve;
  const promise = new Promise(done => { resolve = done; });
  return {promise, resolve};
}

/**
 * The schema that the answer has to satisfy: of `response_format`, or the system message's last line where that is one.
 * A larger model follows such a line by itself.
 */
function wantedSchema(request) {
  const format = request.response_format;
  if (format?.type === "json_schema") return format.json_schema?.schema;
  if (format?.type === "json_object") return {type: "object", additionalProperties: true};
  const system = request.messages.find(message => message.role === "system");
  const last = plain(system?.content).split("\n").at(-1);
  try {
    const schema = JSON.parse(last);
    return schema?.type === "object" && schema.properties ? schema : undefined;
  } catch {
    return undefined;
  }
}

/** What the library's grammars know of JSON Schema, with bounds where there are none. What else is asked for, the caller checks. */
function bounded(schema) {
  if (schema === true || schema === undefined) return {type: "string", maxLength: STRING_CHARS_MAX};
  const {type, properties, items, prefixItems, minItems, maxItems, minLength, maxLength} = schema;
  const either = schema.oneOf ?? schema.anyOf;
  if (either) return {oneOf: either.map(bounded)};
  if ("const" in schema) return {const: schema.const};
  if (schema.enum) return {enum: schema.enum};
  if (type === "object" || properties) {
    const inner = Object.entries(properties ?? {}).map(([name, value]) => [name, bounded(value)]);
    const required = schema.required ?? [];
    return {type: "object", properties: Object.fromEntries(inner), required, additionalProperties: schema.additionalProperties === true};
  }
  if (type === "array") {
    const most = Math.max(minItems ?? 0, Math.min(maxItems ?? ARRAY_ITEMS_MAX, 4096));
    return {type, items: bounded(items), ...(prefixItems && {prefixItems: prefixItems.map(bounded)}), minItems: minItems ?? 0, maxItems: most};
  }
  if (type === "string") return {type, minLength: minLength ?? 0, maxLength: maxLength ?? Math.max(STRING_CHARS_MAX, minLength ?? 0)};
  return {type: type ?? "string"};
}

/** Messages as the library takes them. Tools and their results are told in words: the model was not trained on any form. */
function conversation(messages, tools) {
  const history = [];
  const system = messages.filter(({role}) => role === "system" || role === "developer").map(({content}) => plain(content));
  if (tools.length > 0) {
    const lines = tools.map(({function: tool}) =>
      `${tool.name}(${Object.keys(tool.parameters?.properties ?? {}).join(", ")}): ${tool.description ?? ""}`);
    system.push(`Tools:\n${lines.join("\n")}`);
  }
  if (system.length > 0) history.push({type: "system", text: system.join("\n\n")});
  for (const message of messages) {
    if (message.role === "user") history.push({type: "user", text: plain(message.content)});
    if (message.role === "tool") history.push({type: "user", text: `Result: ${plain(message.content)}`});
    if (message.role === "assistant") {
      const calls = (message.tool_calls ?? []).map(({function: call}) => `{"tool": ${JSON.stringify(call.name)}, "arguments": ${call.arguments}}`);
      history.push({type: "model", response: [plain(message.content), ...calls].filter(text => text !== "")});
    }
  }
  if (history.at(-1)?.type !== "model") history.push({type: "model", response: []});
  return history;
}

/** The text of a message's content: a string, or a list of parts. */
function plain(content) {
  if (Array.isArray(content)) return content.map(part => part.text ?? "").join("");
  return content ?? "";
}
