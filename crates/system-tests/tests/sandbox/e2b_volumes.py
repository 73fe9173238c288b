"""E2B's SDK for Python, unmodified: the files of volumes, without a sandbox and beside one."""
import asyncio
import datetime
import io
import os
import urllib.request

from e2b import AsyncVolume, Sandbox, Volume
from e2b.exceptions import NotFoundException, VolumeException

os.environ["E2B_VOLUME_API_URL"] = os.environ["E2B_API_URL"]
volume = Volume.create(f"content-{os.getpid()}")


def refused(call, kind, words=""):
    try:
        call()
    except kind as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"{words} was not refused")


# Files.
info = volume.write_file("/text", "hello")
assert (info.name, info.path, info.type.value, info.size, info.mode) == ("text", "/text", "file", 5, 0o666), info
assert volume.read_file("/text") == "hello" and volume.read_file("text", format="bytes") == b"hello"
large = os.urandom(3 << 20)
assert volume.write_file("/large", io.BytesIO(large)).size == len(large)
assert b"".join(volume.read_file("/large", format="stream")) == large
volume.write_file("/empty", "")
assert volume.read_file("/empty") == ""
refused(lambda: volume.write_file("/text", "other"), VolumeException, "409")
assert volume.read_file("/text") == "hello"
volume.write_file("/text", "x", force=True)
assert volume.read_file("/text") == "x"
refused(lambda: volume.write_file("/no/such/folder", "x"), NotFoundException)
volume.write_file("/deep/er/file", "x", force=True, uid=7, gid=8, mode=0o640)
info = volume.get_info("/deep/er/file")
assert (info.uid, info.gid, info.mode) == (7, 8, 0o640), info
now = datetime.datetime.now(datetime.timezone.utc)
assert abs((now - info.mtime).total_seconds()) < 3600 and abs((now - info.ctime).total_seconds()) < 3600
for call in (lambda: volume.read_file("/none"), lambda: volume.get_info("/none"), lambda: volume.list("/none"),
             lambda: volume.remove("/none"), lambda: volume.update_metadata("/none", mode=0o600),
             lambda: b"".join(volume.read_file("/none", format="stream"))):
    refused(call, NotFoundException)
assert volume.exists("/text") and not volume.exists("/none")
refused(lambda: volume.read_file("/deep"), VolumeException, "400")
refused(lambda: volume.write_file("/x", "x", uid=70_000), VolumeException, "uid")

# Directories.
assert volume.make_dir("/folder").type.value == "directory" and volume.get_info("/folder").mode == 0o777
refused(lambda: volume.make_dir("/folder"), VolumeException, "409")
assert volume.make_dir("/folder", force=True).path == "/folder"
refused(lambda: volume.make_dir("/a/b/c"), NotFoundException)
assert volume.make_dir("/a/b/c", force=True, uid=1000, gid=1000, mode=0o750).mode == 0o750
assert [entry.path for entry in volume.list("/a", depth=3)] == ["/a/b", "/a/b/c"]
assert {"text", "large", "folder", "a"} <= {entry.name for entry in volume.list("/")}
changed = volume.update_metadata("/text", uid=1001, gid=1002, mode=0o755)
assert (changed.uid, changed.gid, changed.mode, changed.path) == (1001, 1002, 0o755, "/text"), changed
volume.remove("/a")
assert not volume.exists("/a/b")
refused(lambda: volume.remove("/"), VolumeException, "400")

# Beside a sandbox that mounts it: each sees what the other does, and no link made inside leads out of the volume.
sandbox = Sandbox.create(timeout=300, volume_mounts={"/mnt/v": volume})
assert sandbox.files.read("/mnt/v/deep/er/file", user="root") == "x"
assert sandbox.commands.run("stat -c '%u %g %a' /mnt/v/text").stdout == "1001 1002 755\n"
sandbox.files.write("/mnt/v/inside", "from inside")
assert volume.read_file("/inside") == "from inside"
sandbox.commands.run("cd /mnt/v && ln -s /etc/passwd abs && ln -s ../../../../etc/passwd rel && ln -s .. up && "
                     "ln -s /inside own && mkfifo pipe")
for path in ("abs", "rel", "up/etc/passwd", "../etc/passwd", "pipe"):
    refused(lambda: volume.read_file(path), VolumeException if path == "pipe" else NotFoundException)
assert volume.read_file("/own") == "from inside", "a link leads where it leads with the volume as the root"
assert (volume.get_info("/abs").type.value, volume.get_info("/abs").target) == ("symlink", "/etc/passwd")
volume.make_dir("/etc")
volume.write_file("rel", "mine", force=True)
assert volume.read_file("/etc/passwd") == "mine" and "root:" in sandbox.files.read("/etc/passwd")
refused(lambda: volume.update_metadata("/abs/none", mode=0o600), Exception)
volume.remove("/abs")
assert sandbox.kill()

# The token is the volume's alone.
other = Volume.create(f"another-{os.getpid()}")
for token in (other.token, "", "x"):
    headers = {"Authorization": f"Bearer {token}", "X-API-Key": os.environ["E2B_API_KEY"]}
    url = f"{os.environ['E2B_API_URL']}/volumecontent/{volume.volume_id}/path?path=/text"
    try:
        urllib.request.urlopen(urllib.request.Request(url, headers=headers))
        raise AssertionError("another token opened a volume")
    except urllib.error.HTTPError as error:
        assert error.code == 401, error
again = Volume.connect(volume.volume_id)
assert again.read_file("/inside") == "from inside"


async def concurrently():
    held = await AsyncVolume.connect(volume.volume_id)
    await asyncio.gather(*(held.write_file(f"/many/{n}", str(n), force=True) for n in range(20)))
    assert [await held.read_file(f"/many/{n}") for n in range(20)] == [str(n) for n in range(20)]


asyncio.run(concurrently())
assert Volume.destroy(volume.volume_id) and Volume.destroy(other.volume_id)
refused(lambda: again.get_info("/text"), NotFoundException)
print("ok", flush=True)
os._exit(0)
