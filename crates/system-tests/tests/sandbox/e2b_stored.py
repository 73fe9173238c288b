"""E2B's SDK for Python, unmodified: what outlives a sandbox (secrets, volumes, templates), its network, and what it used."""
import os
import time

from e2b import Sandbox, SandboxQuery, Secret, Template, Volume
from e2b.exceptions import SecretNotFoundException

# Secrets: written and never read.
made = Secret.create("api-key", "first-value-0123456789")
assert (made.name, made.metadata) == ("api-key", {}), made
assert Secret.update("api-key", "second-value-0123456789").name == "api-key"
assert Secret.get_info("api-key").secret_id == made.secret_id and Secret.exists("api-key")
Secret.create("other", "value", metadata={"team": "a"})
assert (Secret.get_info("other").metadata, Secret.get_info("other").version) == ({"team": "a"}, 1)
rotated = Secret.update("other", "next")
assert (rotated.metadata, rotated.version) == ({"team": "a"}, 2), "what an update does not name stays"
pages, paginator = [], Secret.list(limit=1)
while paginator.has_next:
    pages.append([secret.name for secret in paginator.next_items()])
assert sorted(name for page in pages for name in page) == ["api-key", "other"] and max(map(len, pages)) == 1, pages
try:
    Secret.create("api-key", "x")
    raise AssertionError("a name was given twice")
except Exception as error:
    assert "api-key" in str(error), error
assert Secret.destroy("other") and not Secret.destroy("other") and not Secret.exists("other")
try:
    Secret.update("other", "x")
    raise AssertionError("a secret that is not there was updated")
except SecretNotFoundException:
    pass

# Volumes.
volume = Volume.create("data")
assert volume.name == "data" and [item.name for item in Volume.list()] == ["data"]
assert Volume.get_info(volume.volume_id).name == "data"
writer = Sandbox.create(timeout=300, volume_mounts={"/mnt/data": volume})
reader = Sandbox.create(timeout=300, volume_mounts={"/mnt/data": volume})
writer.commands.run("echo shared > /mnt/data/file", user="root")
assert reader.commands.run("cat /mnt/data/file").stdout == "shared\n", "two sandboxes share a volume"
try:
    Volume.destroy(volume.volume_id)
    raise AssertionError("a volume in use was removed")
except Exception as error:
    assert not isinstance(error, AssertionError), error
assert writer.kill() and reader.kill()
assert Volume.destroy(volume.volume_id) and Volume.list() == []

# Templates: images and snapshots by name.
assert Template.exists("base") and not Template.exists("no-such-template")
sandbox = Sandbox.create("base", timeout=300, metadata={"run": "1"})
sandbox.files.write("/opt/f", "kept", user="root")
snapshot = sandbox.create_snapshot(name="my-template")
assert Template.exists("my-template")
again = Sandbox.create("my-template", timeout=300)
assert again.files.read("/opt/f") == "kept" and again.kill()

# Network: closed where that is asked for, opened while it runs, told.
alone = Sandbox.create("base", timeout=300, allow_internet_access=False)
assert alone.commands.run("getent hosts example.test || echo closed").stdout == "closed\n" and alone.kill()
sandbox.update_network({"allow_out": ["example.test", "10.0.0.0/8"], "deny_out": ["0.0.0.0/0"]})
told = sandbox.get_info().network
assert told["allow_out"] == ["example.test", "10.0.0.0/8"], told

# Metrics: of one, over its life.
sandbox.commands.run("head -c 30000000 /dev/zero | sha256sum")
end = time.monotonic() + 60
while True:
    metrics = sandbox.get_metrics()
    if metrics and metrics[-1].mem_used > 0 and metrics[-1].disk_total > 0:
        break
    assert time.monotonic() < end, metrics
assert metrics[-1].mem_total >= metrics[-1].mem_used and metrics[-1].cpu_count > 0, metrics
assert [item.sandbox_id for item in Sandbox.list(query=SandboxQuery(metadata={"run": "1"})).next_items()] == [sandbox.sandbox_id]
assert sandbox.kill()
print("ok", flush=True)
# The SDK keeps threads of its own, and the interpreter does not always survive taking itself down beside them.
os._exit(0)
