"""E2B's SDK for Python, unmodified: files as E2B's own server has them. What each check pins is what `envd` does
(e2b-dev/infra, packages/envd): owners, rights, watches, metadata, links, words of errors."""
import gzip
import io
import json
import os
import urllib.parse
import urllib.request

from e2b import FilesystemEventType as Event, FileType, Sandbox
from e2b.exceptions import (
    AuthenticationException, FileNotFoundException, InvalidArgumentException, NotFoundException, SandboxException,
)
from e2b.sandbox.signature import get_signature

sandbox = Sandbox.create(timeout=600)
files, run = sandbox.files, sandbox.commands.run


def refused(call, kind, words):
    try:
        call()
    except kind as error:
        assert words in str(error), f"{words!r} is not in {str(error)!r}"
    else:
        raise AssertionError(f"{words} was not refused")


def told(watch):
    return [(event.type, event.name) for event in watch.get_new_events()]


# Watches: what a write does is told, in its order, when the write has answered.
files.make_dir("watched/nested")
watch, deep = files.watch_dir("watched"), files.watch_dir("watched", recursive=True)
files.write("watched/new", "text")
made = [(Event.CREATE, "new"), (Event.CHMOD, "new"), (Event.WRITE, "new")]
assert told(watch) == made, "no temporary file, no rename"
assert told(deep) == made
files.write("watched/new", "other")
again = told(watch)
assert set(again) == {(Event.CHMOD, "new"), (Event.WRITE, "new")}, again
assert (Event.WRITE, "new") in told(deep)
files.write("watched/empty", "")
assert told(watch) == [(Event.CREATE, "empty"), (Event.CHMOD, "empty")]
files.write("watched/nested/below", "text")
assert [event for event in told(deep) if event[1] == "nested/below"] == [
    (kind, "nested/below") for kind in (Event.CREATE, Event.CHMOD, Event.WRITE)]
assert told(watch) == [], "what is below is not told without asking"
files.make_dir("watched/later")
files.write("watched/later/inside", "text")
events = told(deep)
assert (Event.CREATE, "later") in events and (Event.WRITE, "later/inside") in events, events
told(watch)
files.rename("watched/new", "watched/moved")
assert told(watch) == [(Event.RENAME, "new"), (Event.CREATE, "moved")]
files.remove("watched/moved")
assert told(watch) == [(Event.REMOVE, "moved")]
for number in range(20):
    files.write(f"watched/n{number}", "x")
    assert (Event.WRITE, f"n{number}") in told(watch), number
watch.stop()
deep.stop()
refused(lambda: files.watch_dir("/none"), NotFoundException, "path /none not found")
files.write("plain", "x")
refused(lambda: files.watch_dir("plain"), SandboxException, "not a directory")

# Whose is what, and who may.
run("mkdir /srv/kept && echo old > /srv/kept/file && chmod 600 /srv/kept/file && chmod 755 /srv/kept", user="root")
assert files.read("/srv/kept/file") == "old\n", "the files API reads where its user may not"
files.write("/srv/kept/file", "new")
info = files.get_info("/srv/kept/file")
assert (info.owner, info.group, info.mode) == ("user", "user", 0o600), info
files.write("/srv/a/b/made", "x")
for path, mode in (("/srv/a", 0o755), ("/srv/a/b", 0o755), ("/srv/a/b/made", 0o644)):
    info = files.get_info(path)
    assert (info.owner, info.group, info.mode) == ("user", "user", mode), info
files.make_dir("/srv/folder/deep")
assert files.get_info("/srv/folder/deep").owner == files.get_info("/srv/folder").owner == "user"
assert files.rename("/srv/kept/file", "/srv/other/file").path == "/srv/other/file"
files.remove("/srv/other")
assert not files.exists("/srv/other")
files.write("/etc/hosts", "127.0.0.1 localhost\n")
assert files.read("/etc/hosts") == "127.0.0.1 localhost\n", "a file that is a mount is written where it is"
files.write("/srv/of-root", "x", user="root")
assert files.get_info("/srv/of-root").owner == "root"
files.write("/srv/of-root", "y")
assert files.get_info("/srv/of-root").owner == "user", "who writes a file owns it"
assert [entry.name for entry in files.list("/root")] is not None

