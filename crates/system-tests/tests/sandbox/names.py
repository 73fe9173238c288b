"""E2B's SDK for Python, unmodified, with E2B_DOMAIN: https://api.DOMAIN, and https://PORT-ID.DOMAIN for what is inside."""
import os
import time
import urllib.error
import urllib.request

from e2b import Sandbox
from e2b_code_interpreter import Sandbox as Interpreter

sandbox = Sandbox.create("host", timeout=300)
assert sandbox.commands.run("echo hello").stdout == "hello\n"
sandbox.files.write("/tmp/a b.txt", "kept")
assert sandbox.files.read("/tmp/a b.txt") == "kept"
url = sandbox.download_url("/tmp/a b.txt", use_signature_expiration=60)
assert url.startswith(f"https://49983-{sandbox.sandbox_id}.box.example/files"), url
assert urllib.request.urlopen(url).read() == b"kept"

# A server inside, by its own name.
sandbox.commands.run("mkdir -p /tmp/site && cd /tmp/site && echo inside > index.html && python3 -m http.server 3000", background=True)
host = sandbox.get_host(3000)
assert host == f"3000-{sandbox.sandbox_id}.box.example", host
for _ in range(600):
    try:
        assert urllib.request.urlopen(f"https://{host}/").read() == b"inside\n"
        break
    except urllib.error.HTTPError as error:
        assert error.code == 502, error
        time.sleep(0.1)
else:
    raise AssertionError("the preview was not reached")
assert sandbox.kill()

interpreter = Interpreter.create("host", timeout=300)
interpreter.run_code("x = 20")
assert interpreter.run_code("x + 1").text == "21"
assert interpreter.kill()
print("ok", flush=True)
# The SDK keeps threads of its own, and the interpreter does not always survive taking itself down beside them.
os._exit(0)
