"""Requests to a server that answers well, badly or not at all."""

from __future__ import annotations

import asyncio
import email
import email.policy
import hashlib
import io
import logging
import re
import socket
import subprocess
import sys
import threading
import traceback
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.webknossos.stub_server import Reply, StubServer, as_file, as_json, moved
from voxtract.errors import InvalidInput, NotFound, OutputError, VoxtractError
from voxtract.webknossos import connection
from voxtract.webknossos.client import Client, current_access, download, find_annotation, upload, webknossos_context
from voxtract.webknossos.connection import ServerError, UnexpectedAnswer
from voxtract.webknossos.errors import WrongUse

pytest.importorskip("httpx", reason="httpx, which speaks to servers, is not installed")

ID = "5f7d3a8b0100008900e4c1aa"
TOKEN = "T0ken-of_a.user"
NML = b'<?xml version="1.0" encoding="utf-8"?>\n<things><parameters/></things>\n'
DOWNLOAD = f"/api/v12/annotations/{ID}/download"
UPLOAD = "/api/v12/annotations/upload"
UPLOADED = as_json({"annotation": {"typ": "Explorational", "id": ID}, "messages": [{"success": "done"}]})


def zipped(**entries: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("_dot_", "."), content)
    return file.getvalue()


ZIP = zipped(a_dot_nml=NML, data_dot_zip=zipped(chunk=b"12345" * 20000))


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def client(server: StubServer, waits: list[float]) -> Any:
    with Client(server.url, TOKEN, 5, sleep=waits.append) as client:
        yield client


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestContext:
    def test_without_any_it_is_webknossos_org_without_a_token(self) -> None:
        access = current_access()
        assert (access.url, access.token, access.timeout_s) == ("https://webknossos.org", None, 1800)

    def test_the_environment_speaks_where_no_context_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WK_URL", "https://wk.example.org/")
        monkeypatch.setenv("WK_TOKEN", f"{TOKEN}\n")
        monkeypatch.setenv("WK_TIMEOUT", "12.5")
        access = current_access()
        assert (access.url, access.token, access.timeout_s) == ("https://wk.example.org", TOKEN, 12.5)

    def test_url_and_timeout_are_inherited_the_token_is_not(self) -> None:
        with webknossos_context("https://a.org/x/", "outer", 10):
            with webknossos_context(timeout=20):
                inner = current_access()
            with webknossos_context(token="mine"):
                mine = current_access()
            with webknossos_context("https://b.org"):
                other = current_access()
            outer = current_access()
        assert (inner.url, inner.token, inner.timeout_s) == ("https://a.org/x", None, 20)
        assert (mine.url, mine.token, mine.timeout_s) == ("https://a.org/x", "mine", 10)
        assert (other.url, other.token, other.timeout_s) == ("https://b.org", None, 10)
        assert (outer.url, outer.token, outer.timeout_s) == ("https://a.org/x", "outer", 10)
        assert current_access().token is None

    def test_the_environment_s_token_is_for_the_environment_s_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WK_URL", "https://a.org")
        monkeypatch.setenv("WK_TOKEN", TOKEN)
        with webknossos_context(timeout=20):
            assert current_access().token == TOKEN
        with webknossos_context("https://b.org"):
            assert current_access().token is None

    def test_an_error_leaves_the_context(self) -> None:
        with pytest.raises(KeyError), webknossos_context("https://a.org", "x"):
            raise KeyError
        assert current_access().url == "https://webknossos.org"

    def test_it_decorates_functions_also_recursive_ones(self) -> None:
        @webknossos_context("https://a.org", "x")
        def seen(depth: int) -> list[str]:
            here = [current_access().url]
            if depth:
                with webknossos_context("https://b.org"):
                    return here + seen(depth - 1) + [current_access().url]
            return here

        for _ in range(2):
            assert seen(2) == ["https://a.org"] * 3 + ["https://b.org"] * 2
        assert current_access().url == "https://webknossos.org"

    def test_tasks_do_not_disturb_each_other(self) -> None:
        async def visit(url: str) -> str:
            with webknossos_context(url):
                await asyncio.sleep(0)
                return current_access().url

        async def both() -> list[str]:
            return list(await asyncio.gather(visit("https://a.org"), visit("https://b.org")))

        assert asyncio.run(both()) == ["https://a.org", "https://b.org"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"url": "webknossos.org"}, "starts with https://"),
            ({"url": f"https://{TOKEN}@h.org"}, "leave out user and password"),
            ({"token": f"{TOKEN}\nX-Other: 1"}, "the token is none"),
            ({"token": f"{TOKEN}é"}, "the token is none"),
            ({"token": " "}, "the token is none"),
            ({"timeout": 0}, "timeout=0; give a number of seconds"),
            ({"timeout": float("nan")}, "timeout=nan"),
            ({"timeout": "soon"}, "timeout='soon'"),
        ],
    )
    def test_bad_values_are_told_at_once_and_without_the_token(self, arguments: Any, message: str) -> None:
        with pytest.raises(InvalidInput, match=message) as caught, webknossos_context(**arguments):
            pass
        assert TOKEN not in str(caught.value)

    def test_a_bad_environment_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WK_TIMEOUT", "long")
        with pytest.raises(InvalidInput, match="WK_TIMEOUT='long'"):
            current_access()

    def test_nothing_that_holds_the_token_shows_it(self) -> None:
        with webknossos_context("https://a.org", TOKEN), Client() as client:
            shown = repr(current_access()) + repr(client) + repr(client.connection) + str(vars(client))
        assert TOKEN not in shown
        assert repr(client) == "Client('https://a.org')"


