"""A WEBKNOSSOS server: which one and who asks (`webknossos_context`), and every request of the protocol (`Client`).

What a server, a token and a timeout are is taken, in this order, from the arguments, the innermost
`webknossos_context`, and the environment variables ``WK_URL``, ``WK_TOKEN`` and ``WK_TIMEOUT``.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from voxtract.errors import InvalidInput
from voxtract.webknossos.connection import Connection, ServerError, Upload, cut_short, value_of
from voxtract.webknossos.errors import WrongUse
from voxtract.webknossos.urls import (
    AnnotationAddress,
    ShortLink,
    censored,
    check_base,
    check_id,
    is_url,
    parse_annotation,
    parse_short_link,
    same_server,
    shown,
)

if TYPE_CHECKING:
    from voxtract.webknossos.remote import RemoteDataset

DEFAULT_URL = "https://webknossos.org"
DEFAULT_TIMEOUT_S = 1800.0
NEWEST_API = 16  # requests are the same from 12 on; servers go on answering older versions
NEWEST_DATA_API = 15
UNVERSIONED_DATA_API = 9  # up to here /data has no version, and streams go by name of the dataset

_versions: dict[str, int] = {}  # of each server asked so far; one is asked once


@dataclass(frozen=True, slots=True)
class Access:
    """Which server is asked, by whom, and how patiently.

    Parameters
    ----------
    url : str
        ``https://host[:port][/prefix]`` without a trailing slash.
    token : str, optional
        Not in the repr.
    timeout_s : float
        Seconds without a byte after which a connection counts as dropped.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    timeout_s: float = DEFAULT_TIMEOUT_S


_access: ContextVar[Access | None] = ContextVar("webknossos_access", default=None)


@contextmanager
def webknossos_context(
    url: str | None = None, token: str | None = None, timeout: float | None = None
) -> Iterator[None]:
    """Talk to this server as this user, in a with block or, as a decorator, in a function.

    Parameters
    ----------
    url : str, optional
        The server; otherwise that of the context around this one, ``WK_URL``, or https://webknossos.org.
    token : str, optional
        Taken over from no other context. ``WK_TOKEN`` serves where it is left out and the server is the one that the
        environment names.
    timeout : float, optional
        Seconds; otherwise that of the context around this one, ``WK_TIMEOUT``, or 1800.

    Raises
    ------
    InvalidInput
        A URL, token or timeout that is none.

    Notes
    -----
    The context holds for the thread (or asyncio task) that enters it.

    Examples
    --------
    >>> with webknossos_context("https://wk.example.org/", token="secret"):
    ...     with webknossos_context(timeout=60):
    ...         current_access()
    Access(url='https://wk.example.org', timeout_s=60.0)
    """
    outer, environment = current_access(), _environment()
    base = outer.url if url is None else check_base(url)
    if token is not None:
        token = check_token(token)
    elif same_server(environment.url, base):
        token = environment.token
    before = _access.set(Access(base, token, outer.timeout_s if timeout is None else _seconds(timeout, "timeout")))
    try:
        yield
    finally:
        _access.reset(before)


def current_access() -> Access:
    """Server, token and timeout of the innermost context, or of the environment."""
    return _access.get() or _environment()


def check_token(token: str) -> str:
    """Return `token` without white space around it; InvalidInput, which does not repeat it, where it cannot be one."""
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInput("the token is none: it has letters, digits and signs only; copy it from the server's page")
    return token


