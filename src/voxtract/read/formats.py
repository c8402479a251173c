"""Which reader takes a path, told by its name and by what lies in it, and the words that each reader knows."""

from __future__ import annotations

import inspect
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from voxtract.errors import InvalidInput
from voxtract.model import Case, Skipped, Source, VolumeFile
from voxtract.read.folders import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    LABELS_SUFFIXES,
    NIFTI,
    Options,
    is_folder,
    is_volume_folder,
)
from voxtract.read.nifti import NiftiFile
from voxtract.storage import Entry, Place, Remote

Format = Literal["nifti", "zarr", "dicom", "supervisely", "labelbox", "webknossos"]
FORMATS: tuple[Format, ...] = ("nifti", "zarr", "dicom", "supervisely", "labelbox", "webknossos")

_EXPORTS = (".json", ".ndjson", ".jsonl")
_LINK = re.compile(r"https?://[^?#]*/(annotations|links|datasets)/")
_NAMED = (*NIFTI, ".nrrd")  # volumes of Supervisely's layout by name
_LOOKED_INTO = 500  # folders below one; a tree that has shown nothing by then is told to be named
_PLANE = re.compile(r"(?<![^\W_])(?:axl|cor|sag)(?![^\W_])", re.IGNORECASE)
_KIND = re.compile(r"anatomic|inference|label|annotation|mask|segmentation", re.IGNORECASE)


def recognised(path: Place) -> Format:
    """Which reader takes a path; "nifti" where no other does.

    Names are looked at first, bytes only without NIfTI, and at a URL not at all.

    Raises
    ------
    UnreadableFile
        The operating system or the store does not say what is there.
    """
    name = path.name.lower()
    if name.endswith(NIFTI):
        return "nifti"
    if is_volume_folder(path, Options()):
        return "zarr"
    if not is_folder(path):
        if name.endswith(_EXPORTS):
            return "labelbox"
        if name.endswith(".nml") or (name.endswith(".zip") and isinstance(path, Path) and _holds_nml(path)):
            return "webknossos"
        from voxtract.read.archives import is_archive

        if is_archive(name):
            return "supervisely"
        return "dicom" if _is_dicom(path) else "nifti"
    files, folders = _names(path)
    if "datasource-properties.json" in files:
        return "webknossos"
    if _is_supervisely(files, folders, path):
        return "supervisely"
    beside = [file for file in files if file.lower().endswith(NIFTI)]
    if beside or any(folder.lower() in IMAGE_FOLDERS for folder in folders):
        return "nifti"
    deeper = _below(path, folders) if isinstance(path, Path) else ()
    if any(_is_supervisely(inner_files, inner, below) for below, inner_files, inner in deeper):
        return "supervisely"
    return "dicom" if _is_dicom(path) else "supervisely" if _has_archives(files) else "nifti"


def open_as(kind: Format, path: Place, volume_index: int | None, options: Mapping[str, Any]) -> Source:
    """Open `path` with the reader of a format other than NIfTI and zarr.

    Raises
    ------
    InvalidInput
        A URL, or a word that the reader does not know; the message lists those it knows.
    VoxtractError
        As the reader.
    """
    path = _on_disk(path, kind)
    if kind == "dicom":
        from voxtract.read.dicom import open_dicom

        check_options(kind, options, _words(open_dicom))
        return open_dicom(path, volume_index=volume_index, **options)
    if kind == "supervisely":
        from voxtract.read.supervisely import open_supervisely

        check_options(kind, options, _words(open_supervisely))
        return open_supervisely(path, **options)
    if kind == "webknossos":
        return open_link(str(path), options)
    return _open_labelbox(path, options)


def is_link(text: str) -> bool:
    """Whether a text is a link to an annotation or a dataset on a WEBKNOSSOS server."""
    return _LINK.match(text) is not None


def open_link(where: str, options: Mapping[str, Any]) -> Source:
    """Open a WEBKNOSSOS annotation or dataset, on disk or on a server; raises as `open_as`."""
    from voxtract.read.webknossos import open_webknossos

    check_options("webknossos", options, _words(open_webknossos))
    return open_webknossos(where, **options)


def open_dicom_pairs(image: Place | None, labels: Place | None, volume_index: int | None, rest: Labels) -> Source:
    """DICOM images, DICOM SEG labels, or a pair in which one of them is of another format.

    `rest` opens a path that is not DICOM, as images or as labels.
    """
    from voxtract.read.dicom import open_dicom

    def dicom(one: Place | None) -> Path | None:
        return None if one is None else _on_disk(one, "dicom")

    if labels is None or recognised(labels) == "dicom":
        if image is None or recognised(image) == "dicom":
            return open_dicom(dicom(image), labels=dicom(labels), volume_index=volume_index)
        if labels is not None:
            return _by_id(rest(image, "image"), open_dicom(None, labels=dicom(labels), volume_index=volume_index))
    if image is None or labels is None:
        raise TypeError("neither is DICOM")
    return _by_id(open_dicom(dicom(image), volume_index=volume_index), rest(labels, "labels"))


Labels = Callable[[Place, Literal["image", "labels"]], Source]