class TestVersions:
    @pytest.mark.parametrize(
        ("oldest", "newest", "spoken"), [(5, 9, 9), (5, 12, 12), (12, 16, 16), (13, 20, 16), (16, 99, 16), (1, 3, 3)]
    )
    def test_the_newest_that_both_know_is_spoken(
        self, bare_server: StubServer, oldest: int, newest: int, spoken: int
    ) -> None:
        versions = {"currentApiVersion": newest, "oldestSupportedApiVersion": oldest}
        bare_server.put("/api/buildinfo", as_json({"httpApiVersioning": versions}))
        bare_server.put(f"/api/v{spoken}/user", as_json({"id": "1", "organization": "Lab"}))
        with Client(bare_server.url, TOKEN, 5) as client:
            assert client.api_version == spoken
            assert client.organization() == "Lab"
        with Client(bare_server.url, TOKEN, 5) as client:
            assert client.user() == {"id": "1", "organization": "Lab"}
        assert bare_server.paths() == ["/api/buildinfo", f"/api/v{spoken}/user", f"/api/v{spoken}/user"]
        assert [one.token for one in bare_server.asked] == [None, TOKEN, TOKEN]

    def test_a_server_that_is_too_new_is_told(self, bare_server: StubServer) -> None:
        versions = {"currentApiVersion": 30, "oldestSupportedApiVersion": 17}
        bare_server.put("/api/buildinfo", as_json({"httpApiVersioning": versions}))
        with Client(bare_server.url, TOKEN, 5) as client, pytest.raises(RuntimeError, match=r"17 to 30 .* up to 16"):
            client.user()

    @pytest.mark.parametrize(
        ("reply", "message"),
        [
            (
                as_json({"status": "fine"}),
                "expected 'httpApiVersioning' in the answer to be a dict, but found NoneType",
            ),
            (as_json([1]), "expected 'httpApiVersioning'"),
            (as_json({"httpApiVersioning": {"currentApiVersion": "12"}}), "'currentApiVersion' .* int, but found str"),
            (as_json({"httpApiVersioning": {"currentApiVersion": True}}), "int, but found bool"),
            (Reply(body=b"{"), "the answer is no JSON"),
            (Reply(body=b"[" * 100_000), "the answer is no JSON"),
            (Reply(), "the answer is no JSON"),
            (
                Reply(body=b"<!DOCTYPE html><html><title>Sign in\n to Lab</title></html>"),
                r"answered with a web page \('Sign in to Lab'\) instead of data; check the server's address",
            ),
        ],
    )
    def test_what_is_no_webknossos_server_is_told(self, bare_server: StubServer, reply: Reply, message: str) -> None:
        bare_server.put("/api/buildinfo", reply)
        with Client(bare_server.url, TOKEN, 5) as client, pytest.raises(UnexpectedAnswer, match=message) as caught:
            _ = client.api_version
        assert f"{bare_server.url}/api/buildinfo" in str(caught.value)
        assert isinstance(caught.value, RuntimeError)
        assert len(bare_server.asked) == 1


