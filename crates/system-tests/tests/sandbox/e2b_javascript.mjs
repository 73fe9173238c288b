// E2B's SDKs for JavaScript, unmodified, against the daemon.
import assert from "node:assert/strict";

const { Sandbox, CommandExitError } = await import("e2b");
const { Sandbox: Interpreter } = await import("@e2b/code-interpreter");

const sandbox = await Sandbox.create({ timeoutMs: 300_000, metadata: { lang: "js" }, envs: { FOO: "bar" } });
const result = await sandbox.commands.run("echo $FOO; echo oops >&2");
assert.deepEqual([result.stdout, result.stderr, result.exitCode], ["bar\n", "oops\n", 0]);
await assert.rejects(sandbox.commands.run("exit 3"), CommandExitError);
const cat = await sandbox.commands.run("cat", { background: true, stdin: true });
await sandbox.commands.sendStdin(cat.pid, "typed\n");
await sandbox.commands.closeStdin(cat.pid);
assert.equal((await cat.wait()).stdout, "typed\n");
const sleeper = await sandbox.commands.run("sleep 600", { background: true });
assert.equal(await sleeper.kill(), true);

let shown = "";
const terminal = await sandbox.pty.create({ cols: 80, rows: 24, onData: (data) => { shown += Buffer.from(data); } });
await sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode("echo $((6*7)); exit\n"));
await terminal.wait();
assert.match(shown, /42/);

await sandbox.files.write("/tmp/a b.txt", "hello");
assert.equal(await sandbox.files.read("/tmp/a b.txt"), "hello");
await sandbox.files.write([{ path: "/tmp/one", data: "1" }, { path: "/tmp/two", data: "2" }]);
assert.ok((await sandbox.files.list("/tmp")).some((entry) => entry.name === "two"));
assert.equal(await sandbox.files.makeDir("/tmp/folder"), true);
const seen = new Promise((resolve) => {
  sandbox.files.watchDir("/tmp/folder", (event) => event.name === "seen" && resolve(event)).then(async () => {
    await sandbox.files.write("/tmp/folder/seen", "1");
  });
});
await seen;
const url = await sandbox.downloadUrl("/tmp/a b.txt", { useSignatureExpiration: 60 });
assert.equal(await (await fetch(url)).text(), "hello");

const page = await Sandbox.list({ query: { metadata: { lang: "js" } } }).nextItems();
assert.deepEqual(page.map((item) => item.sandboxId), [sandbox.sandboxId]);
assert.equal(await sandbox.pause(), true);
await sandbox.connect({ timeoutMs: 300_000 });
assert.equal(await sandbox.isRunning(), true);
const snapshot = await sandbox.createSnapshot();
const restored = await Sandbox.create(snapshot.snapshotId, { timeoutMs: 300_000 });
assert.equal(await restored.files.read("/tmp/a b.txt"), "hello");
await restored.kill();
await Sandbox.deleteSnapshot(snapshot.snapshotId);
assert.equal(await sandbox.kill(), true);

const code = await Interpreter.create({ timeoutMs: 300_000 });
const execution = await code.runCode("x = 1\nprint('hi')\nx + 1");
assert.equal(execution.text, "2");
assert.equal(execution.logs.stdout.join(""), "hi\n");
assert.equal((await code.runCode("1/0")).error.name, "ZeroDivisionError");
assert.equal((await code.runCode("const a = 2; a * 21", { language: "javascript" })).text, "42");
const context = await code.createCodeContext({ cwd: "/tmp" });
assert.equal((await code.runCode("import os; os.getcwd()", { context })).text, "/tmp");
await code.removeCodeContext(context);
await code.kill();
console.log("ok");
