"""What a path or a link names: an annotation or a dataset, from disk or from a server."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from voxtract.errors import InvalidInput
from voxtract.webknossos.annotation import Annotation
from voxtract.webknossos.dataset import Dataset
from voxtract.webknossos.urls import check_base, shown

if TYPE_CHECKING:
    from voxtract.webknossos.remote import RemoteDataset

AnyDataset: TypeAlias = "Dataset | RemoteDataset"

_BY_ID = re.compile(r"(?P<prefix>.*)/datasets/(?:[^/]*-)?(?P<id>[0-9a-fA-F]{24})(?:/.*)?")
_BY_NAME = re.compile(r"(?P<prefix>.*)/datasets/(?P<organization>[^/]+)/(?P<name>[^/]+)(?:/.*)?")


@dataclass(frozen=True, eq=False, slots=True)
class Opened:
    """What was named.

    Parameters
    ----------
    where : str
        For messages.
    name : str
        Of the annotation, or the dataset.
    annotation : Annotation, optional
    dataset : Dataset or RemoteDataset, optional
        Of the images; of the labels too, where there is no annotation.
    said : tuple of str
        Warnings about the annotation.
    path : str
        The annotation's file; empty for one from a server.
    """

    where: str
    name: str
    annotation: Annotation | None
    dataset: AnyDataset | None
    said: tuple[str, ...] = ()
    path: str = ""

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Nanometres; -1 where it is not known."""
        told = self.annotation or self.dataset
        return (-1.0, -1.0, -1.0) if told is None else told.voxel_size


def open_both(path: str | os.PathLike[str], dataset: str | os.PathLike[str] | None) -> Opened:
    """Open an annotation with its dataset, or a dataset; parameters and errors as `open_webknossos`."""
    text = os.fspath(path)
    link = "://" in text
    if (link and _names_dataset(text)) or (not link and Path(text).is_dir()):
        if dataset is not None:
            raise InvalidInput(f"{shown(text)}: is a dataset itself; leave out dataset=")
        opened = open_dataset(text)
        return Opened(place_of(opened), opened.name, None, opened)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        annotation = Annotation.download(text) if link else Annotation.load(text)
    said = tuple(str(one.message) for one in caught)
    images: AnyDataset | None = None
    if dataset is not None and os.fspath(dataset) == "server":
        images = annotation.get_remote_base_dataset()
    elif dataset is not None:
        images = open_dataset(os.fspath(dataset))
    where = shown(text) if link else text
    return Opened(where, annotation.name, annotation, images, said, "" if link else text)


def open_dataset(text: str) -> AnyDataset:
    """Open a dataset folder, or one on a server by a link to it or to an annotation of it.

    Raises
    ------
    NotFound, UnreadableFile, DamagedFile
        No dataset folder.
    InvalidInput
        A link to something else.
    ServerError, UnexpectedAnswer
        The server or the connection fails.
    """
    if "://" not in text:
        return Dataset.open(text, read_only=True)
    from voxtract.webknossos.client import remote_annotation_dataset, remote_base_dataset

    if not _names_dataset(text):
        return remote_annotation_dataset(text)
    parts = urlsplit(text)
    by_id, by_name = _BY_ID.fullmatch(parts.path), _BY_NAME.fullmatch(parts.path)
    found = by_id or by_name
    if found is None:
        raise InvalidInput(
            f"{shown(text)}: names no dataset; copy the link from the dataset's page: …/datasets/NAME-ID or "
            "…/datasets/ORGANIZATION/NAME"
        )
    query = dict(parse_qsl(parts.query))
    return remote_base_dataset(
        None if by_id else found["name"],
        None if by_id else found["organization"],
        dataset_id=found["id"] if by_id else None,
        sharing_token=query.get("token") or query.get("sharingToken"),
        webknossos_url=check_base(parts._replace(path=found["prefix"], query="", fragment="").geturl()),
    )


def place_of(dataset: AnyDataset) -> str:
    """Where a dataset is, for messages."""
    return str(dataset.path) if isinstance(dataset, Dataset) else dataset.url


def _names_dataset(link: str) -> bool:
    return "/datasets/" in urlsplit(link).path
