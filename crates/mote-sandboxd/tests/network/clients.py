def outcome(action):
    """What came of an attempt, in one word where it failed."""
    try:
        return action()
    except ssl.SSLError as error:
        return "tls:" + (error.reason or "eof").lower()
    except socket.gaierror:
        return "no-name"
    except (ConnectionResetError, BrokenPipeError):
        return "reset"
    except (TimeoutError, socket.timeout):
        return "timeout"
    except ConnectionRefusedError:
        return "refused"
    except PermissionError:
        return "not-permitted"
    except OSError as error:
        return "error:" + str(error.errno)

def http(address, host, path="/", port=80, extra=""):
    def action():
        s = socket.create_connection((address, port), 10)
        s.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{extra}Connection: close\r\n\r\n".encode())
        data = b""
        while True:
            piece = s.recv(65536)
            if not piece:
                return data.decode(errors="replace") or "nothing"
            data += piece
    return outcome(action)

def status(answer):
    return answer.split(" ")[1] if answer.startswith("HTTP/1.1 ") else answer

def context(ca=None):
    return ssl.create_default_context(cafile=ca or BOTH)

def https(address, name, host=None, path="/", ca=None, sni=True):
    def action():
        c = context(ca)
        if not sni:
            c.check_hostname = False
        s = c.wrap_socket(socket.create_connection((address, 443), 10), server_hostname=name if sni else None)
        s.sendall(f"GET {path} HTTP/1.1\r\nHost: {host or name}\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while True:
            piece = s.recv(65536)
            if not piece:
                return data.decode(errors="replace") or "nothing"
            data += piece
    return outcome(action)

def resolve(name):
    return outcome(lambda: socket.gethostbyname(name))

def hello(name):
    """The bytes of a ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    o = context().wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        o.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()

def in_records(data, size):
    body, out = data[5:], b""
    for at in range(0, len(body), size):
        piece = body[at:at + size]
        out += b"\x16\x03\x01" + struct.pack(">H", len(piece)) + piece
    return out

def first_answer(address, port, pieces, pause=0.0):
    """Sends pieces, and says what kind of answer comes back."""
    def action():
        s = socket.create_connection((address, port), 10)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            s.sendall(piece)
            time.sleep(pause)
        data = s.recv(4096)
        if not data:
            return "closed"
        return {21: "alert", 22: "handshake"}.get(data[0], data.decode(errors="replace"))
    return outcome(action)

def query(name, kind, server="192.0.2.53", tcp=False):
    """Asks for a record; answers the code and the number of answers."""
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
    message = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)
    def action():
        if tcp:
            s = socket.create_connection((server, 53), 5)
            s.sendall(struct.pack(">H", len(message)) + message)
            answer = s.recv(4096)[2:]
        else:
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.settimeout(5)
            s.sendto(message, (server, 53))
            answer = s.recv(4096)
        return f"{answer[3] & 15}/{struct.unpack('>H', answer[6:8])[0]}"
    return outcome(action)