class Client:
    """Asks one WEBKNOSSOS server; for any number of threads.

    Parameters
    ----------
    url, token, timeout : optional
        As in `webknossos_context`; what is left out comes from the context.
    sleep : callable
        Waits between attempts, in seconds.

    Raises
    ------
    InvalidInput
        A URL, token or timeout that is none, or httpx is not installed.

    Warns
    -----
    UserWarning
        `url` is another server than that of the context, and no token is given: none is sent, then.

    Notes
    -----
    Methods raise `ServerError` where the server or the connection fails, and `UnexpectedAnswer`, which is one, where
    the answer is not what the protocol has. Close it, or use it in a with block.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        timeout: float | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        access = _access_of(url, token)
        if timeout is not None:
            access = replace(access, timeout_s=_seconds(timeout, "timeout"))
        self._access = access
        self.connection = Connection(access.timeout_s, sleep)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def close(self) -> None:
        """Close the connections; a second time does nothing."""
        self.connection.close()

    @property
    def url(self) -> str:
        """The server, without a trailing slash."""
        return self._access.url

    @property
    def has_token(self) -> bool:
        """Whether requests are made in the name of a user."""
        return self._access.token is not None

    @property
    def api_version(self) -> int:
        """Version of the API to speak: the newest that both sides know.

        Raises
        ------
        ServerError
            The server has dropped all versions that this program knows.
        """
        return _api_version(self.connection, self.url)

    def user(self) -> dict[str, Any]:
        """The user whose token is sent: id, email, organization, ..."""
        return self._dict("user")

    def organization(self) -> str:
        """Id of the organization of the user whose token is sent."""
        return value_of(self.user(), "organization", str, f"GET {self._api('user')}")

    def annotation_info(self, annotation_id: str) -> dict[str, Any]:
        """What the server says of an annotation: id, typ, name, state, owner, annotationLayers, dataStore, ..."""
        now_ms = time.time_ns() // 1_000_000
        return self._dict(f"annotations/{check_id(annotation_id)}/info", {"timestamp": str(now_ms)})

    def annotations(self, *, is_finished: bool = False) -> list[dict[str, Any]]:
        """All annotations that the user may read, each as in `annotation_info`, but shorter."""
        return self._dicts("annotations/readable", {"isFinished": str(is_finished).lower()})

    def download(self, annotation_id: str, folder: Path, *, skip_volume_data: bool = False) -> Path:
        """Download an annotation as the .nml or .zip that the server makes of it.

        Parameters
        ----------
        folder : Path
            Made where missing; a file of the same name in it is replaced once the new one is complete.
        skip_volume_data : bool
            Leave out the voxels of volume layers.

        Returns
        -------
        Path
            The file, called after the annotation.

        Raises
        ------
        InvalidInput
            `annotation_id` is none.
        OutputError
            The file cannot be written.
        """
        params = {"skipVolumeData": str(skip_volume_data).lower()}
        if self.api_version > UNVERSIONED_DATA_API:
            params["volumeDataZipFormat"] = "zarr3"
        url = self._api(f"annotations/{check_id(annotation_id)}/download")
        return self.connection.get_file(url, params, self._access.token, folder, cut_short)

    def upload(self, path: Path, *, name: str | None = None) -> str:
        """Upload an annotation; returns the link to it.

        Parameters
        ----------
        path : Path
            The annotation as .zip.
        name : str, optional
            Name of the annotation on the server; otherwise that of the file, without its suffix.

        Raises
        ------
        ServerError
            Also where there is no token: nothing is sent, then.
        WrongUse
            The file is no .zip.
        NotFound, UnreadableFile
            The file is not there, or cannot be read.
        """
        if path.suffix != ".zip":
            raise WrongUse(f"{path}: annotations are uploaded as .zip; save it as one first")
        if not self.has_token:
            raise ServerError(
                f"{path}: an upload to {self.url} needs a token; give it with webknossos_context(token=...) or WK_TOKEN"
            )
        url = self._api("annotations/upload")
        form = Upload(path, f"{path.stem if name is None else name}.zip", {"createGroupForEachFile": "false"})
        answer = self.connection.post_file(url, form, self._access.token)
        return f"{self.url}/annotations/{value_of(answer, 'annotation.id', str, f'POST {url}')}"

    def dataset(self, dataset_id: str, sharing_token: str | None = None) -> dict[str, Any]:
        """What the server says of a dataset: id, name, dataSource, dataStore, ...

        Parameters
        ----------
        sharing_token : str, optional
            Takes the place of the user's token.

        Raises
        ------
        ServerError
            Also where the server itself cannot use the dataset.
        """
        params = {"sharingToken": sharing_token} if sharing_token else None
        found = self._dict(f"datasets/{check_id(dataset_id, 'dataset')}", params, sharing_token)
        source = found.get("dataSource")
        if isinstance(source, dict) and "dataLayers" not in source and "status" in source:
            said = censored(str(source["status"]), self._access.token, sharing_token)[:300]
            raise ServerError(f"{self.url}: the server cannot use dataset {dataset_id}: {said}")
        return found

    def dataset_id(self, organization: str, name: str) -> str:
        """Find the id of the dataset of that name in an organization."""
        hits = self._dicts("datasets", {"isActive": "true", "organizationId": organization, "searchQuery": name})
        where = f"GET {self._api('datasets')}"
        ids = {value_of(hit, "id", str, where) for hit in hits if hit.get("name") == name}  # it finds longer names, too
        if len(ids) == 1:
            return ids.pop()
        path = f"datasets/disambiguate/{quote(organization, safe='')}/{quote(name, safe='')}/toId"
        return value_of(self._dict(path), "id", str, f"GET {self._api(path)}")

    def annotation_stream(self, annotation_id: str) -> str:
        """URL under which an annotation and its dataset are streamed."""
        info = self.annotation_info(annotation_id)
        store = info.get("dataStore")
        if not isinstance(store, dict):
            where = f"GET {self._api(f'annotations/{annotation_id}/info')}"
            dataset_id = info.get("datasetId") or self.dataset_id(
                value_of(info, "organization", str, where), value_of(info, "dataSetName", str, where)
            )
            store = self.dataset(str(dataset_id)).get("dataStore")
        return self._data(store, f"annotations/zarr/{annotation_id}")

    def dataset_stream(self, dataset_id: str, sharing_token: str | None = None) -> str:
        """URL under which a dataset is streamed."""
        found = self.dataset(dataset_id, sharing_token)
        place = dataset_id
        if self.api_version <= UNVERSIONED_DATA_API:
            where = f"GET {self._api(f'datasets/{dataset_id}')}"
            owner, name = (value_of(found, f"dataSource.id.{key}", str, where) for key in ("team", "name"))
            place = f"{quote(owner, safe='')}/{quote(name, safe='')}"
        return self._data(found.get("dataStore"), f"zarr/{place}")

    def stream_token(self, stream: str, sharing_token: str | None = None) -> str | None:
        """The token to send to a data store: none where the way there is less encrypted than that to the server."""
        token = sharing_token or self._access.token
        if token and self.url.startswith("https:") and not stream.startswith("https:"):
            warnings.warn(
                f"{self.url} names the data store {shown(stream)}, which is not encrypted; no token is sent there",
                stacklevel=3,
            )
            return None
        return token

    def _api(self, path: str) -> str:
        return f"{self.url}/api/v{self.api_version}/{path}"

    def _data(self, store: Any, path: str) -> str:
        base = check_base(value_of(store, "url", str, f"{self.url}: data store"))
        version = "" if self.api_version <= UNVERSIONED_DATA_API else f"v{min(self.api_version, NEWEST_DATA_API)}/"
        return f"{base}/data/{version}{path}"

    def _get(self, path: str, params: Mapping[str, str] | None, token: str | None) -> Any:
        return self.connection.get_json(self._api(path), params, token or self._access.token)

    def _dict(self, path: str, params: Mapping[str, str] | None = None, token: str | None = None) -> dict[str, Any]:
        return value_of(self._get(path, params, token), "", dict, f"GET {self._api(path)}")

    def _dicts(self, path: str, params: Mapping[str, str]) -> list[dict[str, Any]]:
        where = f"GET {self._api(path)}"
        answer = value_of(self._get(path, params, None), "", list, where)
        return [value_of(item, "", dict, where) for item in answer]


def find_annotation(id_or_url: str, webknossos_url: str | None = None) -> AnnotationAddress:
    """Find out which annotation on which server is meant; asks a server about short links only.

    Parameters
    ----------
    id_or_url : str
        Id, link to an annotation, or short link.
    webknossos_url : str, optional
        The server of an id; otherwise that of the context.

    Returns
    -------
    AnnotationAddress
        Its `base` is given.

    Raises
    ------
    WrongUse
        A link and `webknossos_url`.
    InvalidInput
        No id and no link to an annotation, or a short link that cannot be resolved.
    """
    if is_url(id_or_url) and webknossos_url is not None:
        raise WrongUse(f"{shown(id_or_url)}: a link names its server itself; leave out webknossos_url")
    short = parse_short_link(id_or_url)
    address = parse_annotation(_long_link(short) if short else id_or_url)
    if address.base:
        return address
    return replace(address, base=check_base(webknossos_url) if webknossos_url else current_access().url)


def download(
    id_or_url: str,
    annotation_type: object = None,
    webknossos_url: str | None = None,
    *,
    skip_volume_data: bool = False,
    folder: Path,
) -> Path:
    """Download an annotation into `folder`; see `Client.download`.

    Parameters
    ----------
    id_or_url : str
        Id, link to an annotation, or short link.
    annotation_type : optional
        Ignored.
    webknossos_url : str, optional
        The server of an id; otherwise that of the context.

    Raises
    ------
    WrongUse
        A link together with `annotation_type` or `webknossos_url`.
    InvalidInput
        No id and no link to an annotation.
    ServerError, UnexpectedAnswer, OutputError
        As `Client.download`.

    Warns
    -----
    UserWarning
        The server is not that of the context: no token is sent.
    DeprecationWarning
        `annotation_type` is given.
    """
    if annotation_type is not None:
        if is_url(id_or_url):
            raise WrongUse(f"{shown(id_or_url)}: a link needs no annotation_type; leave it out")
        warnings.warn("annotation_type is not needed any more, and ignored", DeprecationWarning, stacklevel=2)
    address = find_annotation(id_or_url, webknossos_url)
    with Client(address.base) as client:
        return client.download(address.id, folder, skip_volume_data=skip_volume_data)


def upload(path: Path, *, name: str | None = None) -> str:
    """Upload an annotation (.zip) to the server of the context; returns the link. See `Client.upload`."""
    with Client() as client:
        return client.upload(path, name=name)


def remote_annotation_dataset(id_or_url: str, webknossos_url: str | None = None) -> RemoteDataset:
    """Open an annotation for streaming: the layers of its dataset, and its volume layers with fallback and mapping.

    Parameters
    ----------
    id_or_url : str
        Id, link to an annotation, or short link.
    webknossos_url : str, optional
        The server of an id; otherwise that of the context.

    Raises
    ------
    WrongUse
        A link and `webknossos_url`.
    InvalidInput
        No id and no link to an annotation.
    ServerError, UnexpectedAnswer
        The server or the connection fails.
    """
    from voxtract.webknossos.remote import RemoteDataset

    address = find_annotation(id_or_url, webknossos_url)
    with ExitStack() as closing:
        client = closing.enter_context(Client(address.base))
        dataset = RemoteDataset(client, client.annotation_stream(address.id))
        closing.pop_all()  # the dataset closes the client from now on
    return dataset


def remote_base_dataset(
    name: str | None = None,
    organization: str | None = None,
    *,
    dataset_id: str | None = None,
    sharing_token: str | None = None,
    webknossos_url: str | None = None,
) -> RemoteDataset:
    """Open a dataset for streaming, by its id or by name and organization.

    Parameters
    ----------
    organization : str, optional
        Otherwise that of the user.
    sharing_token : str, optional
        Takes the place of the user's token.
    webknossos_url : str, optional
        Otherwise the server of the context.

    Raises
    ------
    WrongUse
        Neither `name` nor `dataset_id`.
    InvalidInput
        A sharing token or an id that is none.
    ServerError, UnexpectedAnswer
        No such dataset, or the server or the connection fails.
    """
    from voxtract.webknossos.remote import RemoteDataset

    sharing_token = None if sharing_token is None else check_token(sharing_token)
    with ExitStack() as closing:
        client = closing.enter_context(Client(webknossos_url))
        if dataset_id is None:
            if name is None:
                raise WrongUse("a dataset is found by its name or its id; give one of them")
            dataset_id = client.dataset_id(organization or client.organization(), name)
        dataset = RemoteDataset(client, client.dataset_stream(dataset_id, sharing_token), sharing_token)
        closing.pop_all()  # the dataset closes the client from now on
    return dataset


def _access_of(url: str | None, token: str | None) -> Access:
    """The context, with another server or user; its token is for its server only."""
    current = current_access()
    base = current.url if url is None else check_base(url)
    if token is not None:
        return replace(current, url=base, token=check_token(token))
    if same_server(current.url, base):
        return replace(current, url=base)
    warnings.warn(
        f"{base} is not the server of the context, {current.url}: no token is sent, so that only what is public is "
        f"found; use webknossos_context({base!r}, token=...)",
        stacklevel=4,
    )
    return replace(current, url=base, token=None)


def _environment() -> Access:
    token, timeout = os.environ.get("WK_TOKEN"), os.environ.get("WK_TIMEOUT")
    return Access(
        check_base(os.environ.get("WK_URL") or DEFAULT_URL),
        check_token(token) if token else None,
        _seconds(timeout, "WK_TIMEOUT") if timeout else DEFAULT_TIMEOUT_S,
    )


def _seconds(value: object, where: str) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidInput(f"{where}={value!r}; give a number of seconds above 0")
    return seconds


def _api_version(connection: Connection, base: str) -> int:
    if base not in _versions:
        where = f"{base}/api/buildinfo"
        versions = value_of(connection.get_json(where), "httpApiVersioning", dict, f"GET {where}")
        newest = value_of(versions, "currentApiVersion", int, f"GET {where}")
        oldest = value_of(versions, "oldestSupportedApiVersion", int, f"GET {where}")
        if oldest > NEWEST_API:
            raise ServerError(
                f"{base}: the server speaks the versions {oldest} to {newest} of its API, but this program knows them "
                f"up to {NEWEST_API}; pip install --upgrade voxtract"
            )
        _versions[base] = min(newest, NEWEST_API)
    return _versions[base]


def _long_link(link: ShortLink) -> str:
    """Ask the server, without any token, what a short link stands for."""
    connection = Connection(current_access().timeout_s)
    try:
        where = f"{link.base}/api/v{_api_version(connection, link.base)}/shortLinks/byKey/{link.key}"
        return value_of(connection.get_json(where), "longLink", str, f"GET {where}")
    except ServerError as fault:
        raise InvalidInput(
            f"{link.base}/links/{link.key}: the short link cannot be resolved ({fault}); open it in a browser and copy "
            "the address from there"
        ) from fault
    finally:
        connection.close()
