"""E2B's SDK for Python, unmodified: commands, and what programs find around them, as E2B's own server has it."""
import os
import threading
import urllib.request

from e2b import CommandExitException, Sandbox
from e2b.exceptions import InvalidArgumentException, NotFoundException, SandboxException, TimeoutException
from e2b_code_interpreter import Sandbox as CodeSandbox

sandbox = Sandbox.create(timeout=300, envs={"FOO": "bar", "E2B_TEMPLATE_ID": "mine"})
run = sandbox.commands.run


def refused(call, kind, words):
    try:
        call()
    except kind as error:
        assert words in str(error), f"{words!r} is not in {str(error)!r}"
        return error
    raise AssertionError(f"{words} was not refused")


# Where programs run.
assert run("pwd").stdout == "/home/user\n" and run("pwd", user="root").stdout == "/root\n"
assert run("pwd", cwd="/root", user="root").stdout == "/root\n"
assert run("pwd", cwd="..").stdout == "/home\n", "relative to the user's home"
refused(lambda: run("pwd", cwd="/none"), InvalidArgumentException, "cwd '/none' does not exist")
refused(lambda: run("pwd", cwd="/root"), SandboxException, "ermission denied")

# What they are told.
told = dict(line.split("=", 1) for line in run("env").stdout.splitlines())
assert (told["E2B_SANDBOX"], told["E2B_SANDBOX_ID"], told["FOO"]) == ("true", sandbox.sandbox_id, "bar"), told
assert told["E2B_TEMPLATE_ID"] == "mine", "the caller's word is the last"
assert run("cat /run/e2b/.E2B_SANDBOX").stdout == "true"
assert run("cat /run/e2b/.E2B_SANDBOX_ID").stdout == sandbox.sandbox_id
boot = "cat /proc/sys/kernel/random/boot_id"
mine = run(boot).stdout
assert len(mine) == 37 and mine == run(boot).stdout and mine != open("/proc/sys/kernel/random/boot_id").read()
refused(lambda: run("echo x > /proc/sys/kernel/random/boot_id", user="root"), CommandExitException, "")
with Sandbox.create(timeout=300) as other:
    assert other.commands.run(boot).stdout != mine, "each start has an id of its own"
    assert other.commands.run("echo $E2B_TEMPLATE_ID").stdout == "base\n"
    assert other.commands.run("cat /run/e2b/.E2B_SANDBOX_ID").stdout == other.sandbox_id

# How they end.
for signal, words in (("KILL", "signal: killed"), ("TERM", "signal: terminated"), ("SEGV", "signal: segmentation fault"),
                      ("ALRM", "signal: alarm clock")):
    error = refused(lambda: run(f"kill -{signal} $$"), CommandExitException, "")
    assert (error.exit_code, error.error) == (-1, words), (error.exit_code, error.error)
error = refused(lambda: run("exit 7"), CommandExitException, "")
assert (error.exit_code, error.error) == (7, "exit status 7"), error.error
refused(lambda: sandbox.commands.connect(999_999), NotFoundException, "process with pid 999999 not found")
refused(lambda: sandbox.commands.send_stdin(999_999, "x"), NotFoundException, "process with pid 999999 not found")
assert sandbox.commands.kill(999_999) is False
refused(lambda: run("sleep 600", timeout=1), TimeoutException, "exceeding 'timeout'")

# What a server inside is sent: names of headers in E2B's case, whatever the client's.
sandbox.files.write("echo.py", """import socket
server = socket.create_server(("127.0.0.1", 3000))
while True:
    client, _ = server.accept()
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        more = client.recv(4096)
        if not more:
            break
        head += more
    client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(head) + head)
    client.close()
""")
run("python3 echo.py", background=True)
run("until python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 3000))' 2>/dev/null; do :; done")
headers = {"x-my-header": "v", "e2b-sandbox-id": sandbox.sandbox_id, "e2b-sandbox-port": "3000"}
request = urllib.request.Request(os.environ["E2B_SANDBOX_URL"] + "/page", headers=headers)
seen = urllib.request.urlopen(request).read().decode()
assert "X-My-Header: v\r\n" in seen and "\r\nHost: " in seen, seen

# A sandbox that ends takes its streams with it, and each says so.
ended = "The sandbox was killed or reached its end of life while the request was in flight"
command = run("sleep 600", background=True)
watch = sandbox.files.watch_dir("/tmp")
assert sandbox.kill()
refused(command.wait, SandboxException, ended)
refused(watch.get_new_events, SandboxException, "was not found")
refused(lambda: run("true"), SandboxException, "was not found")

code = CodeSandbox.create(timeout=300)
assert code.run_code("1 + 1").text == "2"
started = threading.Event()
killer = threading.Thread(target=lambda: (started.wait(), code.kill()))
killer.start()
refused(lambda: code.run_code("print('on'); import time; time.sleep(600)", on_stdout=lambda _: started.set()),
        TimeoutException, "The sandbox was killed while the request was in progress")
killer.join()
alone = CodeSandbox.create(timeout=300)
alone.run_code("import os; os._exit(3)")
assert alone.is_running() and alone.kill(), "a context that ends alone is not the sandbox's end"
print("ok", flush=True)
os._exit(0)