def check_options(kind: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse words that a reader does not know."""
    unknown = sorted(options.keys() - set(known))
    if unknown:
        told = f"; allowed: {', '.join(sorted(known))}" if known else ", which takes none"
        raise InvalidInput(f"{', '.join(unknown)}: not known to the reader of format {kind!r}{told}")


def open_volume(path: Path) -> VolumeFile:
    """One volume: a NIfTI file, or the only series of a DICOM file or folder."""
    if recognised(path) != "dicom":
        return NiftiFile(path)
    from voxtract.read.dicom import open_dicom

    images = [case.image for case in open_dicom(path).cases if case.image is not None]
    if len(images) != 1:
        raise InvalidInput(f"{path}: holds {len(images)} DICOM series, but one volume was expected; give its folder")
    return images[0]


def _open_labelbox(path: Path, options: Mapping[str, Any]) -> Source:
    """Open an export; the words of its `Options`, `Selection` and `Limits` are given one by one."""
    from voxtract.read.labelbox import Limits, Options, Selection, open_labelbox

    words = dict(options)
    groups: dict[str, Any] = {"options": Options, "selection": Selection, "limits": Limits}
    own = [word for word in _words(open_labelbox) if word not in (*groups, "open_volume")]
    known = (*own, *(one.name for kind in groups.values() for one in fields(kind)))
    check_options("labelbox", words, known)
    if "volumes" not in words:
        raise InvalidInput(
            f"{path}: an export names its volumes, it does not hold them; say where they lie with volumes= "
            "(--set volumes=FOLDER): a folder whose files are called like the data rows, or a mapping of keys to paths"
        )
    for name, kind in groups.items():
        given = {one.name: words.pop(one.name) for one in fields(kind) if one.name in words}
        words[name] = kind(**{word: tuple(v) if isinstance(v, list) else v for word, v in given.items()})
    return open_labelbox(path, open_volume=open_volume, **words)


def _by_id(images: Source, labels: Source) -> Source:
    """Pairs of the cases of two sources: those with equal ids, suffixes aside, or the only one of each."""
    by_id = {case.id: case for case in labels.cases}
    alone = len(images.cases) == len(labels.cases) == 1
    pairs, skipped = [], [*images.skipped, *labels.skipped]
    for case in images.cases:
        bases = (case.id, *(case.id.removesuffix(end) for end in IMAGE_SUFFIXES))
        ids = [base + end for base in bases for end in ("", *LABELS_SUFFIXES)]
        found = next((case_id for case_id in ids if case_id in by_id), None)
        partner = labels.cases[0] if alone else None if found is None else by_id.pop(found)
        if partner is None:
            skipped.append(Skipped(case.image.where if case.image else case.id, f"no labels for case {case.id!r}"))
        else:
            pairs.append(Case(case.id, case.image, partner.labels))
    skipped += [
        Skipped(case.labels[0].file.where, f"no image for case {case.id!r}") for case in by_id.values() if not alone
    ]
    if not pairs:
        raise InvalidInput(
            f"{images.description} with {labels.description}: no image belongs to any labels; there are cases "
            f"{', '.join(case.id for case in images.cases[:5])} and labels {', '.join(by_id)[:200]}; name them alike"
        )
    return Source(
        f"{images.description} with {labels.description}",
        tuple(pairs),
        tuple(skipped),
        (*images.remarks, *labels.remarks),
        (*images.matches, *labels.matches),
        labels.classes,
    )


def _on_disk(path: Place, kind: Format) -> Path:
    if isinstance(path, Remote):
        raise InvalidInput(
            f"{path}: {kind} is read from disk only; copy the data into a folder first, and give that folder"
        )
    return path


def _is_supervisely(files: list[str], folders: list[str], path: Place) -> bool:
    """Whether names of one folder are those of Supervisely's project, or of its NIfTI layouts."""
    if "meta.json" in files and any(is_folder(path / folder / "volume") for folder in folders):
        return True
    stems = [file[: -len(end)] for file in files for end in NIFTI if file.lower().endswith(end)]
    if any(_PLANE.search(stem) and _KIND.search(stem) for stem in stems):
        return True
    named_alike = set(folders).intersection(
        file[: -len(end)] for file in files for end in _NAMED if file.lower().endswith(end)
    )
    return any(any(file.lower().endswith(_NAMED) for file in _names(path / folder)[0]) for folder in named_alike)


def _below(path: Path, folders: list[str]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Folders below one with the names of their files and folders, the nearest first; not through links."""
    waiting = deque(path / folder for folder in folders)
    for _ in range(_LOOKED_INTO):
        if not waiting:
            return
        below = waiting.popleft()
        files, inner = ([], []) if below.is_symlink() else _names(below)
        waiting.extend(below / folder for folder in inner)
        yield below, files, inner


def _holds_nml(path: Path) -> bool:
    """Whether a zip is an annotation of WEBKNOSSOS."""
    import zipfile  # costs a start without archives 10 ms

    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.lower().endswith(".nml") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False  # the reader of archives says what is wrong with it


def _has_archives(files: list[str]) -> bool:
    from voxtract.read.archives import is_archive

    return any(map(is_archive, files))


def _is_dicom(path: Place) -> bool:
    if isinstance(path, Remote):
        return path.suffix.lower() == ".dcm" or any(name.lower().endswith(".dcm") for name in _names(path)[0])
    from voxtract.read.dicom import is_dicom

    return is_dicom(path)


def _names(folder: Place) -> tuple[list[str], list[str]]:
    """Files and folders in a folder, sorted, without hidden ones; nothing of one that is not handed out."""
    try:
        if isinstance(folder, Remote):
            entries: Sequence[os.DirEntry[str] | Entry] = folder.entries()
        else:
            with os.scandir(folder) as listed:
                entries = list(listed)
        found = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    except OSError:
        return [], []
    return [name for name, is_dir in found if not is_dir], [name for name, is_dir in found if is_dir]


def _words(reader: Callable[..., Source]) -> tuple[str, ...]:
    """Keywords of a reader that a user may give."""
    parameters = inspect.signature(reader).parameters.values()
    return tuple(
        one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.name not in ("volume_index", "labels")
    )
