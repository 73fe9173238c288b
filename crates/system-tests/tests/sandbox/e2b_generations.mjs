// The main surface of E2B's SDK for JavaScript, unmodified, in each generation that CI installs.
import assert from "node:assert/strict";
import { setTimeout as pause } from "node:timers/promises";

const { Sandbox, CommandExitError } = await import("e2b");
const { Sandbox: Interpreter } = await import("@e2b/code-interpreter");

const api = process.env.E2B_API_URL;
const port = (sandbox, number) =>
  fetch(`${api}/`, { headers: { "e2b-sandbox-id": sandbox.sandboxId, "e2b-sandbox-port": String(number) } });

/** What is asked for becomes what is wanted: nothing tells of it. */
async function until(what, wanted) {
  const end = Date.now() + 120_000;
  for (let found; (found = await what()) !== wanted; await pause(50)) assert.ok(Date.now() < end, `${found}`);
}

async function serve(sandbox, number) {
  const lines = [
    "import http.server",
    "class Handler(http.server.BaseHTTPRequestHandler):",
    "    def do_GET(self):",
    "        self.send_response(200); self.end_headers(); self.wfile.write(str(self.headers).encode())",
    `http.server.ThreadingHTTPServer(("", ${number}), Handler).serve_forever()`,
  ];
  await sandbox.files.write("/tmp/server.py", lines.join("\n"));
  await sandbox.commands.run("python3 /tmp/server.py", { background: true });
  await until(async () => (await port(sandbox, number)).status, 200);
  return (await port(sandbox, number)).text();
}

const sandbox = await Sandbox.create({ timeoutMs: 300_000, metadata: { run: "a b" }, envs: { FOO: "bar" } });
assert.equal((await sandbox.commands.run("echo $FOO")).stdout, "bar\n");
await assert.rejects(sandbox.commands.run("exit 3"), CommandExitError);
await sandbox.files.write("/home/user/kept", "kept");
assert.equal((await sandbox.getInfo()).allowInternetAccess, true);
const other = await Sandbox.create("base", { timeoutMs: 300_000, metadata: { run: "a b" } });
async function listed(query) {
  const found = [];
  for (const pages = Sandbox.list({ query, limit: 1 }); pages.hasNext; ) found.push(...(await pages.nextItems()));
  return found.map((item) => item.sandboxId);
}
assert.deepEqual(await listed({ metadata: { run: "a b" } }), [other.sandboxId, sandbox.sandboxId]);
assert.deepEqual(await listed({ metadata: { run: "b" } }), []);

const points = await sandbox.getMetrics();
assert.ok(points.at(-1).memTotal > 0 && points.at(-1).timestamp instanceof Date);
assert.deepEqual(await sandbox.getMetrics({ end: new Date(Date.now() - 3_600_000) }), []);

assert.equal(await sandbox.pause(), true);
assert.deepEqual(await listed({ state: ["paused"] }), [sandbox.sandboxId]);
await sandbox.connect({ timeoutMs: 300_000 });
await sandbox.commands.run("sleep 1000", { background: true });
assert.equal(await sandbox.pause({ keepMemory: false }), true);
assert.equal(await sandbox.isRunning(), false);
await sandbox.connect({ timeoutMs: 300_000 });
assert.equal(await sandbox.files.read("/home/user/kept"), "kept");
assert.ok(!(await sandbox.commands.list()).some((process) => process.args.join(" ").includes("sleep")));

await sandbox.updateNetwork({ denyOut: ["8.8.8.8"] });
const info = await sandbox.getInfo();
assert.deepEqual([info.allowInternetAccess, info.network.denyOut, info.network.allowOut], [true, ["8.8.8.8"], []]);
await sandbox.updateNetwork({});
assert.deepEqual((await sandbox.getInfo()).network.denyOut, []);

const masked = await Sandbox.create({ timeoutMs: 300_000, network: { maskRequestHost: "custom-host.example.com:${PORT}" } });
assert.match(await serve(masked, 8080), /^Host: custom-host\.example\.com:8080$/m);
assert.ok(await masked.kill());

const pausing = await Sandbox.create({ timeoutMs: 300_000, lifecycle: { onTimeout: { action: "pause", keepMemory: false } } });
await pausing.setTimeout(0);
await until(() => pausing.isRunning(), false);
assert.equal((await pausing.getInfo()).state, "paused");
await pausing.connect({ timeoutMs: 300_000 });
assert.ok((await pausing.isRunning()) && (await pausing.kill()));
const waking = await Sandbox.create({ timeoutMs: 300_000, lifecycle: { onTimeout: "pause", autoResume: true } });
await serve(waking, 8000);
await waking.setTimeout(0);
await until(() => waking.isRunning(), false);
assert.equal((await port(waking, 8000)).status, 200);
assert.ok((await waking.isRunning()) && (await waking.kill()));

assert.equal(await sandbox.kill(), true);
assert.equal(await sandbox.kill(), false);
await assert.rejects(Sandbox.connect(sandbox.sandboxId), /not found/);
await assert.rejects(sandbox.setTimeout(5_000), /not found/);
assert.ok(await other.kill());

const interpreter = await Interpreter.create({ timeoutMs: 300_000 });
assert.equal((await interpreter.runCode("20 + 1")).text, "21");
assert.ok(await interpreter.kill());
console.log("ok");
process.exit(0);
