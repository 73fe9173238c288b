"""The main surface of E2B's SDK for Python, unmodified, in each generation that CI installs."""
import importlib.metadata
import os
import time
from datetime import datetime, timedelta, timezone

import httpx
from e2b import Sandbox, SandboxException, SandboxNetworkOpts, SandboxQuery, SandboxState
from e2b.exceptions import NotFoundException
from e2b_code_interpreter import Sandbox as Interpreter

API = os.environ["E2B_API_URL"]
# Earlier ones refuse a key of another form before they send anything.
assert os.environ["E2B_API_KEY"].startswith("e2b_") and "E2B_VALIDATE_API_KEY" not in os.environ
CURRENT = importlib.metadata.version("e2b") == "2.63.0"


def until(what, wanted):
    """What is asked for becomes what is wanted: nothing tells of it."""
    end = time.monotonic() + 120
    while (found := what()) != wanted:
        assert time.monotonic() < end, (found, wanted)
        time.sleep(0.05)


def raises(call, words):
    try:
        call()
    except SandboxException as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"nothing said {words!r}")


def port(sandbox, number, **headers):
    headers |= {"e2b-sandbox-id": sandbox.sandbox_id, "e2b-sandbox-port": str(number)}
    return httpx.get(f"{API}/", headers=headers)


def serve(sandbox, number, tls=False):
    """A server inside that answers with the headers that it was sent, as they were written."""
    wrap = "c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain('/tmp/c.pem', '/tmp/k.pem'); s.socket = c.wrap_socket(s.socket, server_side=True)"
    sandbox.files.write("/tmp/server.py", f"""
import http.server, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(self.headers).encode())
s = http.server.ThreadingHTTPServer(("", {number}), Handler)
{wrap if tls else ""}
s.serve_forever()
""")
    sandbox.commands.run("python3 /tmp/server.py", background=True)
    until(lambda: port(sandbox, number).status_code, 200)
    return port(sandbox, number).text


# Made, told, listed.
sandbox = Sandbox.create(timeout=300, metadata={"run": "a b"}, envs={"FOO": "bar"})
assert sandbox.commands.run("echo $FOO").stdout == "bar\n" and sandbox.is_running()
sandbox.files.write("/home/user/kept", "kept")
info = sandbox.get_info()
assert info.allow_internet_access is True, info
other = Sandbox.create("base", timeout=300, metadata={"run": "a b", "other": "1"})


def listed(**query):
    found, pages = [], Sandbox.list(query=SandboxQuery(**query), limit=1)
    while pages.has_next:
        found += pages.next_items()
    return [item.sandbox_id for item in found]


both = [other.sandbox_id, sandbox.sandbox_id]
assert listed(metadata={"run": "a b"}) == both and listed(metadata={"run": "a b", "other": "1"}) == both[:1]
assert listed(metadata={"run": "b"}) == [] and listed(state=[SandboxState.PAUSED]) == []
if CURRENT:
    assert listed(started_after=info.started_at) == both and listed(started_after=other.get_info().started_at) == both[:1]
    assert listed(template="base") == both and listed(template="none") == []

# Its end: earlier or later as it is asked, never earlier by a connection.
end = sandbox.get_info().end_at
Sandbox.connect(sandbox.sandbox_id, timeout=60)
assert sandbox.get_info().end_at == end
Sandbox.connect(sandbox.sandbox_id, timeout=600)
assert sandbox.get_info().end_at > end
sandbox.set_timeout(120)
assert sandbox.get_info().end_at < end

# Metrics: now, and of the span that is asked for.
now = datetime.now(timezone.utc)
points = sandbox.get_metrics()
assert points and points[-1].mem_total > 0 and points[-1].cpu_count > 0, points
assert all(point.timestamp >= now.replace(microsecond=0) for point in sandbox.get_metrics(start=now))
assert sandbox.get_metrics(end=now - timedelta(hours=1)) == [] == sandbox.get_metrics(start=now + timedelta(hours=1))
raises(lambda: sandbox.get_metrics(start=now, end=now - timedelta(hours=1)), "400")

