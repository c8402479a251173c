"""Masks by address: the key goes nowhere it should not, and servers may misbehave."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.read.labelbox.exports import png
from tests.read.labelbox.server import Server, body, dripping, hang_up, redirect, serving, silence, status
from voxtract.errors import InvalidInput, OutputError
from voxtract.read.labelbox import Fetcher, FetchFailed, Limits, fetch

KEY = "lb-key-0123456789"
PNG = png(np.eye(4, dtype=np.uint8) * 255)
QUICK = Limits(backoff_s=0.001, timeout_s=2.0, total_s=10.0, retries=2)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


def fetcher(tmp_path: Path, server: Server, **more: Any) -> Fetcher:
    given = {"api_key": KEY, "allowed_hosts": (f"127.0.0.1:{server.port}",), "limits": QUICK, **more}
    return Fetcher(tmp_path, **given)


def failed(one: Fetcher, url: str, kind: Any = "png") -> FetchFailed:
    with pytest.raises(FetchFailed) as caught:
        one.get(url, kind)
    assert KEY not in str(caught.value)
    assert "secret" not in str(caught.value)
    return caught.value


def test_the_key_goes_along_as_a_header(tmp_path: Path, server: Server) -> None:
    server.answers["/m"] = body(PNG)
    assert fetcher(tmp_path, server).get(server.url("/m"), "png") == PNG
    ((path, headers),) = server.asked
    assert (path, headers["Authorization"]) == ("/m", f"Bearer {KEY}")


def test_without_a_key_none_is_sent(tmp_path: Path, server: Server) -> None:
    server.answers["/m"] = body(PNG)
    fetcher(tmp_path, server, api_key=None).get(server.url("/m?token=secret"), "png")
    ((path, headers),) = server.asked
    assert path == "/m?token=secret"
    assert "Authorization" not in headers


@pytest.mark.parametrize("hosts", [(), ("api.labelbox.com",), ("127.0.0.1:1",), ("0.0.1",)])
def test_no_request_goes_to_a_host_that_is_not_allowed(tmp_path: Path, server: Server, hosts: tuple[str, ...]) -> None:
    found = failed(fetcher(tmp_path, server, allowed_hosts=hosts), server.url("/m?token=secret"))
    assert found.code == "host-not-allowed"
    assert f"127.0.0.1:{server.port}" in str(found)
    assert server.asked == []


def test_a_host_may_be_named_without_its_port(tmp_path: Path, server: Server) -> None:
    server.answers["/m"] = body(PNG)
    assert fetcher(tmp_path, server, allowed_hosts=("127.0.0.1",)).get(server.url("/m"), "png") == PNG


def test_the_key_is_not_sent_over_plain_http(tmp_path: Path) -> None:
    one = Fetcher(tmp_path, KEY, ("labels.example",), limits=QUICK)
    found = failed(one, "http://labels.example/m")
    assert found.code == "bad-address"
    assert "https" in str(found)


def test_a_redirect_to_another_host_is_followed_without_the_key(tmp_path: Path, server: Server) -> None:
    with serving() as other:
        other.answers["/storage"] = body(PNG)
        server.answers["/m"] = redirect(other.url("/storage?signature=secret"))
        assert fetcher(tmp_path, server).get(server.url("/m"), "png") == PNG
        ((path, headers),) = other.asked
    assert path == "/storage?signature=secret"
    assert not any(KEY in value for value in headers.values())
    assert "Authorization" in server.asked[0][1]


def test_nor_where_both_hosts_are_allowed(tmp_path: Path, server: Server) -> None:
    with serving() as other:
        other.answers["/storage"] = body(PNG)
        server.answers["/m"] = redirect(other.url("/storage"), 307)
        fetcher(tmp_path, server, allowed_hosts=("127.0.0.1",)).get(server.url("/m"), "png")
        assert "Authorization" not in other.asked[0][1]


def test_a_redirect_on_the_same_host_keeps_the_key(tmp_path: Path, server: Server) -> None:
    server.answers["/m"] = redirect("/n")
    server.answers["/n"] = body(PNG)
    assert fetcher(tmp_path, server).get(server.url("/m"), "png") == PNG
    assert [headers["Authorization"] for _, headers in server.asked] == [f"Bearer {KEY}"] * 2


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://x.example/m", "http://[", "https://user:pw@x.example/"]
)
def test_a_redirect_elsewhere_is_refused(tmp_path: Path, server: Server, target: str) -> None:
    server.answers["/m"] = redirect(target)
    assert failed(fetcher(tmp_path, server), server.url("/m")).code == "bad-address"


def test_a_circle_of_redirects_ends(tmp_path: Path, server: Server) -> None:
    server.answers["/m"] = redirect("/m")
    assert "redirects" in str(failed(fetcher(tmp_path, server), server.url("/m")))
    assert len(server.asked) == QUICK.redirects + 1


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_refusals_are_told_and_not_tried_again(tmp_path: Path, server: Server, code: int) -> None:
    server.answers["/m"] = status(code)
    found = failed(fetcher(tmp_path, server), server.url("/m?token=secret"))
    assert (found.code, len(server.asked)) == ("http-status", 1)
    assert str(code) in str(found)


@pytest.mark.parametrize("fault", [status(429), status(500), status(503), hang_up, body(PNG, length=len(PNG) + 9)])
def test_passing_faults_are_tried_again(tmp_path: Path, server: Server, fault: Any) -> None:
    server.answers["/m"] = [fault, fault, body(PNG)]
    assert fetcher(tmp_path, server).get(server.url("/m"), "png") == PNG
    assert len(server.asked) == 3


@pytest.mark.parametrize("fault", [status(429), status(502), hang_up])
def test_lasting_faults_are_told_in_the_end(tmp_path: Path, server: Server, fault: Any) -> None:
    server.answers["/m"] = fault
    found = failed(fetcher(tmp_path, server), server.url("/m"))
    assert found.code in ("http-status", "unreachable")
    assert "tried 3 times" in str(found)
    assert len(server.asked) == 3


def test_the_server_says_how_long_to_wait(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    server.answers["/m"] = [status(429, Retry_After="7"), status(503), body(PNG)]
    assert fetcher(tmp_path, server).get(server.url("/m"), "png") == PNG
    assert waited == [7.0, QUICK.backoff_s * 2]
    server.answers["/m"] = status(429, Retry_After="3600")
    assert failed(fetcher(tmp_path, server), server.url("/m")).code == "http-status"
    assert len(waited) == 2


def test_a_silent_server_is_given_up(tmp_path: Path, server: Server) -> None:
    server.answers["/m"] = silence(1.0)
    one = fetcher(tmp_path, server, limits=Limits(timeout_s=0.05, retries=0))
    assert "timed out" in str(failed(one, server.url("/m")))


def test_a_body_that_comes_too_slowly_is_given_up(tmp_path: Path, server: Server) -> None:
    server.answers["/m"] = dripping(PNG)
    one = fetcher(tmp_path, server, limits=Limits(timeout_s=5.0, total_s=0.1, retries=0))
    assert "not complete after 0.1 s" in str(failed(one, server.url("/m")))


@pytest.mark.parametrize("parallel", [1, 3])
def test_only_so_many_are_asked_for_at_once(tmp_path: Path, server: Server, parallel: int) -> None:
    under_way: list[int] = []
    most: list[int] = []

    def slow(handler: Any) -> None:
        under_way.append(1)
        most.append(len(under_way))
        time.sleep(0.02)
        under_way.pop()
        body(PNG)(handler)

    for n in range(9):
        server.answers[f"/{n}"] = slow
    one = fetcher(tmp_path, server, limits=Limits(parallel=parallel))
    found = one.many([server.url(f"/{n}") for n in range(9)], "png")
    assert list(found.values()) == [PNG] * 9
    assert max(most) <= parallel


def test_a_server_that_is_not_there(tmp_path: Path, server: Server) -> None:
    with serving() as gone:
        url = gone.url("/m?token=secret")
    one = fetcher(tmp_path, server, allowed_hosts=("127.0.0.1",))
    assert failed(one, url).code == "unreachable"


@pytest.mark.parametrize("length", [None, -1])
def test_a_body_that_is_too_large_is_refused(tmp_path: Path, server: Server, length: int | None) -> None:
    server.answers["/m"] = body(PNG + bytes(5000), length=length)
    one = fetcher(tmp_path, server, limits=Limits(bytes_most=1000, retries=0))
    assert failed(one, server.url("/m")).code == "too-large"


@pytest.mark.parametrize(
    ("content", "kind", "code"),
    [
        (b"<html>log in</html>", "png", "not-png"),
        (b'{"error": "expired"}', "png", "not-png"),
        (b"", "png", "not-png"),
        (b"\x89PNG\r\n\x1a", "png", "not-png"),
        (b"<html>log in</html>", "json", "not-json"),
    ],
)
def test_a_page_with_status_200_is_no_mask(
    tmp_path: Path, server: Server, content: bytes, kind: Any, code: str
) -> None:
    server.answers["/m"] = body(content, kind="text/html; charset=utf-8")
    one = fetcher(tmp_path, server, cache=tmp_path / "cache")
    assert failed(one, server.url("/m"), kind).code == code
    assert len(server.asked) == 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", [b'{"frameNumber": 1}\n', b'\xef\xbb\xbf[{"frameNumber": 1}]', b"", b" \n"])
def test_frames_may_have_every_form(tmp_path: Path, server: Server, content: bytes) -> None:
    server.answers["/f"] = body(content, kind="application/x-ndjson")
    assert fetcher(tmp_path, server).get(server.url("/f"), "json") == content


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x.example/m",
        "data:image/png;base64,AAAA",
        "https://",
        "https:///m",
        "https://u:p@x.example/m",
        "http://[/m",
        "https://x.example:99999/m",
        "https://x.example/a b",
        "https://x.example/\n",
        "file://x.example/m",
        "",
        "a\0b",
    ],
)
def test_other_addresses_are_refused(tmp_path: Path, server: Server, url: str) -> None:
    one = fetcher(tmp_path, server, allowed_hosts=("x.example", ""))
    assert failed(one, url).code == "bad-address"


# --- cache


def test_what_was_fetched_is_kept_and_not_asked_for_again(tmp_path: Path, server: Server) -> None:
    server.answers["/m"] = body(PNG)
    cache = tmp_path / "deep" / "cache"
    url = server.url("/m?token=secret&index=3")
    assert fetcher(tmp_path, server, cache=cache).get(url, "png") == PNG
    fetch._STORES.clear()  # as another process finds it
    assert fetcher(tmp_path, server, cache=cache).get(url, "png") == PNG
    assert len(server.asked) == 1
    (entry,) = [json.loads(line) for line in (cache / fetch.MANIFEST).read_text().splitlines()]
    assert entry["url"] == server.url("/m")
    assert (entry["sha256"], entry["size"]) == (hashlib.sha256(PNG).hexdigest(), len(PNG))
    assert (cache / entry["file"]).read_bytes() == PNG
    for path in cache.iterdir():
        assert KEY.encode() not in path.read_bytes()
        assert b"secret" not in path.read_bytes() + path.name.encode()


def test_threads_that_begin_together_share_one_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[fetch._Store] = []

    class Slow(fetch._Store):
        def __init__(self, folder: Path) -> None:
            time.sleep(0.05)
            super().__init__(folder)
            made.append(self)

    monkeypatch.setattr(fetch, "_Store", Slow)
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: fetch._store(tmp_path / "cache"), range(4)))
    assert len(made) == 1
    assert all(store is made[0] for store in stores)


def test_the_query_tells_files_apart(tmp_path: Path, server: Server) -> None:
    other = png(np.zeros((2, 2), np.uint8))
    server.answers["/m"] = [body(PNG), body(other)]
    one = fetcher(tmp_path, server, cache=tmp_path / "cache")
    assert [one.get(server.url(f"/m?index={n}"), "png") for n in (1, 2, 1)] == [PNG, other, PNG]


@pytest.mark.parametrize("damage", ["changed", "gone", "manifest"])
def test_a_damaged_cache_is_fetched_again(tmp_path: Path, server: Server, damage: str) -> None:
    server.answers["/m"] = body(PNG)
    cache = tmp_path / "cache"
    fetcher(tmp_path, server, cache=cache).get(server.url("/m"), "png")
    (kept,) = [path for path in cache.iterdir() if path.name != fetch.MANIFEST]
    if damage == "changed":
        kept.write_bytes(PNG[:-1] + b"?")
    elif damage == "gone":
        kept.unlink()
    else:
        (cache / fetch.MANIFEST).write_text('{"file": "x"}\n[]\n{"url"')
    fetch._STORES.clear()
    assert fetcher(tmp_path, server, cache=cache).get(server.url("/m"), "png") == PNG
    assert len(server.asked) == 2


def test_a_cached_file_of_a_host_no_longer_allowed_is_refused(tmp_path: Path, server: Server) -> None:
    server.answers["/m"] = body(PNG)
    cache = tmp_path / "cache"
    fetcher(tmp_path, server, cache=cache).get(server.url("/m"), "png")
    assert failed(fetcher(tmp_path, server, cache=cache, allowed_hosts=()), server.url("/m")).code == "host-not-allowed"


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path, server: Server) -> None:
    server.answers["/m"] = body(PNG)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises((OutputError, OSError), match="cache"):
        fetcher(tmp_path, server, cache=tmp_path / "cache").get(server.url("/m"), "png")


def test_many_are_fetched_at_once_and_one_that_fails_is_its_error(tmp_path: Path, server: Server) -> None:
    for n in range(12):
        server.answers[f"/{n}"] = body(PNG) if n != 5 else status(404)
    urls = [server.url(f"/{n}") for n in range(12)]
    found = fetcher(tmp_path, server, cache=tmp_path / "cache").many([*urls, urls[0]], "png")
    assert list(found) == urls
    assert [isinstance(one, FetchFailed) for one in found.values()] == [n == 5 for n in range(12)]
    assert sorted(server.paths) == sorted(f"/{n}" for n in range(12))
    assert len((tmp_path / "cache" / fetch.MANIFEST).read_text().splitlines()) == 11
    assert fetcher(tmp_path, server).many([], "png") == {}


# --- files beside the export


@pytest.mark.parametrize("form", ["masks/a b.png", "masks/a%20b.png", "./masks/../masks/a b.png", "file"])
def test_files_in_the_folder_of_the_export(tmp_path: Path, server: Server, form: str) -> None:
    path = tmp_path / "masks" / "a b.png"
    path.parent.mkdir()
    path.write_bytes(PNG)
    assert fetcher(tmp_path, server).get(path.as_uri() if form == "file" else form, "png") == PNG
    assert server.asked == []


@pytest.mark.parametrize("form", ["relative", "encoded", "absolute", "file", "link"])
def test_files_outside_of_it_are_refused_unless_allowed(tmp_path: Path, server: Server, form: str) -> None:
    base = tmp_path / "export"
    base.mkdir()
    (tmp_path / "x.png").write_bytes(PNG)
    (base / "link.png").symlink_to(tmp_path / "x.png")
    url = {
        "relative": "../x.png",
        "encoded": "%2e%2e/x.png",
        "absolute": str(tmp_path / "x.png"),
        "file": (tmp_path / "x.png").as_uri(),
        "link": "link.png",
    }[form]
    assert failed(fetcher(base, server), url).code == "leaves-folder"
    assert fetcher(base, server, outside=True).get(url, "png") == PNG


def test_files_that_cannot_be_had(tmp_path: Path, server: Server) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "large.png").write_bytes(PNG + bytes(5000))
    (tmp_path / "page.png").write_text("<html>")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "circle").symlink_to("circle")
    one = fetcher(tmp_path, server, limits=Limits(bytes_most=1000))
    expected = {
        "none.png": "not-there",
        "folder": "bad-address",
        "large.png": "too-large",
        "page.png": "not-png",
        "pipe.png": "bad-address",
        "x" * 300: "not-there",
    }
    assert {name: failed(one, name).code for name in expected} == expected
    assert failed(one, "circle").code in ("not-there", "bad-address")


# --- the key


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "kéy", "a\0"])
def test_a_key_that_is_none_is_refused_without_being_shown(tmp_path: Path, key: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Fetcher(tmp_path, key)
    assert not key.strip() or key not in str(caught.value)


def test_the_key_is_in_no_text(tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.answers["/m"] = status(503)
    one = fetcher(tmp_path, server)
    failed(one, server.url("/m?token=secret"))
    assert KEY not in repr(one) + str(one) + caplog.text
    assert "secret" not in caplog.text
    assert "trying again" in caplog.text
    assert pickle.loads(pickle.dumps(one)) == one
