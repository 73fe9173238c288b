// E2B's code interpreter as its SDK for JavaScript meets it: what its server's own tests hold.
import assert from "node:assert/strict";
import { Sandbox } from "@e2b/code-interpreter";

const sandbox = await Sandbox.create({ timeoutMs: 600_000 });
const known = await sandbox.listCodeContexts();
assert.deepEqual(known.map(({ language, cwd }) => [language, cwd]), [["python", "/home/user"], ["javascript", "/home/user"]]);
assert.equal((await sandbox.runCode("kept = 5; kept", { context: known[0] })).text, "5");
assert.equal((await sandbox.runCode("kept")).text, "5");

const heard = [];
const printed = await sandbox.runCode('print("hello")', { onStdout: (message) => heard.push(message.line) });
assert.deepEqual([heard, printed.logs.stdout], [["hello\n"], ["hello\n"]]);
assert.deepEqual((await sandbox.runCode("echo hello", { language: "bash" })).logs.stdout, ["hello\n"]);
assert.deepEqual((await sandbox.runCode('console.log("hello")', { language: "js" })).logs.stdout, ["hello\n"]);
assert.deepEqual((await sandbox.runCode("{'a': [1]}")).results[0].json, { a: [1] });

const main = "async function main() {\n  return 'Hello, World!'\n}\n\nawait main()";
assert.equal((await sandbox.runCode(main, { language: "js" })).results[0].text, "Hello, World!");
await sandbox.runCode("const z = 1", { language: "js" });
assert.equal((await sandbox.runCode("z", { language: "js" })).results[0].text, "1");
const there = await sandbox.createCodeContext({ cwd: "/home", language: "js" });
assert.equal((await sandbox.runCode("process.cwd()", { context: there })).results[0].text, "/home");

const gone = (await sandbox.runCode("import os; os._exit(3)")).error;
assert.equal(gone.name, "ContextRestarting");
assert.equal((await sandbox.runCode("1 + 1")).text, "2");

const begun = Promise.withResolvers ? Promise.withResolvers() : (() => {
  const made = {};
  made.promise = new Promise((resolve) => { made.resolve = resolve; });
  return made;
})();
const endless = sandbox.runCode("print('begun', flush=True)\nimport time; time.sleep(600)", { onStdout: begun.resolve });
const ended = assert.rejects(endless, /sandbox/i);
await begun.promise;
await sandbox.kill();
await ended;
console.log("ok");
