// The JavaScript driver: one process is one context; it runs cells in a global scope that lasts, and tells what came of them.
//
// The main thread evaluates cells through V8's inspector, which knows top-level await and lets a later cell declare a
// `const` anew. A worker thread reads commands, so that an endless loop cannot keep an interrupt from being read: what the
// main thread does not answer, the worker terminates. Messages leave as lines of JSON on descriptor 3, commands come on
// descriptor 4. It enforces nothing: the sandbox around it does.
"use strict";

/* global require, process */

const { Worker } = require("node:worker_threads");
const { Console } = require("node:console");
const { StringDecoder } = require("node:string_decoder");
const { Writable } = require("node:stream");
const { createRequire } = require("node:module");
const { pathToFileURL } = require("node:url");
const fs = require("node:fs");
const inspector = require("node:inspector");
const path = require("node:path");
const util = require("node:util");

/** How long the main thread may take to see an interrupt by itself, milliseconds. */
const PATIENCE_MS = 150;

/** What runs in the worker: reads commands, passes them on, and ends what does not listen. */
function listen() {
  const { parentPort, workerData } = require("node:worker_threads");
  const fs = require("node:fs");
  const inspector = require("node:inspector");
  const seen = new Int32Array(workerData.shared);
  const session = new inspector.Session();
  session.connectToMainThread();
  let asked = 0;

  // The main thread asks to be stopped where it is, and waits for that.
  parentPort.on("message", () => session.post("Runtime.terminateExecution"));

  function obey(command) {
    if (command.op === "interrupt") {
      const number = command.number = ++asked;
      // Only code that is executing may be terminated: the mark would else stay and end the driver's own next call.
      setTimeout(() => Atomics.load(seen, 0) < number && session.post("Runtime.terminateExecution"), workerData.patience);
    }
    parentPort.postMessage(command);
  }

  let rest = Buffer.alloc(0);
  const chunk = Buffer.alloc(65536);
  function read() {
    fs.read(4, chunk, 0, chunk.length, null, (error, bytes) => {
      if (error || bytes === 0) process.exit(0);
      rest = Buffer.concat([rest, chunk.subarray(0, bytes)]);
      for (let end; (end = rest.indexOf(10)) !== -1; rest = rest.subarray(end + 1)) obey(JSON.parse(rest.subarray(0, end)));
      read();
    });
  }
  read();
}

