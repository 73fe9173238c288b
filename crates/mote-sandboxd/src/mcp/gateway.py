#!/usr/bin/env python3
"""mcp-gateway: serves the tools, prompts and resources of several MCP servers as those of one, over Streamable HTTP.

mcp-gateway --config JSON     start, on port 50005; ends when it answers, and says on standard error why it does not
mcp-gateway pull NAME...      whether these servers are known here

Servers speak MCP on standard input and output. The configuration has an entry for each:
  "NAME": {"command": "...", "args": [...], "env": {...}}                a command that is there
  "github/OWNER/REPO": {"runCmd": "...", "installCmd": "...", "envs": {...}}   a repository that is cloned first
  "NAME": {...}                                                          one that /etc/mcp-gateway/servers.json knows
The last file has {"NAME": {"command": [...], "env": {...}}}; ${KEY} in it stands for what the entry gives.

Clients show the token of GATEWAY_ACCESS_TOKEN, which is kept in /etc/mcp-gateway/.token. Servers cannot ask clients for
anything: no sampling, no elicitation, no stream of notifications.
"""
import hmac
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import threading
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 50005
FOLDER = "/etc/mcp-gateway"
LOG = "/var/log/mcp-gateway.log"
REPOSITORIES = "/opt/mcp-gateway"
VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
# Seconds.
INSTALL_TIME = 900
START_TIME = 60
CALL_TIME = 600
BODY_BYTES_MAX = 16 * 1024 * 1024
LINE_BYTES_MAX = 64 * 1024 * 1024
SESSIONS_MAX = 1024
TOLD_BYTES = 2000
PAGES_MAX = 100


class Refusal(Exception):
    """An error of JSON-RPC on its way to the client."""

    def __init__(self, code, message, data=None):
        super().__init__(message)
        self.error = {"code": code, "message": message, **({} if data is None else {"data": data})}


def log(*words):
    print("mcp-gateway:", *words, file=sys.stderr, flush=True)


