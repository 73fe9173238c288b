// E2B's SDK for JavaScript, unmodified, with E2B_DOMAIN.
import assert from "node:assert/strict";

const { Sandbox } = await import("e2b");

const sandbox = await Sandbox.create("host", { timeoutMs: 300_000 });
assert.equal((await sandbox.commands.run("echo hello")).stdout, "hello\n");
await sandbox.files.write("/tmp/a b.txt", "kept");
assert.equal(await sandbox.files.read("/tmp/a b.txt"), "kept");
const url = await sandbox.downloadUrl("/tmp/a b.txt");
assert.ok(url.startsWith(`https://49983-${sandbox.sandboxId}.box.example/files`), url);
assert.equal(await (await fetch(url)).text(), "kept");
assert.equal(sandbox.getHost(3000), `3000-${sandbox.sandboxId}.box.example`);
assert.equal(await sandbox.kill(), true);
console.log("ok");
