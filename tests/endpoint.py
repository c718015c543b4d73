"""A vision-language endpoint on loopback that answers as it is told, and keeps what it was asked."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

EYES = [
    {"name": "left_eye", "x": 0.4, "y": 0.3, "confidence": 0.9, "mirror_of": "right_eye"},
    {"name": "right_eye", "x": 0.6, "y": 0.3, "confidence": 0.9, "mirror_of": None},
    {"name": "nose", "x": 0.5, "y": 0.5, "confidence": 0.8, "mirror_of": None},
]


@dataclass
class Asked:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)


@dataclass
class Server:
    """What the server saw, and where it is."""

    url: str
    asked: list[Asked] = field(default_factory=list)


Behaviour = Callable[[BaseHTTPRequestHandler, int], None]


def reply(
    handler: BaseHTTPRequestHandler,
    body: bytes | str,
    status: int = 200,
    kind: str = "application/json",
    **headers: str,
) -> None:
    """Send a whole reply."""
    data = body.encode() if isinstance(body, str) else body
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(data)))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def completion(words: object) -> str:
    """A chat completion whose message holds these words, or this value as JSON."""
    text = words if isinstance(words, str) else json.dumps(words)
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]})


def saying(*answers: object) -> Behaviour:
    """Answer the n-th request with the n-th of these, the last one for ever: words, or a value as JSON."""
    return lambda handler, n: reply(handler, completion(answers[min(n, len(answers) - 1)]))


def points(entries: list[dict] = EYES, **changes) -> dict:
    """An answer of these points, all of them with `changes`."""
    return {"keypoints": [{**entry, **changes} for entry in entries]}


def scaled(factor: float) -> dict:
    """The eyes and the nose in another unit."""
    return {"keypoints": [{**entry, "x": entry["x"] * factor, "y": entry["y"] * factor} for entry in EYES]}


def trickle(seconds: float) -> Behaviour:
    """A reply that never ends: a byte every now and then."""

    def behave(handler: BaseHTTPRequestHandler, n: int) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        with contextlib.suppress(OSError):
            for _ in range(int(seconds / 0.02)):
                handler.wfile.write(b"a")
                time.sleep(0.02)

    return behave


@contextlib.contextmanager
def serving(behave: Behaviour) -> Iterator[Server]:
    """A server on a free port of loopback that behaves so."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.asked.append(Asked(self.path, dict(self.headers), body))
            with contextlib.suppress(ConnectionError):
                behave(self, len(server.asked) - 1)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        http.block_on_close = False
        server = Server(f"http://127.0.0.1:{http.server_port}/v1")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        http.shutdown()
        thread.join()