/** Static and dynamic imports as calls that a cell may make; strings and comments stay as they are. */
function withImports(code) {
  const named = (names) => names.replace(/\s+as\s+/g, ": ");
  const statement = /^([ \t]*)import\s+(?:([\w$]+)\s*,?\s*)?(?:\*\s*as\s+([\w$]+)|\{([^}]*)\})?\s*(?:from\s*)?(["'])([^"']+)\5;?[ \t]*$/gm;
  const lines = code.replace(statement, (whole, indent, main, all, names, _, source) => {
    const call = `await __import(${JSON.stringify(source)})`;
    if (all) return `${indent}const ${all} = ${call};${main ? ` const ${main} = ${all}.default;` : ""}`;
    const wanted = [main && `default: ${main}`, names && named(names)].filter(Boolean).join(", ");
    return wanted ? `${indent}const {${wanted}} = ${call};` : `${indent}${call};`;
  });
  const token = /\/\/[^\n]*|\/\*[\s\S]*?\*\/|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\[\s\S])*`|(?<![\w$.])import(?=\s*\()/g;
  return lines.replace(token, (found) => (found === "import" ? "__import" : found));
}

/** The daemon takes no larger message than 32 MiB. */
const MESSAGE_BYTES_MAX = 24 << 20;
const CUT_CHARACTERS = 1_000_000;

/** A message that is too large without its largest formats, or with its texts cut; and said to be. */
function shortened(message) {
  const sizes = Object.entries(message).map(([name, value]) => [name, Buffer.byteLength(JSON.stringify(value) ?? "")]);
  const kept = {}, dropped = [];
  let size = 65536;
  for (const [name, bytes] of sizes.sort((one, other) => one[1] - other[1])) {
    size += bytes;
    if (size <= MESSAGE_BYTES_MAX) kept[name] = message[name];
    else if (message.type === "result") dropped.push(name);
    else kept[name] = `${String(message[name]).slice(0, CUT_CHARACTERS)}…`;
  }
  if (dropped.length === 0) return kept;
  const note = `[dropped, as a result holds at most ${MESSAGE_BYTES_MAX >> 20} MiB: ${dropped.join(", ")}]`;
  return { ...kept, text: kept.text ? `${kept.text}\n${note}` : note };
}

/** Writes a message whole, waiting where the reader is slow. */
function send(message) {
  let line = Buffer.from(`${JSON.stringify(message)}\n`);
  if (line.length > MESSAGE_BYTES_MAX) line = Buffer.from(`${JSON.stringify(shortened(message))}\n`);
  for (let at = 0; at < line.length;) {
    try {
      at += fs.writeSync(3, line, at);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
  }
}

const FORMATS = {
  "text/plain": "text", "text/html": "html", "text/markdown": "markdown", "image/svg+xml": "svg", "image/png": "png",
  "image/jpeg": "jpeg", "application/pdf": "pdf", "text/latex": "latex", "application/json": "json",
  "application/javascript": "javascript",
};

/** Formats of a value: its text always, others where it has the display method that notebooks know. */
function describe(value) {
  const found = { text: typeof value === "string" ? value : util.inspect(value, { depth: 4, maxArrayLength: 1000 }) };
  const display = value?.[Symbol.for("Jupyter.display")];
  if (typeof display !== "function") return found;
  for (const [mime, made] of Object.entries(display.call(value) ?? {})) {
    if (FORMATS[mime]) found[FORMATS[mime]] = made;
    else (found.extra ??= {})[mime] = made;
  }
  return found;
}

/** Thrown where code called `process.exit()` and there is nothing of it on the stack but a callback. */
const LEFT = Symbol("process.exit");

/** Cells, one after the other. */
class Kernel {
  constructor() {
    this.waiting = [];
    this.running = null;
    this.count = 0;
    this.last = null;
    /** Code of a cell is on the stack now. */
    this.inside = false;
    this.session = new inspector.Session();
    this.session.connect();
  }

  execute(command) {
    this.waiting.push(command);
    this.next();
  }

  interrupt(command) {
    const cell = this.running;
    if (!cell || (command.cell ?? cell.cell) !== cell.cell) return;
    this.fail(cell, "Interrupted", "the execution was interrupted", "Interrupted: the execution was interrupted");
  }

  next() {
    if (this.running || this.waiting.length === 0) return;
    const cell = this.running = this.waiting.shift();
    this.last = cell.cell;
    cell.number = ++this.count;
    send({ type: "number_of_executions", cell: cell.cell, execution_count: cell.number });
    const added = cell.env ?? {};
    cell.before = Object.fromEntries(Object.keys(added).map((name) => [name, process.env[name]]));
    Object.assign(process.env, added);
    const code = withImports(cell.code);
    // What begins with a brace is first tried as an object, as a terminal does.
    if (!/^\s*\{/.test(code) || /;\s*$/.test(code)) return this.evaluate(cell, code);
    const expression = `(${code}\n)`;
    this.session.post("Runtime.compileScript", { expression, sourceURL: "", persistScript: false, executionContextId: 1 },
      (error, compiled) => this.evaluate(cell, error || compiled.exceptionDetails ? code : expression));
  }

  evaluate(cell, code) {
    const expression = `${code}\n//# sourceURL=cell-${cell.number}.js`;
    this.inside = true;
    this.session.post("Runtime.evaluate", { expression, replMode: true, awaitPromise: true }, (error, answer) => {
      this.inside = false;
      if (this.running !== cell) return;
      if (error) return this.interrupt(cell);
      if (answer.exceptionDetails) return this.thrown(cell, answer.exceptionDetails);
      this.shown(cell, answer.result);
    });
    // What is left of it goes on by itself.
    this.inside = false;
  }

  shown(cell, result) {
    if (result.type === "undefined") return this.finish(cell);
    const { objectId, unserializableValue, value } = result;
    const argument = objectId ? { objectId } : unserializableValue ? { unserializableValue } : { value };
    const show = (shown) => send({ type: "result", cell: cell.cell, is_main_result: true, ...describe(shown) });
    globalThis[Symbol.for("mote.show")] = show;
    this.session.post("Runtime.callFunctionOn", {
      functionDeclaration: "function (value) { globalThis[Symbol.for('mote.show')](value); }",
      executionContextId: 1, arguments: [argument],
    }, (error, answer) => {
      delete globalThis[Symbol.for("mote.show")];
      if (this.running !== cell) return;
      if (error || answer.exceptionDetails) show(result.description);
      if (objectId) this.session.post("Runtime.releaseObject", { objectId });
      this.finish(cell);
    });
  }

  thrown(cell, details) {
    const thrown = details.exception ?? {};
    const told = thrown.description ?? String(thrown.value ?? thrown.unserializableValue ?? details.text);
    // The frames below the cell's own are the driver's.
    const text = told.split("\n    at Session.post (node:inspector", 1)[0];
    const name = thrown.className ?? (thrown.type ? `Thrown ${thrown.type}` : "Error");
    const first = text.split("\n", 1)[0];
    this.fail(cell, name, first.startsWith(`${name}: `) ? first.slice(name.length + 2) : first, text);
  }

  fail(cell, name, value, traceback) {
    send({ type: "error", cell: cell.cell, name, value, traceback });
    this.finish(cell);
  }

  /** `process.exit()`: the cell is over, at once, and the context lives on. */
  exit(code, stop) {
    const cell = this.running;
    const status = Number(code ?? process.exitCode ?? 0) || 0;
    process.exitCode = undefined;
    if (cell && status === 0) this.finish(cell);
    else if (cell) {
      const value = `the code called process.exit(${status})`;
      this.fail(cell, "ProcessExit", value, `ProcessExit: ${value}`);
    }
    // Nothing after it may run, and no `catch` may hold it up: stopped from outside, where that is possible.
    if (this.inside) for (stop(); ;);
    throw LEFT;
  }

  finish(cell) {
    if (this.running !== cell) return;
    // The environment of one cell is not the next one's.
    for (const [name, value] of Object.entries(cell.before)) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
    this.running = null;
    send({ type: "end_of_execution", cell: cell.cell });
    setImmediate(() => this.next());
  }
}

