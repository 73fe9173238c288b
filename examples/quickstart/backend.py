"""The quickstart's backend: a ticket system and a knowledge base in memory, with Python's standard library alone.

GET  /tickets/{id}           a ticket
GET  /kb?query=…&limit=…     articles
POST /tickets/{id}/replies   a reply; the same Idempotency-Key gives the first answer again
GET  /health                 200 once it serves
"""

import argparse
import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

PORT = 4717
LATENCY_SECONDS = 0.15  # as a real backend has, so that parallel calls show
BODY_BYTES_MAX = 64 * 1024

TICKETS = {
    "T-1042": {
        "id": "T-1042",
        "status": "open",
        "subject": "Where is my parcel?",
        "customer": {"name": "Ada Moreau", "since": 2019},
        "order": {
            "id": "A-77310",
            "carrier": "Northline",
            "shipped": "9 November",
            "last_scan": "11 November",
        },
        "history": [
            {"from": "customer", "text": "Tracking has said 'in transit' for more than a week now. What happens next?"},
        ],
    },
    "T-1043": {
        "id": "T-1043",
        "status": "open",
        "subject": "Cannot log in",
        "customer": {"name": "Jun Park", "since": 2023},
        "order": None,
        "history": [{"from": "customer", "text": "The reset mail never arrives, not in spam either."}],
    },
}

ARTICLES = [
    {
        "id": "KB-12",
        "title": "Parcel tracking is not moving",
        "advice": "After five working days without a scan, open a trace with the carrier (up to three working days) and tell the customer.",
    },
    {
        "id": "KB-31",
        "title": "Refund or replacement for a lost parcel",
        "advice": "Once a trace ends without the parcel, the customer chooses between a refund and a replacement.",
    },
    {
        "id": "KB-40",
        "title": "Password reset mail does not arrive",
        "advice": "Check the address for a typing error, then send the mail again; it is valid for one hour.",
    },
]

REPLIES: dict[str, dict] = {}
LOCK = threading.Lock()


def search(query: str, limit: int) -> list[dict]:
    wanted = set(re.findall(r"[a-z]+", query.lower()))

    def score(article: dict) -> int:
        return len(wanted & set(re.findall(r"[a-z]+", f"{article['title']} {article['advice']}".lower())))

    found = sorted((a for a in ARTICLES if score(a)), key=score, reverse=True)
    return found[:limit]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: dict) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/health":
            return self.answer(200, {"ok": True})
        time.sleep(LATENCY_SECONDS)
        if match := re.fullmatch(r"/tickets/([^/]+)", url.path):
            ticket = TICKETS.get(unquote(match[1]))
            return self.answer(200, ticket) if ticket else self.answer(404, {"error": "no such ticket"})
        if url.path == "/kb":
            query = parse_qs(url.query)
            limit = query.get("limit", ["3"])[0]
            if not limit.isdigit():
                return self.answer(400, {"error": "limit must be a number"})
            return self.answer(200, {"articles": search(query.get("query", [""])[0], int(limit))})
        return self.answer(404, {"error": "no such page"})

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        if length > BODY_BYTES_MAX:
            self.close_connection = True
            return self.answer(413, {"error": f"the body is longer than {BODY_BYTES_MAX} bytes"})
        body = self.rfile.read(length)
        match = re.fullmatch(r"/tickets/([^/]+)/replies", urlsplit(self.path).path)
        if not match or unquote(match[1]) not in TICKETS:
            return self.answer(404, {"error": "no such ticket"})
        try:
            reply = json.loads(body)
            message, status = str(reply["message"]), str(reply["status"])
        except (ValueError, KeyError, TypeError):
            return self.answer(400, {"error": "message and status are needed"})
        time.sleep(LATENCY_SECONDS)
        ticket = unquote(match[1])
        with LOCK:
            key = self.headers.get("idempotency-key") or f"unkeyed-{len(REPLIES)}"
            if key not in REPLIES:
                TICKETS[ticket]["status"] = status
                TICKETS[ticket]["history"].append({"from": "support", "text": message})
                REPLIES[key] = {
                    "ticket": ticket,
                    "reply": f"R-{len(REPLIES) + 1}",
                    "status": status,
                    "articles": reply.get("articles", []),
                }
            return self.answer(200, REPLIES[key])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when stdin closes")
    arguments = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler)
    server.daemon_threads = True
    if arguments.exit_with_parent:

        def wait() -> None:
            sys.stdin.buffer.read()
            server.shutdown()

        threading.Thread(target=wait, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
