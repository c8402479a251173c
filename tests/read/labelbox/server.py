"""A server on this machine that misbehaves as told, and remembers what it was asked."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@dataclass
class Server:
    port: int
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    answers: dict[str, list[Answer] | Answer] = field(default_factory=dict)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


@contextmanager
def serving() -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append((self.path, dict(self.headers)))
            answer = server.answers.get(self.path.partition("?")[0], status(404))
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http_server.daemon_threads = True
    server = Server(http_server.server_port)
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http_server.shutdown()
        http_server.server_close()
        thread.join()


def body(
    content: bytes, *, code: int = 200, kind: str = "image/png", length: int | None = None, **headers: str
) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Type", kind)
        if length != -1:
            handler.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def status(code: int, **headers: Any) -> Answer:
    return body(b"<html>no</html>", code=code, kind="text/html", **headers)


def redirect(url: str, code: int = 302) -> Answer:
    return status(code, Location=url)


def hang_up(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.connection.close()


def silence(seconds: float) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        threading.Event().wait(seconds)
        handler.connection.close()

    return answer


def dripping(content: bytes) -> Answer:
    """Byte after byte, until nobody listens."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        try:
            for byte in content:
                handler.wfile.write(bytes([byte]))
                threading.Event().wait(0.02)
        except OSError:
            handler.close_connection = True

    return answer