/** What is printed becomes messages, in the order of printing. */
function capture(kernel) {
  const epoch = BigInt(Date.now()) * 1000000n - process.hrtime.bigint();
  const printing = (type) => {
    const decoder = new StringDecoder("utf8");
    const write = (chunk, encoding, done) => {
      const text = typeof chunk === "string" ? chunk : decoder.write(chunk);
      for (let at = 0; at < text.length; at += CUT_CHARACTERS) {
        const part = text.slice(at, at + CUT_CHARACTERS);
        send({ type, cell: kernel.last, text: part, timestamp: Number(process.hrtime.bigint() + epoch) });
      }
      const called = typeof encoding === "function" ? encoding : done;
      if (called) called();
      return true;
    };
    process[type].write = write;
    return new Writable({ decodeStrings: false, write: (chunk, encoding, done) => void write(chunk, encoding, done) });
  };
  const stdout = printing("stdout");
  const stderr = printing("stderr");
  globalThis.console = new Console({ stdout, stderr, colorMode: false });
  const report = (error) => error !== LEFT && stderr.write(`Uncaught ${util.inspect(error)}\n`);
  process.on("uncaughtException", report);
  process.on("unhandledRejection", report);
}

/** What cells may call: modules are found from the working directory. */
function equip(kernel) {
  const load = globalThis[Symbol.for("mote.import")];
  const here = () => createRequire(path.join(process.cwd(), "cell.js"));
  const found = (name) => {
    if (/^\.{0,2}\//.test(name)) return pathToFileURL(path.resolve(name)).href;
    if (/^[a-z]+:/.test(name)) return name;
    try {
      const resolved = here().resolve(name);
      return path.isAbsolute(resolved) ? pathToFileURL(resolved).href : resolved;
    } catch {
      return name;
    }
  };
  Object.assign(globalThis, {
    require: Object.assign((name) => here()(name), { resolve: (name) => here().resolve(name) }),
    __import: (name) => load(found(name)),
    display: (value) => void send({ type: "result", cell: kernel.last, is_main_result: false, ...describe(value) }),
  });
}

function start() {
  const kernel = new Kernel();
  capture(kernel);
  equip(kernel);
  const shared = new SharedArrayBuffer(4);
  const seen = new Int32Array(shared);
  const leave = process.exit.bind(process);
  const worker = new Worker(`(${listen})();`, { eval: true, workerData: { shared, patience: PATIENCE_MS } });
  worker.on("message", (command) => {
    if (command.op === "execute") return kernel.execute(command);
    Atomics.store(seen, 0, command.number);
    kernel.interrupt(command);
  });
  // The context lives as long as its commands can come, also when the user's code is idle.
  worker.on("exit", () => leave(0));
  process.exit = process.reallyExit = (code) => kernel.exit(code, () => worker.postMessage("stop"));
  send({ type: "ready", cwd: process.cwd() });
}

start();
