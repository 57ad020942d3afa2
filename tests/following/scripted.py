"""An HTTP server that answers as a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from internal_dns.live.http import Api


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What to reply: *value* as JSON, unless it is octets. *length*: a false Content-Length."""

    value: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None


Respond = Callable[[Asked], Answer]


class Scripted:
    """Answers with *respond*, and remembers what was asked."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.asked: list[Asked] = []
        self.stopping = threading.Event()
        self.url = ""

    def api(self, **more: Any) -> Api:
        return Api(self.url, **more)


@contextmanager
def scripted(respond: Respond, port: int = 0) -> Iterator[Scripted]:
    """Run a server; *respond* is called in a thread per request."""
    made = Scripted(respond)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            parts = urlsplit(self.path)
            size = int(self.headers.get("Content-Length", "0"))
            asked = Asked(
                self.command,
                parts.path,
                dict(parse_qsl(parts.query)),
                {name.lower(): text for name, text in self.headers.items()},
                self.rfile.read(size),
            )
            made.asked.append(asked)
            answer = made.respond(asked)
            octets = (
                answer.value
                if isinstance(answer.value, bytes)
                else json.dumps(answer.value).encode()
            )
            try:
                self.send_response(answer.status)
                for name, text in answer.headers.items():
                    self.send_header(name, text)
                self.send_header("Content-Length", str(answer.length or len(octets)))
                self.end_headers()
                self.wfile.write(octets)
            except (BrokenPipeError, ConnectionResetError):
                pass
            if answer.length:
                self.close_connection = True

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            """A client that goes away is no error."""

    server = Server(("127.0.0.1", port), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
