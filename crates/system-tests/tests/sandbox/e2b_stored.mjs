// E2B's SDK for JavaScript, unmodified: secrets, volumes, templates, network, metrics, forks.
import assert from "node:assert/strict";
import { Sandbox, Secret, Template, Volume } from "e2b";

await Secret.create("api-key", "first-value-0123456789");
await Secret.update("api-key", "second-value-0123456789");
assert.equal((await Secret.getInfo("api-key")).name, "api-key");
assert.deepEqual((await Secret.list().nextItems()).map((secret) => secret.name), ["api-key"]);
assert.equal(await Secret.destroy("api-key"), true);
assert.equal(await Secret.exists("api-key"), false);

const volume = await Volume.create("data");
assert.deepEqual((await Volume.list()).map((item) => item.name), ["data"]);
const writer = await Sandbox.create({ timeoutMs: 300_000, volumeMounts: { "/mnt/data": volume } });
await writer.commands.run("echo kept > /mnt/data/file", { user: "root" });
await writer.kill();
const reader = await Sandbox.create({ timeoutMs: 300_000, volumeMounts: { "/mnt/data": volume } });
assert.equal((await reader.commands.run("cat /mnt/data/file")).stdout, "kept\n");
await reader.kill();
assert.equal(await Volume.destroy(volume.volumeId), true);

assert.equal(await Template.exists("base"), true);
assert.equal(await Template.exists("no-such-template"), false);
const sandbox = await Sandbox.create("base", { timeoutMs: 300_000 });
await sandbox.updateNetwork({ allowOut: ["example.test"], denyOut: ["0.0.0.0/0"] });
assert.deepEqual((await sandbox.getInfo()).network.allowOut, ["example.test"]);
await sandbox.files.write("/tmp/f", "forked");
const forks = await sandbox.fork({ count: 2, timeoutMs: 300_000 });
for (const fork of forks) {
  assert.equal(await fork.files.read("/tmp/f"), "forked");
  await fork.kill();
}
const metrics = await sandbox.getMetrics();
assert.ok(metrics.at(-1).memTotal > 0, JSON.stringify(metrics));
await sandbox.kill();
console.log("ok");
