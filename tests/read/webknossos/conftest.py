"""The server on the loopback interface that the tests of voxtract.webknossos have."""

from tests.webknossos.conftest import _no_server_named, bare_server, other_server, server

__all__ = ["_no_server_named", "bare_server", "other_server", "server"]
