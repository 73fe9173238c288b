"""SWE-ReX's RemoteRuntime: sessions that keep their state, exit codes, timeouts, commands, files, uploads."""
import asyncio
import os
from pathlib import Path

from swerex.exceptions import (
    BashIncorrectSyntaxError,
    CommandTimeoutError,
    NonZeroExitCodeError,
    SessionDoesNotExistError,
    SessionExistsError,
)
from swerex.runtime.abstract import (
    BashAction,
    BashInterruptAction,
    CloseBashSessionRequest,
    Command,
    CreateBashSessionRequest,
    ReadFileRequest,
    UploadRequest,
    WriteFileRequest,
)
from swerex.runtime.remote import RemoteRuntime


def runtime(host, token):
    return RemoteRuntime(host=host, auth_token=token, timeout=60.0)


async def raises(exception, awaited, words=""):
    try:
        await awaited
    except exception as error:
        assert words in str(error), error
        return error
    raise AssertionError(f"{exception.__name__} was not raised")


async def main():
    rex = runtime(os.environ["REX_HOST"], os.environ["REX_TOKEN"])
    assert (await rex.is_alive()).is_alive

    # A session keeps its directory, its variables and its functions.
    await rex.write_file(WriteFileRequest(path="/tmp/start up.sh", content="export SOURCED=yes; echo sourced\n"))
    session = await rex.create_session(CreateBashSessionRequest(startup_source=["/tmp/start up.sh"]))
    assert "sourced" in session.output, session

    async def sh(command, **options):
        return await rex.run_in_session(BashAction(command=command, **options))

    await sh("cd /tmp && x=40; f() { echo $((x + 2)); }")
    assert (await sh("f; pwd; echo $SOURCED")).output == "42\n/tmp\nyes\n"
    assert (await sh("cat <<EOF\none\ntwo\nEOF\necho three")).output == "one\ntwo\nthree\n"
    both = await sh("echo out; echo err >&2")
    assert "out\n" in both.output and "err\n" in both.output, both

    # Exit codes: raised, told or passed over.
    assert (await sh("true")).exit_code == 0
    assert (await sh("(exit 3)", check="silent")).exit_code == 3
    assert (await sh("(exit 3)", check="ignore")).exit_code is None
    error = await raises(NonZeroExitCodeError, sh("echo why; false", error_msg="it broke"), "it broke")
    assert "why" in str(error), error
    error = await raises(BashIncorrectSyntaxError, sh("if true; then"))
    assert "syntax error" in error.extra_info["bash_stderr"], error.extra_info
    assert (await sh("echo $x")).output == "40\n", "a refused command leaves the session as it was"

    # Time, and an interrupt from elsewhere.
    await raises(CommandTimeoutError, sh("sleep 600", timeout=0.5))
    assert (await sh("echo $x")).output == "40\n", "a session outlives a command's time"
    sleeping = asyncio.create_task(sh("echo begun > /tmp/begun; sleep 600", check="silent"))
    while (await rex.execute(Command(command=["test", "-s", "/tmp/begun"]))).exit_code != 0:
        await asyncio.sleep(0.05)
    await rex.run_in_session(BashInterruptAction())
    assert (await sleeping).exit_code == 130

    # Sessions are apart, and named.
    await rex.create_session(CreateBashSessionRequest(session="second"))
    assert (await sh("echo [$x]", session="second")).output == "[]\n"
    await raises(SessionExistsError, rex.create_session(CreateBashSessionRequest(session="second")))
    await rex.close_session(CloseBashSessionRequest(session="second"))
    await raises(SessionDoesNotExistError, sh("true", session="second"))
    await raises(NotImplementedError, sh("gdb", is_interactive_command=True), "is_interactive_command")

    # Commands of their own.
    ran = await rex.execute(Command(command=["sh", "-c", "echo out; echo err >&2; exit 5"], env={"A": "b"}, cwd="/tmp"))
    assert (ran.stdout, ran.stderr, ran.exit_code) == ("out\n", "err\n", 5), ran
    ran = await rex.execute(Command(command="echo $A; pwd", shell=True, env={"A": "b"}, cwd="/tmp"))
    assert ran.stdout == "b\n/tmp\n", ran
    ran = await rex.execute(Command(command="echo out; echo err >&2", shell=True, merge_output_streams=True))
    assert (ran.stdout, ran.stderr) == ("out\nerr\n", ""), ran
    await raises(NonZeroExitCodeError, rex.execute(Command(command="false", check=True)))
    await raises(CommandTimeoutError, rex.execute(Command(command=["sleep", "600"], timeout=0.5)))

    # Files.
    await rex.write_file(WriteFileRequest(path="/tmp/a/b/c.txt", content="é\n"))
    assert (await rex.read_file(ReadFileRequest(path="/tmp/a/b/c.txt"))).content == "é\n"
    await raises(FileNotFoundError, rex.read_file(ReadFileRequest(path="/tmp/absent")))
    await rex.execute(Command(command="printf 'a\\377b' > /tmp/raw", shell=True))
    await raises(ValueError, rex.read_file(ReadFileRequest(path="/tmp/raw")), "UTF-8")
    assert (await rex.read_file(ReadFileRequest(path="/tmp/raw", errors="replace"))).content == "a\ufffdb"
    source = Path("tree")
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "file").write_text("deep")
    Path("single").write_bytes(b"\x00\xff" * 300_000)
    await rex.upload(UploadRequest(source_path="single", target_path="/tmp/up/single"))
    await rex.upload(UploadRequest(source_path="tree", target_path="/tmp/up/tree"))
    ran = await rex.execute(Command(command="wc -c < /tmp/up/single; cat /tmp/up/tree/inner/file; ls -A /tmp | grep swerex", shell=True))
    assert ran.stdout == "600000\ndeep", ran

    # A token opens its own sandbox, an API key each.
    assert not (await runtime(os.environ["REX_OTHER"], os.environ["REX_TOKEN"]).is_alive()).is_alive
    assert (await runtime(os.environ["REX_OTHER"], os.environ["REX_KEY"]).is_alive()).is_alive
    assert not (await runtime(os.environ["REX_HOST"], "wrong").is_alive()).is_alive

    await rex.close()
    await raises(SessionDoesNotExistError, sh("true"))


asyncio.run(main())
print("every check passed")