# Pauses, with memory and without.
sleeper = sandbox.commands.run("sleep 1000", background=True)
running = lambda: sleeper.pid in [process.pid for process in sandbox.commands.list()]
assert sandbox.pause() and not sandbox.is_running() and not sandbox.pause()
assert listed(state=[SandboxState.PAUSED]) == [sandbox.sandbox_id] and sandbox.get_metrics()
sandbox.connect(timeout=300)
assert running()
assert sandbox.pause(keep_memory=False) and sandbox.get_info().state == SandboxState.PAUSED
sandbox.connect(timeout=300)
assert not any("sleep" in " ".join(process.args) for process in sandbox.commands.list())
assert sandbox.files.read("/home/user/kept") == "kept" and sandbox.commands.run("echo $FOO").stdout == "bar\n"
if CURRENT:
    sandbox.commands.run("sleep 1000", background=True)
    assert sandbox.pause()
    sandbox.connect(timeout=300, on_resume="reboot")
    assert not any("sleep" in " ".join(process.args) for process in sandbox.commands.list())

# The network: an update names what it changes.
sandbox.update_network({"deny_out": ["8.8.8.8"]})
info = sandbox.get_info()
assert info.allow_internet_access and info.network["deny_out"] == ["8.8.8.8"] and info.network["allow_out"] == [], info
sandbox.update_network({})
assert sandbox.get_info().network["deny_out"] == []
sandbox.update_network({"allow_internet_access": False})
assert sandbox.get_info().allow_internet_access is False
raises(lambda: Sandbox.create(network={"allow_out": ["example.com"]}), "ALL_TRAFFIC")

# Ports: closed, open to those who show a token, with a host of their own, over TLS.
closed = port(sandbox, 3000)
assert (closed.status_code, closed.json()["message"]) == (502, "The sandbox is running but port is not open"), closed.text
hidden = Sandbox.create(timeout=300, network=SandboxNetworkOpts(allow_public_traffic=False))
assert port(hidden, 3000).status_code == 403
assert port(hidden, 3000, **{"e2b-traffic-access-token": hidden.traffic_access_token}).status_code == 502
assert hidden.kill()
masked = Sandbox.create(timeout=300, network=SandboxNetworkOpts(mask_request_host="custom-host.example.com:${PORT}"))
told = serve(masked, 8080)
assert "Host: custom-host.example.com:8080\n" in told and "X-Forwarded-Host: " in told, told
assert masked.get_info().network["mask_request_host"] == "custom-host.example.com:${PORT}" and masked.kill()
if CURRENT:
    secured = Sandbox.create(timeout=300, network={"https_ports": [8443]})
    secured.commands.run("openssl req -x509 -newkey rsa:2048 -keyout /tmp/k.pem -out /tmp/c.pem -days 1 -nodes -subj /CN=localhost")
    assert "Host: " in serve(secured, 8443, tls=True)
    assert secured.get_info().network["https_ports"] == [8443] and secured.kill()

# A lease that ends in a pause, of the files alone too; traffic wakes only who asked for that.
pausing = Sandbox.create(timeout=300, lifecycle={"on_timeout": {"action": "pause", "keep_memory": False}})
pausing.files.write("/home/user/kept", "kept")
pausing.set_timeout(0)
until(pausing.is_running, False)
assert port(pausing, 8000).status_code == 502 and pausing.get_info().state == SandboxState.PAUSED
pausing.connect(timeout=300)
assert pausing.files.read("/home/user/kept") == "kept" and pausing.kill()
waking = Sandbox.create(timeout=300, lifecycle={"on_timeout": "pause", "auto_resume": True})
serve(waking, 8000)
waking.set_timeout(0)
until(waking.is_running, False)
assert port(waking, 8000).status_code == 200 and waking.is_running() and waking.kill()

# What outlives it.
snapshot = sandbox.create_snapshot()
again = Sandbox.create(snapshot.snapshot_id, timeout=300)
assert again.files.read("/home/user/kept") == "kept" and again.kill() and Sandbox.delete_snapshot(snapshot.snapshot_id)

# The end, in the SDK's words.
sleeper = sandbox.commands.run("sleep 1000", background=True)
assert sandbox.kill() and not sandbox.kill() and not Sandbox.kill("no-such-sandbox") and not sandbox.is_running()
raises(sleeper.wait, "sandbox")
gone = port(sandbox, 3000)
assert (gone.status_code, gone.json()["message"]) == (502, "The sandbox was not found"), gone.text
for call in (sandbox.get_info, lambda: sandbox.set_timeout(5), sandbox.pause, lambda: Sandbox.connect(sandbox.sandbox_id)):
    raises(call, f"{sandbox.sandbox_id} not found")
raises(lambda: sandbox.commands.run("true"), "was not found")
assert other.kill()

interpreter = Interpreter.create(timeout=300)
interpreter.run_code("x = 20")
assert interpreter.run_code("x + 1").text == "21" and interpreter.kill()
print("ok", flush=True)
# The SDK keeps threads of its own, and the interpreter does not always survive taking itself down beside them.
os._exit(0)