# A link that code inside could have placed is followed with the user's own rights, and no further.
run("echo secret > /root/hidden; chmod 600 /root/hidden; mkdir /root/folder", user="root")
run("ln -s /root/hidden to-hidden; ln -s /root/folder to-folder; ln -s /root/new to-new; ln -s plain to-plain")
for path in ("to-hidden", "to-folder/x", "to-new"):
    refused(lambda: files.write(path, "taken"), Exception, "denied")
refused(lambda: files.read("to-hidden"), Exception, "denied")
assert run("cat /root/hidden; ls -A /root/folder", user="root").stdout == "secret\n"
files.write("to-plain", "through")
# Older SDKs tell the kind of what it leads to, newer ones that it is a link.
assert files.read("plain") == "through" and files.get_info("to-plain").type in (FileType.FILE, getattr(FileType, "SYMLINK", None))
run("ln -s /srv/a /srv/link", user="root")
files.write("/srv/link/more", "x")
assert files.read("/srv/a/more") == "x", "a link of root's leads where it leads"
files.write("a/../dots/./x", "x")
assert files.get_info("dots/x").path == "/home/user/dots/x" and not files.exists("a")

# Entries.
info = files.get_info("to-plain")
assert (info.symlink_target, info.permissions, info.mode) == ("/home/user/plain", "Lrwxrwxrwx", 0o644), info
run("ln -s to-plain chain; ln -s nowhere lost; mkdir -p t/u; ln -s ../../plain t/u/up")
assert files.get_info("chain").symlink_target == "/home/user/plain"
assert files.get_info("t/u/up").symlink_target == "/home/user/plain"
assert files.get_info("lost").symlink_target == "/home/user/lost"
files.make_dir("sized")
info = files.get_info("sized")
assert info.size > 0 and info.size % 4096 == 0 and (info.mode, info.permissions) == (0o755, "drwxr-xr-x"), info
assert all(entry.size > 0 for entry in files.list("/home/user") if entry.type == FileType.DIR)
assert files.get_info("/tmp").permissions == "dtrwxrwxrwx", files.get_info("/tmp")

assert {"plain", "sized"} <= {entry.name for entry in files.list("")}, "nothing is the home"

# Words.
none = "no such file or directory"
refused(lambda: files.read("/none"), FileNotFoundException, "path '/none' does not exist")
refused(lambda: files.read("sized"), InvalidArgumentException, "path '/home/user/sized' is a directory")
refused(lambda: files.write("sized", "x"), InvalidArgumentException, "path is a directory: /home/user/sized")
refused(lambda: files.get_info("/none"), NotFoundException, f"file not found: lstat /none: {none}")
refused(lambda: files.list("/none"), NotFoundException, f"directory not found: lstat /none: {none}")
refused(lambda: files.list("plain"), InvalidArgumentException, "path is not a directory: /home/user/plain")
refused(lambda: files.rename("/none", "/x"), NotFoundException, f"source file not found: rename /none /x: {none}")
refused(lambda: files.make_dir("plain"), InvalidArgumentException, "path already exists but it is not a directory")
refused(lambda: files.get_info("x", user="eve"), AuthenticationException, "invalid username: 'eve'")
refused(lambda: files.read("x", user="eve"), AuthenticationException,
        "error looking up user 'eve': user: unknown user eve")
files.remove("/none")

# Metadata.
kept = {"author": "mish", "purpose": "a b"}
for path, how in (("m/form", {}), ("m/body", {"use_octet_stream": True}), ("m/zipped", {"gzip": True})):
    assert files.write(path, "x", metadata=kept, **how).metadata == kept, path
    assert files.get_info(path).metadata == kept
