"""`mcp` of E2B's SDK: servers inside, behind one gateway, asked by the official client of MCP."""
import asyncio
import os

import httpx
import httpx2
from e2b import Sandbox, SandboxException
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

URL = f"{os.environ['E2B_API_URL']}/mcp"
SERVER = """
import json, os, sys
name, abilities = sys.argv[1], sys.argv[2].split(",")
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    reply = {"jsonrpc": "2.0", "id": asked["id"]}
    answers = {
        "initialize": {"protocolVersion": "2025-06-18", "capabilities": {able: {} for able in abilities},
                       "serverInfo": {"name": name, "version": "1"}},
        "tools/list": {"tools": [{"name": tool, "inputSchema": {"type": "object"}} for tool in ("echo", name)]},
        "resources/list": {"resources": [{"uri": f"file:///{name}", "name": name}]},
        "resources/read": {"contents": [{"uri": f"file:///{name}", "text": f"text of {name}"}]},
    }
    if asked["method"] == "tools/call":
        arguments = asked["params"].get("arguments") or {}
        if arguments.get("end"):
            sys.exit(3)
        said = f"{name} {asked['params']['name']} {arguments} {os.environ.get('WORD')} {os.environ.get('GATEWAY_ACCESS_TOKEN')}"
        reply["result"] = {"content": [{"type": "text", "text": said}]}
    elif asked["method"] in answers:
        reply["result"] = answers[asked["method"]]
    else:
        reply["error"] = {"code": -32601, "message": "unknown"}
    print(json.dumps(reply), flush=True)
"""

# An image with a server, a repository of one (cloned from the disk: the address is rewritten), and one that it knows by name.
workshop = Sandbox.create(timeout=300)
workshop.files.write("/opt/server.py", SERVER, user="root")
known = '{"shelf": {"command": ["python3", "/opt/server.py", "shelf", "tools,${extra}"], "env": {"WORD": "${word}"}}}'
workshop.files.write("/etc/mcp-gateway/servers.json", known, user="root")
workshop.commands.run("""mkdir -p /srv/git/acme/tools && cd /srv/git/acme/tools && git init --quiet && cp /opt/server.py . && git add . &&
git -c user.name=a -c user.email=a@example.org commit --quiet --message=one &&
git config --global url.file:///srv/git/.insteadOf https://github.com/ && git config --global safe.directory '*'""", user="root")
image = workshop.create_snapshot().snapshot_id

sandbox = Sandbox.create(image, timeout=300, mcp={
    "github/acme/tools": {"install_cmd": "touch installed", "run_cmd": "test -f installed && python3 server.py cloned tools", "envs": {"WORD": "w1"}},
    "mine": {"command": "python3", "args": ["/opt/server.py", "mine", "tools"], "env": {"WORD": "w2"}},
    "shelf": {"word": "w3", "extra": "resources"},
})
token = sandbox.get_mcp_token()
assert sandbox.get_mcp_url() == f"https://50005-{sandbox.sandbox_id}.sandbox.localhost/mcp"
assert Sandbox.connect(sandbox.sandbox_id).get_mcp_token() == token, "it stands inside, for who connects later"
address = {"e2b-sandbox-id": sandbox.sandbox_id, "e2b-sandbox-port": "50005"}
headers = {**address, "Authorization": f"Bearer {token}"}


async def ask():
    async with httpx2.AsyncClient(headers=headers) as http:
        async with streamable_http_client(URL, http_client=http) as streams:
            async with ClientSession(streams[0], streams[1]) as session:
                await session.initialize()
                tools = [tool.name for tool in (await session.list_tools()).tools]
                assert tools == ["echo", "cloned", "mine__echo", "mine", "shelf__echo", "shelf"], tools

                async def call(name, **arguments):
                    return (await session.call_tool(name, arguments)).content[0].text

                assert await call("cloned", a=1) == "cloned cloned {'a': 1} w1 None", "no server is told the token"
                assert await call("mine__echo") == "mine echo {} w2 None"
                assert await call("shelf") == "shelf shelf {} w3 None"
                resources = (await session.list_resources()).resources
                assert [str(resource.uri) for resource in resources] == ["file:///shelf"], resources
                assert (await session.read_resource(resources[0].uri)).contents[0].text == "text of shelf"
                # A server that ends is told of, and starts anew when it is asked again.
                try:
                    await call("mine", end=True)
                    raise AssertionError("a server that ended answered")
                except Exception as error:
                    assert "mine: the MCP server ended" in str(error), error
                assert await call("mine") == "mine mine {} w2 None"


asyncio.run(ask())

# The token, and the forms of the protocol.
ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
for more, status in [({}, 401), ({"Authorization": "Bearer wrong"}, 401), ({"Authorization": f"Basic {token}"}, 401)]:
    assert httpx.post(URL, json=ping, headers={**address, **more}).status_code == status, more
assert httpx.post(URL, json=ping, headers=headers).json() == {"jsonrpc": "2.0", "id": 1, "result": {}}
assert httpx.post(URL, json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=headers).status_code == 202
assert httpx.post(URL, json=ping, headers={**headers, "Mcp-Session-Id": "none"}).status_code == 404
assert httpx.post(URL, content=b"{", headers=headers).json()["error"]["code"] == -32700
assert httpx.get(URL, headers=headers).status_code == 405
unknown = httpx.post(URL, json={**ping, "method": "tools/call", "params": {"name": "none"}}, headers=headers).json()
assert unknown["error"]["code"] == -32602 and "none" in unknown["error"]["message"], unknown
assert sandbox.kill()

# What cannot be started is named, and leaves no sandbox behind.
for config, words in [
    ({"nosuch": {}, "mine": {"command": "true"}, "other": {}}, "unknown MCP servers: nosuch, other; this image knows shelf"),
    ({"github/acme/tools": {}}, "github/acme/tools: runCmd is missing"),
    ({"github/acme/tools": {"runCmd": "true", "installCmd": "echo broken; exit 4"}}, "(exit 4): broken"),
    ({"x": {"command": "/no/such"}}, "failed to run '/no/such'"),
    ({"x": {"command": "sh", "args": ["-c", "echo its own words >&2"]}}, "its own words"),
]:
    try:
        Sandbox.create(image, timeout=300, mcp=config)
        raise AssertionError(f"{config} was started")
    except SandboxException as error:
        assert "Failed to start MCP gateway" in str(error) and words in str(error), error
assert [item.sandbox_id for item in Sandbox.list().next_items()] == [workshop.sandbox_id]

# The template that is asked for where none is named needs no image of that name.
try:
    Sandbox.create(timeout=300, mcp={"nosuch": {}})
except SandboxException as error:
    assert "this image knows none" in str(error), error
assert workshop.kill()
print("ok", flush=True)
# The SDK keeps threads of its own, and the interpreter does not always survive taking itself down beside them.
os._exit(0)
