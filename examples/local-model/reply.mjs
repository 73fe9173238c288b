// A held reply, `{"tool": …, "arguments": …}` or `{"answer": …}`, as deltas of Chat Completions while it grows.
//
// It does not check the JSON: the grammar under which it was written does.

import {randomUUID} from "node:crypto";

const CALL = /^\s*\{\s*"tool"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*/;
const ANSWER = /^\s*\{\s*"answer"\s*:\s*/;
/** The longest beginning of a JSON string that can be read by itself. */
const STRING = /^\s*"((?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*)/;

/** A reply of one form: `as it is`, `call or JSON`, `call or text`. */
export class Reply {
  #form; #text = ""; #sent = 0; #kind; #begin = 0;

  constructor(form) {
    this.#form = form;
    if (form === "as it is") this.#kind = "content";
  }

  /** Whether it is a call. */
  get isCall() {
    return this.#kind === "call";
  }

  /** Takes a piece; returns the deltas that are certain now. */
  push(piece) {
    this.#text += piece;
    return this.#deltas(false);
  }

  /** The deltas that were held back; `whole` is whether the reply came to its own end. */
  end(whole) {
    return this.#deltas(whole);
  }

  #deltas(whole) {
    const deltas = this.#kind ? [] : this.#begun();
    if (!this.#kind) return deltas;
    const ready = this.#ready(whole);
    const fresh = ready.slice(this.#sent);
    this.#sent = Math.max(this.#sent, ready.length);
    if (fresh === "") return deltas;
    deltas.push(this.isCall ? {tool_calls: [{index: 0, function: {arguments: fresh}}]} : {content: fresh});
    return deltas;
  }

  /** Finds out what the reply is. */
  #begun() {
    const call = CALL.exec(this.#text);
    if (call) {
      this.#kind = "call";
      this.#begin = call[0].length;
      const named = {name: JSON.parse(call[1]), arguments: ""};
      return [{tool_calls: [{index: 0, id: `call_${randomUUID()}`, type: "function", function: named}]}];
    }
    const answer = ANSWER.exec(this.#text);
    if (answer) {
      this.#kind = "content";
      this.#begin = answer[0].length;
    }
    return [];
  }

  /** What may be sent so far: of held JSON not the brace that closes what the grammar put around it. */
  #ready(whole) {
    const rest = this.#text.slice(this.#begin);
    if (this.#form === "as it is") return rest;
    if (!this.isCall && this.#form === "call or text") return JSON.parse(`"${STRING.exec(rest)?.[1] ?? ""}"`);
    return whole ? rest.replace(/\s*\}\s*$/, "") : rest.replace(/[\s}]*$/, "");
  }
}