assert {entry.name: entry.metadata for entry in files.list("m")} == {name: kept for name in ("form", "body", "zipped")}
assert files.rename("m/form", "m/renamed").metadata == kept
assert files.write("m/body", "y", metadata={"Other": "1"}).metadata == {"other": "1"}, "all of it is replaced"
assert files.write("m/body", "y").metadata is None and files.get_info("m/body").metadata is None
run("python3 -c \"import os; os.setxattr('/home/user/m/body', 'user.e2b.by', b'hand')\"")
assert files.get_info("m/body").metadata == {"by": "hand"}
wrote = files.write_files([{"path": "m/1", "data": "1"}, {"path": "m/2", "data": "2"}], metadata={"s": "t"})
assert [info.metadata for info in wrote] == [{"s": "t"}] * 2
refused(lambda: files.write("m/long", "x", metadata={"k": "v" * 5000}), InvalidArgumentException,
        "total metadata size 5010 exceeds 4096 bytes")
assert not files.exists("m/long")
watch = files.watch_dir("m", include_entry=True)
files.write("m/seen", "x", metadata=kept)
assert [event.entry.metadata for event in watch.get_new_events() if event.type == Event.WRITE] == [kept]
watch.stop()

# Large forms, many files in one, compressed ones; and what a form may not do.
large = os.urandom(5 << 20)
assert files.write("large", large, use_octet_stream=False).path == "/home/user/large"
assert files.read("large", format="bytes") == large
assert files.write("stream", io.BytesIO(large)).name == "stream" and files.get_info("stream").size == len(large)
many = files.write_files([{"path": f"many/{n}", "data": b"x" * (n * 10_000)} for n in range(250)])
assert len(many) == 250 and files.get_info("many/249").size == 2_490_000


def form(parts, encoding=None):
    body = b"".join(
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n' % (name.encode(), data)
        for name, data in parts) + b"--B--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=B", "X-Access-Token": sandbox._envd_access_token,
               "E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    if encoding:
        headers["Content-Encoding"] = encoding
        body = gzip.compress(body)
    request = urllib.request.Request(os.environ["E2B_SANDBOX_URL"] + "/files", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


assert form([("zip", b"z" * (3 << 20))], "gzip")[1][0]["path"] == "/home/user/zip"
assert files.get_info("zip").size == 3 << 20
assert form([("x", b"1")], "br") == (400, {"code": 400, "message": "error decompressing request body: unsupported "
                                           "Content-Encoding: br, supported: [gzip]"})
assert form([]) == (200, [])
status, answer = form([("twice", b"1"), ("twice", b"2")])
assert status == 400 and "you cannot upload multiple files to the same path" in answer["message"], answer
assert files.read("twice") == "1"
status, answer = form([(f"bound/{n}", b"") for n in range(1001)])
assert (status, answer["message"]) == (413, "a form holds at most 1000 files"), answer

# Signed addresses: the file that was signed, as the files API has it; without a name, what the user itself may.
url = sandbox.upload_url("/srv/signed")
body = b'--B\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nsigned\r\n--B--\r\n'
kind = {"Content-Type": "multipart/form-data; boundary=B"}
assert urllib.request.urlopen(urllib.request.Request(url, data=body, headers=kind)).status == 200
assert files.read("/srv/signed") == "signed" and files.get_info("/srv/signed").owner == "user"
# Older SDKs leave the name out; this one makes such an address no more.
signature = get_signature("", "write", "", sandbox._envd_access_token)["signature"]
unnamed = os.environ["E2B_SANDBOX_URL"] + "/files?" + urllib.parse.urlencode({"signature": signature})
named = body.replace(b'"x"', b'"/srv/unnamed"')
try:
    urllib.request.urlopen(urllib.request.Request(unnamed, data=named, headers=kind))
    raise AssertionError("an address without a name opened root's folders")
except urllib.error.HTTPError as error:
    assert error.code == 403, error
assert urllib.request.urlopen(urllib.request.Request(unnamed, data=body, headers=kind)).status == 200
assert files.read("x") == "signed"

assert sandbox.kill()
print("ok", flush=True)
os._exit(0)
