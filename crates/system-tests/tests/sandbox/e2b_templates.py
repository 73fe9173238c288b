"""E2B's SDK for Python, unmodified: templates that are built step by step, found again by layer, tagged, started and removed."""
import os
import tempfile

from e2b import Sandbox, Template, wait_for_file
from e2b.exceptions import BuildException

context = tempfile.mkdtemp()


def put(path, text, mode=0o644):
    path = os.path.join(context, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)


def build(template, name, **options):
    """Builds, and answers what was logged."""
    logged = []
    info = Template.build(template, name, on_build_logs=logged.append, **options)
    return info, [entry.message for entry in logged], logged


def steps(lines):
    """Whether each step was taken from the cache, by its number."""
    told = {}
    for line in lines:
        place = line.removeprefix("CACHED ")
        if place.startswith("[builder ") and "] [std" not in place:
            told[int(place.split()[1].split("/")[0])] = line.startswith("CACHED ")
    return told


def answers(port):
    """As `wait_for_port`, in an image that may lack `ss`."""
    return f"python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}))'"


put("app/main.py", "print('first')\n")
put("app/run.sh", "#!/bin/sh\necho ran\n", 0o755)
put("app/deep/data.txt", "deep\n")
put("top.txt", "top\n")
os.symlink("main.py", os.path.join(context, "app", "link.py"))


def application(last="echo three > ~/three"):
    return (
        Template(file_context_path=context)
        .from_base_image()
        .set_envs({"GREETING": "hello", "TWICE": "$GREETING-$GREETING", "HARD": 'a "b" `id` $(id) \\ $GREETING'})
        .set_workdir("/srv/app")
        .copy("app", ".")
        .copy("top.txt", "/opt/place/", user="root", mode=0o600)
        .run_cmd(["echo one > one", "id -un >> one", "pwd >> one"])
        .run_cmd("id -u > /opt/root", user="root")
        .make_dir("made/within", mode=0o750)
        .make_symlink("/srv/app/one", "uno")
        .rename("one", "eins")
        .run_cmd(last)
    )


# A build, with its log.
info, lines, entries = build(application(), "my-app:v1", cpu_count=1, memory_mb=512)
assert info.name == "my-app:v1" and info.tags == ["v1"], info
assert steps(lines) == {number: False for number in range(1, 11)}, lines
assert any("Uploaded 'app'" in line for line in lines), lines
assert lines[-1] == "Build finished" and any(line.startswith("Build finished, took") for line in lines), lines
assert {entry.level for entry in entries} <= {"debug", "info", "warn"}, entries
assert sorted(entry.timestamp.timestamp() for entry in entries[-9:-3]) == [e.timestamp.timestamp() for e in entries[-9:-3]]
assert Template.exists("my-app") and Template.exists("my-app:v1") and not Template.exists("no-such-app")

# What a sandbox of it is like.
sandbox = Sandbox.create("my-app:v1", timeout=300)
run = lambda line, **more: sandbox.commands.run(line, **more).stdout
assert run("pwd; id -un; echo $GREETING $TWICE") == "/srv/app\nuser\nhello hello-hello\n", run("pwd; id -un; env")
assert run('printf %s "$HARD"') == 'a "b" `id` $(id) \\ hello', run("env")
assert run("cat eins") == "one\nuser\n/srv/app\n", run("cat eins")
assert run("python3 main.py; ./run.sh; cat deep/data.txt; readlink link.py; readlink uno") == "first\nran\ndeep\nmain.py\n/srv/app/one\n"
assert run("stat -c '%U %a' main.py /opt/place/top.txt made/within", user="root") == "user 644\nroot 600\nuser 750\n"
assert run("cat /opt/root ~/three") == "0\nthree\n"
assert run("ls /run/mote-build 2>/dev/null | wc -l") == "0\n", "nothing of the build is left"
told = sandbox.get_info()
assert (told.template_id, told.name, told.cpu_count, told.memory_mb) == (info.template_id, "my-app", 1, 512), told
assert sandbox.kill()

# The same again runs nothing; a change runs what it stands before, and nothing else.
info, lines, _ = build(application(), "my-app:v1")
assert steps(lines) == {number: True for number in range(1, 11)}, lines
assert any("Skipping upload of 'app'" in line for line in lines), lines
_, lines, _ = build(application("echo drei > ~/three"), "my-app:v2")
assert steps(lines) == {number: number < 10 for number in range(1, 11)}, lines
assert Sandbox.create("my-app:v2", timeout=60).commands.run("cat ~/three").stdout == "drei\n"
put("app/main.py", "print('second')\n")
_, lines, _ = build(application(), "my-app:v1")
assert steps(lines) == {number: number < 3 for number in range(1, 11)}, lines
assert Sandbox.create("my-app:v1", timeout=60).commands.run("python3 main.py").stdout == "second\n"
_, lines, _ = build(application(), "my-app:v1", skip_cache=True)
assert not any(steps(lines).values()), lines
from_there = Template().from_base_image().run_cmd("echo a").skip_cache().run_cmd("echo b").run_cmd("echo c")
build(from_there, "partly")
_, lines, _ = build(from_there, "partly")
assert steps(lines) == {1: True, 2: False, 3: False}, lines
assert any("[builder 2/3] [stdout]: b" in line for line in lines), lines

