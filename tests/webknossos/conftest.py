"""A WEBKNOSSOS server on the loopback interface, and an environment that names none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.webknossos.stub_server import StubServer, as_json


@pytest.fixture(autouse=True)
def _no_server_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WK_URL", "WK_TOKEN", "WK_TIMEOUT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr("voxtract.webknossos.client._versions", {})


@pytest.fixture
def bare_server() -> Iterator[StubServer]:
    """Knows no path."""
    server = StubServer()
    yield server
    server.stop()


@pytest.fixture
def server(bare_server: StubServer) -> StubServer:
    """Says that it speaks version 12 of the API."""
    versions = {"currentApiVersion": 12, "oldestSupportedApiVersion": 5}
    bare_server.put("/api/buildinfo", as_json({"httpApiVersioning": versions, "schemaVersion": 144}))
    return bare_server


@pytest.fixture
def other_server() -> Iterator[StubServer]:
    """Another host: another port is as foreign as another name."""
    server = StubServer()
    yield server
    server.stop()