class Server:
    """One MCP server: a process, what it said it can, and the requests under way."""

    def __init__(self, name, argv, cwd=None, env=None):
        self.name, self.argv, self.cwd, self.env = name, argv, cwd, env or {}
        self.lock, self.starting = threading.Lock(), threading.Lock()
        self.process, self.waiting, self.last, self.able = None, {}, 0, {}

    def start(self):
        with self.starting:
            if self.process is not None and self.process.poll() is None:
                return
            env = {name: value for name, value in os.environ.items() if name != "GATEWAY_ACCESS_TOKEN"}
            env.update(self.env)
            try:
                self.process = subprocess.Popen(
                    self.argv, cwd=self.cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            except OSError as error:
                raise Refusal(-32000, f"{self.name}: failed to run {self.argv[0]!r}: {error}") from error
            threading.Thread(target=self.listen, args=(self.process,), daemon=True).start()
            hello = {
                "protocolVersion": VERSIONS[0],
                "capabilities": {},
                "clientInfo": {"name": "mcp-gateway", "version": "1"},
            }
            self.able = self.ask("initialize", hello, START_TIME).get("capabilities") or {}
            self.tell({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def listen(self, process):
        """Hands each answer to who waits for it. Whoever still waits at the end is told of the end."""
        while True:
            line = process.stdout.readline(LINE_BYTES_MAX)
            if not line:
                break
            try:
                message = json.loads(line)
            except ValueError:
                log(f"{self.name}: a line is no JSON: {line[:200]!r}")
                continue
            for one in message if isinstance(message, list) else [message]:
                if isinstance(one, dict):
                    self.hear(one)
        with self.lock:
            waiting, self.waiting = self.waiting, {}
        for done, answer in waiting.values():
            answer["error"] = {"code": -32000, "message": "the MCP server ended"}
            done.set()

    def hear(self, message):
        if "method" in message:
            if "id" in message:
                reply = {"jsonrpc": "2.0", "id": message["id"]}
                if message["method"] == "ping":
                    reply["result"] = {}
                else:
                    reply["error"] = {"code": -32601, "message": "the gateway's clients are not asked"}
                self.tell(reply)
            return
        with self.lock:
            done, answer = self.waiting.pop(message.get("id"), (None, None))
        if done is not None:
            answer.update(message)
            done.set()

    def tell(self, message):
        try:
            with self.lock:
                self.process.stdin.write(json.dumps(message).encode() + b"\n")
                self.process.stdin.flush()
        except (OSError, ValueError) as error:
            raise Refusal(-32000, f"the MCP server {self.name} ended: {error}") from error

    def ask(self, method, params, time=CALL_TIME):
        done, answer = threading.Event(), {}
        with self.lock:
            self.last += 1
            number = self.last
            self.waiting[number] = (done, answer)
        self.tell({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        if not done.wait(time):
            with self.lock:
                self.waiting.pop(number, None)
            raise Refusal(-32001, f"the MCP server {self.name} did not answer {method} in {time} s")
        if "error" in answer:
            error = answer["error"]
            raise Refusal(error.get("code", -32000), f"{self.name}: {error.get('message', 'failed')}", error.get("data"))
        return answer.get("result") or {}

    def call(self, method, params):
        self.start()
        return self.ask(method, params)

    def all(self, method, field):
        """Every page of a list."""
        found, params = [], {}
        for _ in range(PAGES_MAX):
            page = self.call(method, params)
            found += page.get(field) or []
            if not page.get("nextCursor"):
                break
            params = {"cursor": page["nextCursor"]}
        return found


class Gateway:
    """The servers as one."""

    # Method, what a server has to be able of, the field of the answer, what an entry is known by.
    LISTS = {
        "tools/list": ("tools", "tools", "name"),
        "prompts/list": ("prompts", "prompts", "name"),
        "resources/list": ("resources", "resources", "uri"),
        "resources/templates/list": ("resources", "resourceTemplates", "uriTemplate"),
    }
    CALLS = {"tools/call": ("tools/list", "name"), "prompts/get": ("prompts/list", "name")}

    def __init__(self, servers):
        self.servers = servers
        self.lock = threading.Lock()
        self.known = {method: {} for method in self.LISTS}

    def able(self, what):
        return [server for server in self.servers if what in server.able]

    def list(self, method):
        what, field, key = self.LISTS[method]
        entries, known = [], {}
        for server in self.able(what):
            try:
                found = server.all(method, field)
            except Refusal as refusal:
                # The others are told all the same.
                log(refusal)
                continue
            for entry in found:
                shown = entry.get(key)
                if shown in known and key == "name":
                    shown = f"{server.name.rsplit('/', 1)[-1]}__{shown}"
                known[shown] = (server, entry.get(key))
                entries.append({**entry, key: shown})
        with self.lock:
            self.known[method] = known
        return {field: entries}

    def owner(self, method, shown):
        with self.lock:
            owner = self.known[method].get(shown)
        if owner is None:
            self.list(method)
            with self.lock:
                owner = self.known[method].get(shown)
        return owner

    def read(self, method, params):
        owner = self.owner("resources/list", params.get("uri"))
        refused = Refusal(-32002, f"no MCP server has the resource {params.get('uri')!r}")
        for server in [owner[0]] if owner else self.able("resources"):
            try:
                return server.call(method, params)
            except Refusal as refusal:
                refused = refusal
        raise refused

    def initialize(self, params):
        wanted = params.get("protocolVersion")
        able = {what: {} for what in ("tools", "prompts", "resources", "logging") if self.able(what)}
        return {
            "protocolVersion": wanted if wanted in VERSIONS else VERSIONS[0],
            "capabilities": able,
            "serverInfo": {"name": "mcp-gateway", "version": "1"},
        }

    def answer(self, method, params):
        if method == "initialize":
            return self.initialize(params)
        if method == "ping":
            return {}
        if method in self.LISTS:
            return self.list(method)
        if method in self.CALLS:
            known, key = self.CALLS[method]
            owner = self.owner(known, params.get(key))
            if owner is None:
                raise Refusal(-32602, f"no MCP server has {params.get(key)!r}")
            return owner[0].call(method, {**params, key: owner[1]})
        if method == "resources/read":
            return self.read(method, params)
        if method == "logging/setLevel":
            for server in self.able("logging"):
                server.call(method, params)
            return {}
        raise Refusal(-32601, f"the gateway does not pass on {method}")


class Handler(BaseHTTPRequestHandler):
    """Streamable HTTP: a request is answered with JSON, and nothing is streamed."""

    protocol_version = "HTTP/1.1"
    server_version = "mcp-gateway/1"

    def log_message(self, *_):
        pass

    def reply(self, status, body=None, headers=None):
        text = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if body is not None:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def refuse(self, status, code, message, headers=None):
        # What is left of a body would be read as the next request.
        self.close_connection = True
        error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
        self.reply(status, error, {"Connection": "close", **(headers or {})})

    def admitted(self):
        if self.path.split("?")[0].rstrip("/") not in ("/mcp", ""):
            self.refuse(404, -32600, "MCP is served at /mcp")
            return False
        word, _, token = self.headers.get("Authorization", "").partition(" ")
        if word.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self.server.token.encode()):
            return True
        self.refuse(401, -32600, "the request carries no token of the gateway", {"WWW-Authenticate": "Bearer"})
        return False

    def do_GET(self):
        if self.admitted():
            self.refuse(405, -32600, "nothing is streamed", {"Allow": "POST, DELETE"})

    def do_DELETE(self):
        if self.admitted():
            known = self.server.sessions.pop(self.headers.get("Mcp-Session-Id"), None)
            self.reply(404 if known is None else 204)

    def do_POST(self):
        if not self.admitted():
            return
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            return self.refuse(411, -32600, "the request has no Content-Length")
        if not 0 <= length <= BODY_BYTES_MAX:
            return self.refuse(413, -32600, f"a body has at most {BODY_BYTES_MAX} bytes")
        try:
            body = json.loads(self.rfile.read(length))
        except ValueError as error:
            return self.refuse(400, -32700, f"the body is no JSON: {error}")
        messages = body if isinstance(body, list) else [body]
        if not messages or not all(isinstance(message, dict) for message in messages):
            return self.refuse(400, -32600, "the body is no message of JSON-RPC")
        session = self.headers.get("Mcp-Session-Id")
        begins = any(message.get("method") == "initialize" for message in messages)
        if session is not None and not begins and session not in self.server.sessions:
            return self.refuse(404, -32001, "there is no such session")
        answers = [self.one(message) for message in messages if "method" in message and "id" in message]
        headers = {}
        if begins:
            session = secrets.token_hex(16)
            while len(self.server.sessions) >= SESSIONS_MAX:
                self.server.sessions.popitem(last=False)
            self.server.sessions[session] = True
            headers["Mcp-Session-Id"] = session
        if not answers:
            return self.reply(202, None, headers)
        self.reply(200, answers if isinstance(body, list) else answers[0], headers)

    def one(self, message):
        reply = {"jsonrpc": "2.0", "id": message["id"]}
        params = message.get("params")
        try:
            reply["result"] = self.server.gateway.answer(message["method"], params if isinstance(params, dict) else {})
        except Refusal as refusal:
            reply["error"] = refusal.error
        except Exception as error:  # One request must not end the gateway.
            log(f"{message['method']}: {error!r}")
            reply["error"] = {"code": -32603, "message": f"the gateway failed: {error}"}
        return reply


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def manifest():
    try:
        with open(f"{FOLDER}/servers.json", encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def filled(text, config):
    """`${KEY}` as the configuration gives it."""
    return re.sub(r"\$\{(\w+)\}", lambda match: str(config.get(match[1], "")), text)


def run(command, cwd, env):
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, timeout=INSTALL_TIME, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )
    if done.returncode != 0:
        tail = done.stdout.decode(errors="replace")[-2000:].strip()
        raise SystemExit(f"failed to run {command!r} (exit {done.returncode}): {tail}")


def cloned(name, config):
    """A server of a repository, which is cloned and made ready."""
    _, owner, repository = name.split("/")
    command = config.get("runCmd") or config.get("run_cmd")
    install = config.get("installCmd") or config.get("install_cmd")
    if not isinstance(command, str) or not command:
        raise SystemExit(f"{name}: runCmd is missing: the command that starts the server")
    env = {key: str(value) for key, value in (config.get("envs") or {}).items()}
    folder = f"{REPOSITORIES}/{owner}/{repository}"
    if not os.path.isdir(folder):
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        run(["git", "clone", "--depth", "1", f"https://github.com/{owner}/{repository}", folder], "/", {})
    if install:
        run(["/bin/sh", "-c", install], folder, env)
    return Server(name, ["/bin/sh", "-c", command], folder, env)


def servers(config):
    if not isinstance(config, dict) or not config:
        raise SystemExit("the configuration names no MCP server")
    known, found, unknown = manifest(), [], []
    for name, entry in config.items():
        entry = entry if isinstance(entry, dict) else {}
        if re.fullmatch(r"github/[\w.-]+/[\w.-]+", name):
            found.append(lambda name=name, entry=entry: cloned(name, entry))
        elif isinstance(entry.get("command"), str) and name not in known:
            argv = [*shlex.split(entry["command"]), *map(str, entry.get("args") or [])]
            env = {key: str(value) for key, value in (entry.get("env") or entry.get("envs") or {}).items()}
            found.append(lambda name=name, argv=argv, env=env: Server(name, argv, None, env))
        elif name in known:
            argv = [filled(word, entry) for word in known[name]["command"]]
            env = {key: filled(value, entry) for key, value in known[name].get("env", {}).items()}
            found.append(lambda name=name, argv=argv, env=env: Server(name, argv, None, env))
        else:
            unknown.append(name)
    if unknown:
        raise SystemExit(unheard(unknown, known))
    return [make() for make in found]


def unheard(unknown, known):
    there = f"this image knows {', '.join(sorted(known))}" if known else f"this image knows none ({FOLDER}/servers.json)"
    return (
        f"unknown MCP server{'s' if len(unknown) > 1 else ''}: {', '.join(unknown)}; {there}. Give a command, or a "
        "repository as github/OWNER/REPO with runCmd"
    )


def keep(token):
    os.makedirs(FOLDER, mode=0o755, exist_ok=True)
    path = f"{FOLDER}/.token"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token)


def said():
    """The end of what servers said on standard error."""
    with open(LOG, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TOLD_BYTES))
        text = file.read().decode(errors="replace").strip()
    return f"\n{text}" if text else ""


def serve(config, ready):
    """Starts every server and listens; writes to `ready` why it does not, or nothing and closes it."""
    token = os.environ.get("GATEWAY_ACCESS_TOKEN") or secrets.token_urlsafe(32)
    started = []
    try:
        listener = Listener(("0.0.0.0", PORT), Handler, bind_and_activate=False)
        listener.allow_reuse_address = True
        listener.server_bind()
        for server in servers(config):
            started.append(server)
            server.start()
        keep(token)
    except (SystemExit, Refusal, OSError, subprocess.SubprocessError) as error:
        ready.write(f"{error}{said()}".encode(errors="replace"))
        ready.close()
        for server in started:
            if server.process is not None:
                server.process.kill()
        os._exit(1)
    listener.token, listener.gateway, listener.sessions = token, Gateway(started), OrderedDict()
    listener.server_activate()
    ready.close()
    listener.serve_forever()


def start(text):
    try:
        config = json.loads(text)
    except ValueError as error:
        sys.exit(f"mcp-gateway: --config is no JSON: {error}")
    reading, writing = os.pipe()
    if os.fork() == 0:
        # It outlives who started it, and holds nothing of theirs.
        os.close(reading)
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        output = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        serve(config, os.fdopen(writing, "wb"))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        why = pipe.read().decode(errors="replace")
    if why:
        sys.exit(f"mcp-gateway: {why}")


def main(words):
    if len(words) == 2 and words[0] == "--config":
        return start(words[1])
    if len(words) >= 2 and words[0] == "pull":
        known = manifest()
        unknown = [name for name in words[1:] if name not in known and not name.startswith("github/")]
        return sys.exit(f"mcp-gateway: {unheard(unknown, known)}") if unknown else None
    sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