class TestDownload:
    @pytest.mark.parametrize(("skip", "said"), [(False, "false"), (True, "true")])
    def test_the_file_arrives_under_its_name(
        self, client: Client, server: StubServer, tmp_path: Path, skip: bool, said: str
    ) -> None:
        server.put(DOWNLOAD, as_file("my annotation.zip", ZIP))
        path = client.download(ID, tmp_path / "new" / "folder", skip_volume_data=skip)
        assert files(tmp_path / "new" / "folder") == {"my annotation.zip": ZIP}
        assert path == tmp_path / "new" / "folder" / "my annotation.zip"
        asked = server.only(DOWNLOAD)
        assert asked.query == {"skipVolumeData": said, "volumeDataZipFormat": "zarr3"}
        assert asked.token == TOKEN

    def test_old_servers_are_not_asked_for_a_format(self, bare_server: StubServer, tmp_path: Path) -> None:
        versions = {"currentApiVersion": 9, "oldestSupportedApiVersion": 1}
        bare_server.put("/api/buildinfo", as_json({"httpApiVersioning": versions}))
        path = f"/api/v9/annotations/{ID}/download"
        bare_server.put(path, as_file("a.nml", NML))
        with webknossos_context(bare_server.url, timeout=5), Client() as client:
            assert client.download(ID, tmp_path).read_bytes() == NML
        assert bare_server.only(path).query == {"skipVolumeData": "false"}
        assert bare_server.only(path).token is None

    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            ('attachment;filename="a.nml"', "a.nml"),
            ("attachment; filename=a.nml", "a.nml"),
            (r'attachment;filename="say \"hi\".nml"', 'say "hi".nml'),
            ('attachment;filename="Größe.nml"', "Größe.nml"),
            ("attachment;filename*=UTF-8''Gr%C3%B6%C3%9Fe.nml", "Größe.nml"),
            ('attachment;filename="../../a.nml"', "a.nml"),
            (r'attachment;filename="..\\..\\a.nml"', "a.nml"),
            ('attachment;filename="/etc/a.nml"', "a.nml"),
            ('attachment;filename="a\tb.nml"', "a_b.nml"),
        ],
    )
    def test_names_stay_in_the_folder(
        self, client: Client, server: StubServer, tmp_path: Path, header: str, expected: str
    ) -> None:
        raw = header.encode().decode("latin-1")  # how http.server puts bytes on the line
        server.put(DOWNLOAD, Reply(body=NML, headers={"Content-Disposition": raw}))
        folder = tmp_path / "deep" / "down"
        assert client.download(ID, folder) == folder / expected
        assert files(folder) == {expected: NML}
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [expected]

    @pytest.mark.parametrize(
        "header", ["", "attachment", 'attachment;filename="a.exe"', 'attachment;filename=".zip"', 'filename=".."',
                   'attachment;filename="' + "ü" * 130 + '.zip"'],
    )  # fmt: skip
    def test_other_names_are_refused(self, client: Client, server: StubServer, tmp_path: Path, header: str) -> None:
        raw = header.encode().decode("latin-1")
        server.put(DOWNLOAD, Reply(body=NML, headers={"Content-Disposition": raw}))
        with pytest.raises(AssertionError, match=r"ends in \.nml or \.zip was expected"):
            client.download(ID, tmp_path)
        assert files(tmp_path) == {}

    def test_a_web_page_is_no_annotation(self, client: Client, server: StubServer, tmp_path: Path) -> None:
        page = Reply(body=b"<html><head><title>Proxy</title>", headers={"Content-Type": "text/html; charset=utf-8"})
        server.put(DOWNLOAD, page)
        with pytest.raises(UnexpectedAnswer, match=r"a web page \('Proxy'\) instead of data"):
            client.download(ID, tmp_path)
        assert files(tmp_path) == {}

    @pytest.mark.parametrize(
        "bad",
        [
            Reply(drop=True),
            as_file("a.zip", ZIP, cut=0),
            as_file("a.zip", ZIP, cut=len(ZIP) // 2),
            as_file("a.zip", ZIP, cut=len(ZIP) - 1),
            as_file("a.zip", ZIP[:-1], framed=False),
            as_file("a.zip", ZIP[: len(ZIP) // 2], framed=False),
            as_file("a.zip", ZIP[: ZIP.rindex(b"PK\x01\x02", 0, ZIP.rindex(b"PK\x01\x02"))], framed=False),
            as_file("a.nml", NML[:-8], framed=False),
            Reply(500),
            Reply(502, b"<html>Bad gateway</html>"),
            Reply(503),
            Reply(429),
            Reply(body=ZIP, headers={"Content-Encoding": "gzip"}),
        ],
        ids=lambda reply: f"{reply.status}-{len(reply.body)}-{reply.cut}-{reply.framed}",
    )
    def test_what_passes_is_tried_again(
        self, client: Client, server: StubServer, tmp_path: Path, waits: list[float], bad: Reply
    ) -> None:
        server.put(DOWNLOAD, bad, bad, as_file("a.zip", ZIP))
        client.download(ID, tmp_path)
        assert files(tmp_path) == {"a.zip": ZIP}
        assert server.paths()[1:] == [DOWNLOAD] * 3
        assert waits == [0.5, 1.0]

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (Reply(drop=True), "the connection was lost"),
            (as_file("a.zip", ZIP, cut=100), "the connection was lost"),
            (as_file("a.zip", ZIP[:-30], framed=False), r"a\.zip is no complete zip file"),
            (as_file("a.zip", zipped(data=b"x")), r"no complete zip file with an \.nml"),
            (as_file("a.nml", NML[:-8]), "is no complete NML file"),
            (
                as_json({"messages": [{"error": "too busy"}, {"chain": "at noon"}]}, 503),
                "status 503: too busy; at noon",
            ),
        ],
    )
    def test_patience_ends_with_the_reason_and_no_file(
        self, client: Client, server: StubServer, tmp_path: Path, waits: list[float], bad: Reply, message: str
    ) -> None:
        server.put(DOWNLOAD, bad)
        with pytest.raises(ServerError, match=f"{message}.*; tried 5 times") as caught:
            client.download(ID, tmp_path)
        assert f"GET {server.url}{DOWNLOAD}: " in str(caught.value)
        assert waits == [0.5, 1, 2, 4]
        assert len(server.paths()) == 6
        assert files(tmp_path) == {}

    def test_a_file_that_is_there_is_replaced_only_by_a_whole_one(
        self, client: Client, server: StubServer, tmp_path: Path
    ) -> None:
        (tmp_path / "a.zip").write_bytes(b"old")
        server.put(DOWNLOAD, as_file("a.zip", ZIP, cut=5000))
        with pytest.raises(ServerError):
            client.download(ID, tmp_path)
        assert files(tmp_path) == {"a.zip": b"old"}
        server.put(DOWNLOAD, as_file("a.zip", ZIP))
        client.download(ID, tmp_path)
        assert files(tmp_path) == {"a.zip": ZIP}

    @pytest.mark.parametrize(
        ("value", "expected"), [("7", [7.0]), ("0", [0.5]), ("100000", [60.0]), ("soon", [0.5]), ("-5", [0.5])]
    )
    def test_the_server_says_how_long_to_wait(
        self, client: Client, server: StubServer, tmp_path: Path, waits: list[float], value: str, expected: list[float]
    ) -> None:
        server.put(DOWNLOAD, Reply(429, headers={"Retry-After": value}), as_file("a.nml", NML))
        client.download(ID, tmp_path)
        assert waits == expected

    @pytest.mark.parametrize(
        ("status", "hint"),
        [
            (400, "does not understand"),
            (401, "WK_TOKEN"),
            (403, "this token may not see it"),
            (404, "check the id"),
            (410, "status 410: no"),
            (204, "status 204"),
        ],
    )
    def test_what_does_not_pass_fails_at_once(
        self, client: Client, server: StubServer, tmp_path: Path, waits: list[float], status: int, hint: str
    ) -> None:
        body = b"" if status == 204 else b'{"messages": [{"error": "no"}]}'
        server.put(DOWNLOAD, Reply(status, body))
        with pytest.raises(ServerError, match=hint) as caught:
            client.download(ID, tmp_path)
        assert caught.value.status == status
        assert f"GET {server.url}{DOWNLOAD}: status {status}" in str(caught.value)
        assert waits == []

    def test_a_server_that_does_not_answer_is_left(
        self, server: StubServer, tmp_path: Path, waits: list[float]
    ) -> None:
        server.put(DOWNLOAD, Reply(hang=True), as_file("a.nml", NML))
        with Client(server.url, TOKEN, 0.1, sleep=waits.append) as client:
            client.download(ID, tmp_path)
        assert waits == [0.5]
        assert files(tmp_path) == {"a.nml": NML}

    def test_the_message_says_how_to_wait_longer(
        self, server: StubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "ATTEMPTS", 1)
        server.put(DOWNLOAD, Reply(hang=True))
        with Client(server.url, TOKEN, 0.1) as client, pytest.raises(ServerError, match=r"nothing came for 0\.1 s"):
            client.download(ID, tmp_path)

    def test_nobody_listens(self, tmp_path: Path, waits: list[float]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
            with (
                Client(url, TOKEN, 5, sleep=waits.append) as client,
                pytest.raises(ServerError, match=f"{url}/api/buildinfo: no connection .*refused"),
            ):
                client.download(ID, tmp_path)
        assert waits == [0.5, 1, 2, 4]

    def test_a_folder_that_cannot_be_written_is_told(self, client: Client, server: StubServer, tmp_path: Path) -> None:
        server.put(DOWNLOAD, as_file("a.nml", NML))
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(OutputError, match="cannot be written"):
            client.download(ID, tmp_path / "file")
        (tmp_path / "a.nml").mkdir()
        with pytest.raises(OutputError, match=r"a\.nml: cannot be written"):
            client.download(ID, tmp_path)
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.nml", "file"]

    def test_a_large_file_is_not_held_in_memory(self, client: Client, server: StubServer, tmp_path: Path) -> None:
        import tracemalloc

        body = b"<things>" + bytes(24_000_000) + b"</things>"
        server.put(DOWNLOAD, as_file("a.nml", body))
        tracemalloc.start()
        client.download(ID, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert hashlib.sha256((tmp_path / "a.nml").read_bytes()).digest() == hashlib.sha256(body).digest()
        assert peak < 12_000_000

    def test_ids_are_checked_before_anything_is_sent(self, client: Client, server: StubServer, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="24 hexadecimal"):
            client.download("../user", tmp_path)
        assert DOWNLOAD not in server.paths()


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_another_host_never_sees_the_token(
        self, client: Client, server: StubServer, other_server: StubServer, tmp_path: Path, status: int
    ) -> None:
        server.put(DOWNLOAD, moved(f"{other_server.url}/store?x=1", status))
        other_server.put("/store", as_file("a.nml", NML))
        client.download(ID, tmp_path)
        assert files(tmp_path) == {"a.nml": NML}
        (there,) = other_server.asked
        assert there.query == {"x": "1"}
        assert TOKEN not in str(there)
        assert not {"x-auth-token", "authorization", "cookie"} & set(there.headers)

    def test_nor_does_anybody_after_a_detour(
        self, client: Client, server: StubServer, other_server: StubServer, tmp_path: Path
    ) -> None:
        server.put(DOWNLOAD, moved(f"{other_server.url}/there"))
        other_server.put("/there", moved(f"{server.url}/back"))
        server.put("/back", as_file("a.nml", NML))
        client.download(ID, tmp_path)
        assert server.only(DOWNLOAD).token == TOKEN
        assert server.only("/back").token is None

    def test_the_same_host_sees_it(self, client: Client, server: StubServer, tmp_path: Path) -> None:
        server.put(DOWNLOAD, moved("/moved?y=2"))
        server.put("/moved", as_file("a.nml", NML))
        client.download(ID, tmp_path)
        assert server.only("/moved").token == TOKEN
        assert server.only("/moved").query == {"y": "2"}

    def test_a_name_of_the_same_machine_is_another_host(
        self, client: Client, server: StubServer, tmp_path: Path
    ) -> None:
        server.put(DOWNLOAD, moved(f"{server.url.replace('127.0.0.1', 'localhost')}/moved"))
        server.put("/moved", as_file("a.nml", NML))
        client.download(ID, tmp_path)
        assert server.only("/moved").token is None

    def test_circles_end(self, client: Client, server: StubServer, tmp_path: Path, waits: list[float]) -> None:
        server.put(DOWNLOAD, moved(DOWNLOAD))
        with pytest.raises(ServerError, match="redirected more than 5 times"):
            client.download(ID, tmp_path)
        assert len(server.asked) == 7
        assert waits == []

    @pytest.mark.parametrize("target", ["ftp://h.org/a", "file:///etc/passwd", "http://[", f"//u:{TOKEN}@h/"])
    def test_only_the_web_is_followed(self, client: Client, server: StubServer, tmp_path: Path, target: str) -> None:
        server.put(DOWNLOAD, moved(target))
        with pytest.raises(UnexpectedAnswer, match="redirected to") as caught:
            client.download(ID, tmp_path)
        assert TOKEN not in str(caught.value)

    def test_uploads_are_not_sent_on(
        self, client: Client, server: StubServer, other_server: StubServer, tmp_path: Path
    ) -> None:
        (tmp_path / "a.zip").write_bytes(ZIP)
        for status in (301, 307):
            server.put(UPLOAD, moved(f"{other_server.url}{UPLOAD}", status))
            with pytest.raises(ServerError, match=f"sends uploads on to {other_server.url}"):
                client.upload(tmp_path / "a.zip")
        assert other_server.asked == []


class TestUpload:
    @pytest.mark.parametrize("name", [None, "Größe of 5\" 'cells'; a=b"])
    def test_the_form_has_the_file(self, client: Client, server: StubServer, tmp_path: Path, name: str | None) -> None:
        (tmp_path / "soma.zip").write_bytes(ZIP)
        server.put(UPLOAD, UPLOADED)
        assert client.upload(tmp_path / "soma.zip", name=name) == f"{server.url}/annotations/{ID}"
        asked = server.only(UPLOAD)
        assert (asked.method, asked.token) == ("POST", TOKEN)
        field, file = form(asked.headers["content-type"], asked.body)
        assert field == ("createGroupForEachFile", None, None, b"false")
        said = f"{name or 'soma'}.zip".replace('"', "%22")  # as browsers write it
        assert file == (said, said, "application/zip", ZIP)

    @pytest.mark.parametrize("bad", [Reply(429), Reply(500), Reply(503)])
    def test_a_busy_server_is_asked_again_with_the_whole_file(
        self, client: Client, server: StubServer, tmp_path: Path, waits: list[float], bad: Reply
    ) -> None:
        (tmp_path / "a.zip").write_bytes(ZIP)
        server.put(UPLOAD, bad, UPLOADED)
        client.upload(tmp_path / "a.zip")
        first, second = (one for one in server.asked if one.path == UPLOAD)
        assert form(first.headers["content-type"], first.body) == form(second.headers["content-type"], second.body)
        assert waits == [0.5]

    def test_a_connection_lost_on_the_way_there_is_tried_again(
        self, client: Client, server: StubServer, tmp_path: Path, waits: list[float]
    ) -> None:
        large = zipped(a_dot_nml=bytes(12_000_000))
        (tmp_path / "a.zip").write_bytes(large)
        server.put(UPLOAD, Reply(early=True), UPLOADED)
        client.upload(tmp_path / "a.zip")
        *_, asked = server.asked
        assert form(asked.headers["content-type"], asked.body)[1][3] == large
        assert waits == [0.5]

    def test_one_lost_after_that_is_not_as_the_annotation_may_be_there(
        self, client: Client, server: StubServer, tmp_path: Path, waits: list[float]
    ) -> None:
        (tmp_path / "a.zip").write_bytes(ZIP)
        server.put(UPLOAD, Reply(drop=True), UPLOADED)
        with pytest.raises(ServerError, match="look whether the annotation is on the server"):
            client.upload(tmp_path / "a.zip")
        assert server.paths().count(UPLOAD) == 1
        assert waits == []

    def test_a_gateway_that_gives_up_may_have_let_it_through(
        self, client: Client, server: StubServer, tmp_path: Path, waits: list[float]
    ) -> None:
        (tmp_path / "a.zip").write_bytes(ZIP)
        server.put(UPLOAD, Reply(504), UPLOADED)
        with pytest.raises(ServerError, match="status 504"):
            client.upload(tmp_path / "a.zip")
        assert waits == []

    @pytest.mark.parametrize(
        "answer", [as_json({}), as_json([]), as_json({"annotation": {"typ": "Task"}}), as_json({"annotation": ID})]
    )
    def test_an_answer_without_an_id_is_told(
        self, client: Client, server: StubServer, tmp_path: Path, answer: Reply
    ) -> None:
        (tmp_path / "a.zip").write_bytes(ZIP)
        server.put(UPLOAD, answer)
        with pytest.raises(UnexpectedAnswer, match=r"annotation\.id"):
            client.upload(tmp_path / "a.zip")

    def test_nothing_is_sent_without_a_token(self, server: StubServer, tmp_path: Path) -> None:
        (tmp_path / "a.zip").write_bytes(ZIP)
        with webknossos_context(server.url), pytest.raises(RuntimeError, match="needs a token; give it with"):
            upload(tmp_path / "a.zip")
        assert server.asked == []

    def test_wrong_files_are_told(self, client: Client, server: StubServer, tmp_path: Path) -> None:
        with pytest.raises(WrongUse, match=r"uploaded as \.zip"):
            client.upload(tmp_path / "a.nml")
        with pytest.raises(NotFound, match=r"a\.zip: no such file"):
            client.upload(tmp_path / "a.zip")
        assert UPLOAD not in server.paths()

    def test_the_context_s_server_gets_it(self, server: StubServer, tmp_path: Path) -> None:
        (tmp_path / "a.zip").write_bytes(ZIP)
        server.put(UPLOAD, UPLOADED)
        with webknossos_context(f"{server.url}/", TOKEN):
            assert upload(tmp_path / "a.zip", name="b") == f"{server.url}/annotations/{ID}"
        assert b'filename="b.zip"' in server.only(UPLOAD).body


class TestAnnotationsByLink:
    @pytest.fixture(autouse=True)
    def _answers(self, server: StubServer) -> None:
        server.put(DOWNLOAD, as_file("a.nml", NML))

    @pytest.mark.parametrize("given", [ID, "{url}/annotations/" + ID, "{url}/annotations/Task/" + ID + "?a=b#1,2,3"])
    def test_id_and_link_of_the_context_s_server(self, server: StubServer, tmp_path: Path, given: str) -> None:
        with webknossos_context(server.url, TOKEN):
            assert download(given.format(url=server.url), folder=tmp_path) == tmp_path / "a.nml"
        assert server.only(DOWNLOAD).token == TOKEN

    def test_a_link_to_another_server_gets_no_token(
        self, server: StubServer, other_server: StubServer, tmp_path: Path
    ) -> None:
        with webknossos_context(other_server.url, TOKEN), pytest.warns(UserWarning, match="no token is sent"):
            download(f"{server.url}/annotations/{ID}", folder=tmp_path)
        assert [one.token for one in server.asked] == [None, None]
        assert TOKEN not in str(server.asked)
        assert other_server.asked == []

    def test_nor_does_another_server_given_beside_the_id(
        self, server: StubServer, other_server: StubServer, tmp_path: Path
    ) -> None:
        told = pytest.warns(UserWarning, match=f"{server.url} is not the server of the context")
        with webknossos_context(other_server.url, TOKEN), told:
            download(ID, None, server.url, folder=tmp_path)
        assert TOKEN not in str(server.asked)

    def test_the_context_s_server_may_be_named_again(self, server: StubServer, tmp_path: Path) -> None:
        with webknossos_context(server.url, TOKEN):
            download(ID, webknossos_url=f"{server.url}/", folder=tmp_path)
        assert server.only(DOWNLOAD).token == TOKEN

    def test_a_link_says_all_itself(self, server: StubServer, tmp_path: Path) -> None:
        link = f"{server.url}/annotations/{ID}?token=SECRET"
        for kind, url in ((None, server.url), ("Task", None)):
            with pytest.raises(AssertionError, match="leave") as caught:
                download(link, kind, url, folder=tmp_path)
            assert isinstance(caught.value, InvalidInput)
            assert "SECRET" not in str(caught.value)
        assert server.asked == []

    def test_the_type_of_an_annotation_is_ignored(self, server: StubServer, tmp_path: Path) -> None:
        with webknossos_context(server.url, TOKEN), pytest.warns(DeprecationWarning, match="annotation_type"):
            download(ID, "Explorational", folder=tmp_path)
        assert server.only(DOWNLOAD).query["skipVolumeData"] == "false"

    def test_volumes_can_be_left_out(self, server: StubServer, tmp_path: Path) -> None:
        with webknossos_context(server.url, TOKEN):
            download(ID, skip_volume_data=True, folder=tmp_path)
        assert server.only(DOWNLOAD).query["skipVolumeData"] == "true"

    def test_short_links_are_resolved_without_a_token(self, server: StubServer, tmp_path: Path) -> None:
        key = "/api/v12/shortLinks/byKey/aB3"
        server.put(key, as_json({"longLink": f"{server.url}/annotations/{ID}#1,2,3", "key": "aB3"}))
        with webknossos_context(server.url, TOKEN):
            found = find_annotation(f"{server.url}/links/aB3")
            download(f"{server.url}/links/aB3", folder=tmp_path)
        assert (found.id, found.base, found.position) == (ID, server.url, (1, 2, 3))
        assert {one.token for one in server.asked if one.path == key} == {None}
        assert server.only(DOWNLOAD).token == TOKEN

    @pytest.mark.parametrize("reply", [Reply(404), as_json({}), as_json({"longLink": 5})])
    def test_a_short_link_that_leads_nowhere_is_told(self, server: StubServer, reply: Reply) -> None:
        server.put("/api/v12/shortLinks/byKey/aB3", reply)
        with pytest.raises(InvalidInput, match=f"{server.url}/links/aB3: the short link cannot be resolved"):
            find_annotation(f"{server.url}/links/aB3")

    def test_an_id_is_one_of_the_context_s_server(self) -> None:
        with webknossos_context("https://a.org"):
            assert find_annotation(ID).base == "https://a.org"
            assert find_annotation(ID, "https://b.org/").base == "https://b.org"


class TestOtherRequests:
    def test_info_and_list(self, client: Client, server: StubServer) -> None:
        info = {"id": ID, "typ": "Explorational", "name": "soma", "annotationLayers": []}
        server.put(f"/api/v12/annotations/{ID}/info", as_json(info))
        server.put("/api/v12/annotations/readable", as_json([info]))
        assert client.annotation_info(ID) == info
        assert client.annotations() == [info]
        assert client.annotations(is_finished=True) == [info]
        assert int(server.only(f"/api/v12/annotations/{ID}/info").query["timestamp"]) > 1_700_000_000_000
        assert [one.query for one in server.asked[-2:]] == [{"isFinished": "false"}, {"isFinished": "true"}]
        assert {one.token for one in server.asked[1:]} == {TOKEN}

    @pytest.mark.parametrize("answer", [{}, [1], None, "x"])
    def test_lists_of_something_else_are_told(self, client: Client, server: StubServer, answer: Any) -> None:
        server.put("/api/v12/annotations/readable", as_json(answer))
        with pytest.raises(UnexpectedAnswer, match="readable: expected the answer to be a"):
            client.annotations()


class TestTokenStaysSecret:
    @pytest.mark.parametrize(
        "reply",
        [
            as_json({"messages": [{"error": f"invalid token {TOKEN}"}]}, 403),
            Reply(403, f"<html><title>{TOKEN}</title>".encode()),
            Reply(403, f"no {TOKEN}".encode()),
            moved(f"ftp://{TOKEN}.org/{TOKEN}"),
            as_file(f"{TOKEN}.zip", b"no zip"),
            Reply(body=f'{{"{TOKEN}'.encode(), headers={"Content-Type": "text/html"}),
            Reply(drop=True),
        ],
    )
    def test_no_message_traceback_or_log_line_has_it(
        self, client: Client, server: StubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, reply: Reply
    ) -> None:
        server.put(DOWNLOAD, reply)
        server.put("/api/v12/user", reply)
        caplog.set_level(logging.INFO)  # at DEBUG, httpcore logs every header that a server sends
        for ask in (lambda: client.download(ID, tmp_path), client.user):
            with pytest.raises(VoxtractError) as caught:
                ask()
            assert TOKEN not in "".join(traceback.format_exception(caught.value))
        assert "HTTP Request" in caplog.text  # httpx does log
        assert TOKEN not in caplog.text

    def test_a_sharing_token_is_not_logged_either(
        self, client: Client, server: StubServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        shared = "S3cret"
        server.put(f"/api/v12/datasets/{ID}", as_json({"messages": [{"error": f"sharingToken={shared} is bad"}]}, 404))
        with pytest.raises(ServerError, match=r"sharingToken=\*\*\* is bad") as caught:
            client.dataset(ID, shared)
        asked = server.only(f"/api/v12/datasets/{ID}")
        assert (asked.token, asked.query) == (shared, {"sharingToken": shared})
        assert "sharingToken=***" in caplog.text
        assert shared not in caplog.text + "".join(traceback.format_exception(caught.value))

    @pytest.mark.usefixtures("client")
    def test_other_users_of_httpx_keep_their_log(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        logging.getLogger("httpx").info("GET %s %d", "http://h.org/?a=b", 200)
        assert caplog.messages == ["GET http://h.org/?a=b 200"]

    def test_long_answers_are_cut(self, client: Client, server: StubServer) -> None:
        server.put("/api/v12/user", Reply(418, b"x" * 1_000_000))
        with pytest.raises(ServerError) as caught:
            client.user()
        assert "x" * 2000 in str(caught.value)
        assert len(str(caught.value)) < 2200


def test_many_threads_share_a_client(client: Client, server: StubServer) -> None:
    server.put("/api/v12/user", as_json({"id": "1", "organization": "Lab"}))
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(client.organization())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["Lab"] * 8


def test_a_client_that_is_forgotten_closes_its_connections(server: StubServer) -> None:
    server.put("/api/v12/user", as_json({"id": "1"}))
    client = Client(server.url, TOKEN, 5)
    client.user()
    closed = client.connection.close
    assert closed.alive
    del client
    assert not closed.alive


def test_without_httpx_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "find_spec", lambda _: None)
    with pytest.raises(InvalidInput, match=r"httpx, which is not installed; pip install 'voxtract\[webknossos\]'"):
        Client("https://a.org", TOKEN)


def test_importing_the_client_does_not_bring_httpx() -> None:
    code = "import sys, voxtract.webknossos.client; print('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"


Part = tuple[str | None, str | None, str | None, bytes]


def form(content_type: str, body: bytes) -> list[Part]:
    """Parts of a multipart form (name, file name, type, content), as the standard library's mail parser finds them."""
    message = email.message_from_bytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body, policy=email.policy.HTTP
    )
    parts: list[Part] = []
    for part in message.iter_parts():
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        raw = dict(part.raw_items())["Content-Disposition"].encode("ascii", "surrogateescape").decode()
        found = re.fullmatch(r'form-data; name="([^"]*)"(?:; filename="([^"]*)")?', raw)
        assert found
        kind = part["Content-Type"]
        parts.append((found[1], found[2], None if kind is None else str(kind), content))
    return parts
