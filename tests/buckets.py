"""Stores for tests: an S3 server on loopback (moto), and a server in front of it, or of files, that misbehaves."""

from __future__ import annotations

import hashlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from voxtract.storage import Remote

KEY, SECRET = "AKIAOPENSESAME", "the-secret-of-the-mountain"


@dataclass
class Fault:
    """What is to go wrong with requests that `matches`; `times` of them."""

    matches: Callable[[str, str], bool]  # method, path
    times: int
    status: int = 0  # answers this
    wait_s: float = 0.0  # answers only then
    drip: int = 0  # sends no more than this many bytes a 20th of a second
    cut: int = 0  # breaks the connection after this many bytes of the body
    seen: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def takes(self, method: str, path: str) -> bool:
        with self.lock:
            if self.seen >= self.times or not self.matches(method, path):
                return False
            self.seen += 1
            return True


class Front:
    """A proxy before an HTTP server, with `faults` to fill; `asked` holds method and path of all requests."""

    def __init__(self, behind: tuple[str, int]) -> None:
        self.faults: list[Fault] = []
        self.asked: list[tuple[str, str]] = []
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: Any) -> None:
                pass

            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                front.asked.append((self.command, self.path))
                fault = next((one for one in front.faults if one.takes(self.command, self.path)), None)
                if fault is not None and fault.wait_s:
                    time.sleep(fault.wait_s)
                    self.close_connection = True
                    return
                if fault is not None and fault.status:
                    self.send_response(fault.status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                connection = http.client.HTTPConnection(*behind, timeout=30)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection", "server", "date"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                self.send_body(content, fault)
                connection.close()

            def send_body(self, content: bytes, fault: Fault | None) -> None:
                try:
                    if fault is not None and fault.cut:
                        self.wfile.write(content[: fault.cut])
                        self.close_connection = True
                    elif fault is not None and fault.drip:
                        for first in range(0, len(content), fault.drip):
                            self.wfile.write(content[first : first + fault.drip])
                            self.wfile.flush()
                            time.sleep(0.05)
                    else:
                        self.wfile.write(content)
                except OSError:  # the client has lost patience
                    self.close_connection = True

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """Run a handler on a port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def send(folder: Path, there: Remote) -> Remote:
    """Copy a folder to a URL."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            (there / path.relative_to(folder).as_posix()).write(path.read_bytes())
    return there


def contents(there: Remote, prefix: str = "") -> dict[str, bytes]:
    """Every object below a URL."""
    found: dict[str, bytes] = {}
    for entry in there.entries():
        if entry.is_dir():
            found |= contents(entry.path, f"{prefix}{entry.name}/")
        else:
            found[prefix + entry.name] = entry.path.read_bytes()
    return found


def digest(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