# Another template on it, with its environment, user and directory.
upon = Template().from_template("my-app:v2").run_cmd('echo "$GREETING $(pwd) $(id -un)" > upon')
build(upon, "upon")
assert Sandbox.create("upon", timeout=60).commands.run("cat upon; cat ~/three").stdout == "hello /srv/app user\ndrei\n"
docker = Template(file_context_path=context).from_dockerfile(
    "FROM e2bdev/base\nWORKDIR /app\nENV KIND=docker\nCOPY top.txt .\nUSER dev\nRUN echo $KIND $(id -un) > /tmp/kind && cat top.txt\n"
)
_, lines, _ = build(docker, "docker")
assert any(line.endswith("[stdout]: top") for line in lines), lines
assert Sandbox.create("docker", timeout=60).commands.run("cat /tmp/kind; pwd; id -un").stdout == "docker dev\n/app\ndev\n"

# Tags.
assert {tag.tag for tag in Template.get_tags("my-app")} == {"v1", "v2"}
assigned = Template.assign_tags("my-app:v2", ["stable", "default"])
assert sorted(assigned.tags) == ["default", "stable"], assigned
assert {tag.tag: tag.build_id for tag in Template.get_tags(info.template_id)}["stable"] == assigned.build_id
assert Sandbox.create("my-app", timeout=60).commands.run("cat ~/three").stdout == "drei\n"
Template.remove_tags("my-app", "stable")
for refused, what in [
    (lambda: Sandbox.create("my-app:stable", timeout=60), "stable"),
    (lambda: Template.remove_tags("my-app", "stable"), "stable"),
    (lambda: Template.assign_tags("no-such-app:v1", "x"), "no-such-app"),
]:
    try:
        refused()
        raise AssertionError(f"{what}: it was not refused")
    except AssertionError:
        raise
    except Exception as error:
        assert what in str(error), error

# A step that fails: its number, its message, its log; the tag stays with the build before.
broken = Template().from_template("my-app:v2").run_cmd("echo before").run_cmd("echo to-stdout; echo to-stderr >&2; exit 3")
try:
    build(broken, "my-app:v2")
    raise AssertionError("it was built")
except BuildException as error:
    assert "failed to run command" in str(error) and "exit status 3" in str(error), error
background = Template.build_in_background(broken, "my-app:v2")
offset, seen = 0, []
while True:
    status = Template.get_build_status(background, logs_offset=offset)
    offset += len(status.log_entries)
    seen += [entry.message for entry in status.log_entries]
    if status.status.value in ("ready", "error"):
        break
assert status.status.value == "error" and status.reason.step == "2", status
assert "exit status 3" in status.reason.message, status
reasons = [entry.message for entry in status.reason.log_entries]
assert any(line.endswith("[stdout]: to-stdout") for line in reasons), reasons
assert any(line.endswith("[stderr]: to-stderr") for line in reasons), reasons
whole = Template.get_build_status(background, logs_offset=0)
assert [entry.message for entry in whole.log_entries][: len(seen)] == seen
assert any(line.startswith("CACHED [builder 1/2]") for line in seen), seen
assert whole.log_entries[-1].level == "error" and whole.log_entries[-1].message.startswith("Build failed: ")
assert Sandbox.create("my-app:v2", timeout=60).commands.run("cat ~/three").stdout == "drei\n"

# Start and ready commands: tried at the build, run in every sandbox before it is handed out.
served = (
    Template()
    .from_base_image()
    .set_workdir("/srv/www")
    .set_envs({"PORT": "8000"})
    .run_cmd("echo page > index.html")
    .set_start_cmd("echo $$ > /tmp/started; exec python3 -m http.server $PORT", answers(8000))
)
_, lines, _ = build(served, "served")
assert any("Running start command" in line for line in lines) and "Template is ready" in lines, lines
for _ in range(2):
    sandbox = Sandbox.create("served", timeout=300)
    page = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8000').read().decode())"
    assert sandbox.commands.run(f'python3 -c "{page}"').stdout == "page\n\n"
    assert sandbox.commands.run("ls -l /proc/$(cat /tmp/started)/cwd | grep -c /srv/www").stdout == "1\n"
    assert sandbox.kill()
failing = Template().from_base_image().set_start_cmd("echo bad >&2; exit 4", wait_for_file("/never"))
try:
    build(failing, "failing")
    raise AssertionError("it was built")
except BuildException as error:
    assert "start command failed" in str(error) and "exit status 4" in str(error), error
ready = Template().from_base_image().run_cmd("pwd > /tmp/there").set_ready_cmd(wait_for_file("/tmp/there"))
build(ready, "ready")
assert Sandbox.create("ready", timeout=60).commands.run("cat /tmp/there; pwd").stdout == "/home/user\n/home/user\n"

# What is not there.
for wrong, what in [
    (Template().from_template("no-such-app"), "no-such-app"),
    (Template().from_image("UPPER case"), "UPPER case"),
]:
    try:
        build(wrong, "wrong")
        raise AssertionError("it was built")
    except BuildException as error:
        assert what in str(error), error
try:
    Template.build_in_background(Template().from_base_image(), "base")
    raise AssertionError("a name that means something else was taken")
except BuildException as error:
    assert "base" in str(error), error
print("ok", flush=True)
os._exit(0)
