"""E2B's SDK for Python, unmodified, against the daemon: sandboxes, commands, terminals, files, snapshots, forks."""
import asyncio
import os
import time
import urllib.request

from e2b import AsyncSandbox, CommandExitException, Sandbox, SandboxException, SandboxNotFoundException, SandboxQuery, Secret, Volume
from e2b.exceptions import FileNotFoundException
from e2b.sandbox.commands.command_handle import PtySize


def refused(call, words):
    """What does not map is refused with 501 and named."""
    try:
        call()
    except Exception as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"{words} was not refused")


sandbox = Sandbox.create(timeout=300, metadata={"team": "a b+c"}, envs={"FOO": "bar"})

# Commands.
result = sandbox.commands.run("echo $FOO; echo oops >&2")
assert (result.stdout, result.stderr, result.exit_code) == ("bar\n", "oops\n", 0), result
assert sandbox.commands.run("pwd; echo $EXTRA", cwd="/tmp", envs={"EXTRA": "x"}).stdout == "/tmp\nx\n"
try:
    sandbox.commands.run("exit 3")
    raise AssertionError("a failing command did not raise")
except CommandExitException as error:
    assert error.exit_code == 3
handle = sandbox.commands.run("cat", background=True, stdin=True)
assert handle.pid in [process.pid for process in sandbox.commands.list()]
sandbox.commands.send_stdin(handle.pid, "typed\n")
sandbox.commands.close_stdin(handle.pid)
assert handle.wait().stdout == "typed\n"
handle = sandbox.commands.run("sleep 600", background=True)
handle.disconnect()
again = sandbox.commands.connect(handle.pid)
assert again.pid == handle.pid, "a command outlives its connection"
assert sandbox.commands.kill(handle.pid)
try:
    again.wait()
    raise AssertionError("a killed command did not raise")
except CommandExitException as error:
    assert error.exit_code != 0
assert not sandbox.commands.kill(handle.pid), "it is gone once its end was told"
try:
    sandbox.commands.run("sleep 600", timeout=1)
    raise AssertionError("a timeout did not raise")
except SandboxException as error:
    assert "timeout" in str(error).lower(), error

# A terminal.
shown = []
terminal = sandbox.pty.create(PtySize(rows=24, cols=80))
sandbox.pty.resize(terminal.pid, PtySize(rows=33, cols=99))
sandbox.pty.send_stdin(terminal.pid, b"stty size; echo $((6*7)); exit\n")
terminal.wait(on_pty=shown.append)
assert b"33 99" in b"".join(shown) and b"42" in b"".join(shown), shown

# Files.
sandbox.files.write("/tmp/a b.txt", "hello")
assert sandbox.files.read("/tmp/a b.txt") == "hello"
sandbox.files.write("/tmp/zipped", "z" * 100_000, gzip=True)
assert b"".join(sandbox.files.read("/tmp/zipped", format="stream")) == b"z" * 100_000
sandbox.files.write_files([{"path": "/tmp/one", "data": b"1"}, {"path": "/tmp/two", "data": "2"}])
assert {"one", "two"} <= {entry.name for entry in sandbox.files.list("/tmp")}
assert sandbox.files.get_info("/tmp/one").size == 1
assert sandbox.files.make_dir("/tmp/folder") and not sandbox.files.make_dir("/tmp/folder")
assert sandbox.files.rename("/tmp/one", "/tmp/folder/one").path == "/tmp/folder/one"
assert sandbox.files.exists("/tmp/folder/one") and not sandbox.files.exists("/tmp/one")
sandbox.files.remove("/tmp/folder/one")
try:
    sandbox.files.read("/tmp/folder/one")
    raise AssertionError("a file that is not there was read")
except FileNotFoundException:
    pass
watch = sandbox.files.watch_dir("/tmp/folder")
sandbox.files.write("/tmp/folder/seen", "1")
events, end = [], time.monotonic() + 30
while "seen" not in [event.name for event in events] and time.monotonic() < end:
    events += watch.get_new_events()
    time.sleep(0.02)
assert "seen" in [event.name for event in events], events
watch.stop()
url = sandbox.download_url("/tmp/a b.txt", use_signature_expiration=60)
assert urllib.request.urlopen(url).read() == b"hello"
try:
    urllib.request.urlopen(url.replace("a%20b.txt", "zipped"))
    raise AssertionError("a signature served another file")
except urllib.error.HTTPError as error:
    assert error.code in (401, 404), error

# What is told.
info = sandbox.get_info()
assert info.sandbox_id == sandbox.sandbox_id and info.metadata == {"team": "a b+c"}, info
found = Sandbox.list(query=SandboxQuery(metadata={"team": "a b+c"})).next_items()
assert [item.sandbox_id for item in found] == [sandbox.sandbox_id], found
assert sandbox.get_metrics()[0].mem_total > 0
sandbox.set_timeout(300)

# Pause, snapshot, fork.
assert sandbox.pause() and not sandbox.is_running()
sandbox.connect(timeout=300)
assert sandbox.is_running() and sandbox.files.read("/tmp/a b.txt") == "hello"
snapshot = sandbox.create_snapshot(name="kept")
assert snapshot.snapshot_id in [item.snapshot_id for item in sandbox.list_snapshots().next_items()]
sandbox.files.write("/tmp/a b.txt", "changed")
for template in (snapshot.snapshot_id, "kept"):
    restored = Sandbox.create(template, timeout=300)
    assert restored.files.read("/tmp/a b.txt") == "hello"
    assert restored.kill()
assert Sandbox.delete_snapshot(snapshot.snapshot_id) and not Sandbox.delete_snapshot(snapshot.snapshot_id)
for fork in sandbox.fork(count=2, timeout=300):
    assert fork.files.read("/tmp/a b.txt") == "changed"
    assert fork.kill()

# Network, secrets, volumes.
sandbox.update_network({"allow_out": ["pypi.org"], "deny_out": ["0.0.0.0/0"]})
assert sandbox.get_info().network["allow_out"] == ["pypi.org"]
refused(lambda: Sandbox.create(network={"egress_proxy": {"address": "proxy.example:1080"}}), "network.egressProxy")
volume = Volume.create("kept-things")
with_volume = Sandbox.create(timeout=300, volume_mounts={"/mnt/kept": volume})
with_volume.commands.run("echo stays > /mnt/kept/file", user="root")
assert with_volume.kill()
with_volume = Sandbox.create(timeout=300, volume_mounts={"/mnt/kept": volume})
assert with_volume.commands.run("cat /mnt/kept/file", user="root").stdout == "stays\n"
assert with_volume.kill()

# The end.
assert sandbox.kill() and not sandbox.kill() and not sandbox.is_running()
try:
    Sandbox.connect(sandbox.sandbox_id)
    raise AssertionError("a sandbox that is gone was connected to")
except SandboxNotFoundException:
    pass


async def concurrently():
    sandbox = await AsyncSandbox.create(timeout=300)
    results = await asyncio.gather(*(sandbox.commands.run(f"echo {number}") for number in range(8)))
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(8)]
    await sandbox.files.write("/tmp/async", "x")
    assert await sandbox.files.read("/tmp/async") == "x"
    assert await sandbox.kill()


asyncio.run(concurrently())
print("ok", flush=True)
# The SDK keeps threads of its own, and the interpreter does not always survive taking itself down beside them.
os._exit(0)
