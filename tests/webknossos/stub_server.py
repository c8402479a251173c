"""A server on the loopback interface that answers as told, also badly, and remembers what it was asked."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Reply:
    """One answer.

    `cut` bytes of the body arrive, with a Content-Length of all of them, before the connection breaks; with
    `framed=False` nothing says how long the body is. `drop` breaks the connection before any answer, `hang` gives none
    until the server stops; `early` breaks it before the body of the request is read.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    framed: bool = True
    drop: bool = False
    hang: bool = False
    early: bool = False


def as_json(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def as_file(name: str, body: bytes, **more: Any) -> Reply:
    return Reply(
        200, body, {"Content-Type": "application/zip", "Content-Disposition": f'attachment;filename="{name}"'}, **more
    )


def moved(target: str, status: int = 302) -> Reply:
    return Reply(status, b"", {"Location": target})


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def token(self) -> str | None:
        return self.headers.get("x-auth-token")


class StubServer:
    """Answers each path with its replies one after the other, the last one for ever; 404 otherwise."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Reply]] = {}
        self.asked: list[Asked] = []
        self.stopped = threading.Event()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or each answer takes 40 ms
            wbufsize = -1

            def do_GET(self) -> None:
                stub.answer(self)

            do_POST = do_HEAD = do_GET  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # the client hung up

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def put(self, path: str, *replies: Reply) -> None:
        self.replies[path] = list(replies)

    def paths(self) -> list[str]:
        return [one.path for one in self.asked]

    def only(self, path: str) -> Asked:
        (one,) = (one for one in self.asked if one.path == path)
        return one

    def stop(self) -> None:
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        waiting = self.replies.get(parts.path, [Reply(404, b'{"messages": [{"error": "nothing here"}]}')])
        reply = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        headers = {name.lower(): value for name, value in handler.headers.items()}
        body = b"" if reply.early else handler.rfile.read(int(headers.get("content-length", 0)))
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.asked.append(Asked(handler.command, parts.path, query, headers, body))
        if reply.drop or reply.early:
            _break(handler)
            return
        if reply.hang:
            self.stopped.wait(30)
            _break(handler)
            return
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        if reply.framed:
            handler.send_header("Content-Length", str(len(reply.body)))
        else:
            handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(reply.body[: reply.cut])
        handler.close_connection = not reply.framed or reply.cut is not None


def _break(handler: BaseHTTPRequestHandler) -> None:
    """Close with a reset, as a dying process does."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True
