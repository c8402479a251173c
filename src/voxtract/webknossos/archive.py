"""Annotation files: an NML alone, or a zip of one NML and the zips with the voxels of its volume layers.

Nothing is unpacked to names that an archive chooses; what lies in it is read when it is asked for, and copied byte for
byte when it is saved. A saved file is written beside its place and renamed, so it is there whole or not at all.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import struct
import tempfile
import uuid
import warnings
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from voxtract.errors import NotFound, OutputError, UnreadableFile, VoxtractError
from voxtract.webknossos import nml_read, nml_write
from voxtract.webknossos.document import Document
from voxtract.webknossos.errors import FormatError, NoSuchFile
from voxtract.webknossos.layers import Stored, VolumeLayer

MOST_ENTRIES = 100_000  # an annotation has one per volume layer
LARGEST_NML = 16 << 30
HIGHEST_RATIO = 200  # annotations compress to a tenth or so, zip bombs to a thousandth
NOT_A_BOMB = 256 << 20  # up to here a ratio does not matter
IN_MEMORY = 64 << 20  # a file of an archive that is read from any place is held in memory up to here, else on disk
CHECKED_AT_ONCE = 16 << 20  # a zip with voxels up to this size is looked into when the annotation is loaded
COPIED_AT_ONCE = 1 << 20

_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OverflowError, struct.error)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a zip, read when it is asked for.

    Parameters
    ----------
    path : Path
        The zip.
    info : zipfile.ZipInfo
    stamp : (int, int)
        Size and time of change of the zip when it was opened, by which a changed one is noticed.
    folder : ScratchFolder, optional
        Where the zip lies; kept as long as the entry is.
    """

    path: Path
    info: zipfile.ZipInfo
    stamp: tuple[int, int]
    folder: ScratchFolder | None = None

    @property
    def where(self) -> str:
        """The zip and the file in it, for messages."""
        return f"{self.path}/{self.info.filename}"

    @property
    def size(self) -> int:
        """Number of bytes, as the zip says it."""
        return self.info.file_size

    @property
    def crc(self) -> int:
        """CRC-32 of the bytes, as the zip says it."""
        return self.info.CRC

    def pieces(self) -> Iterator[bytes]:
        """The bytes, piece by piece.

        Raises
        ------
        FormatError
            The zip has changed since it was opened, or its bytes are not what it says.
        UnreadableFile
            The zip is gone, or cannot be read.
        """
        _check_ratio(self.info, self.where)
        with _reading(self.path, self.where) as archive:
            if _stamp(self.path) != self.stamp:
                raise FormatError(f"{self.path}: has changed since it was loaded; load the annotation again")
            left = self.size
            with archive.open(self.info) as file:
                while piece := file.read(COPIED_AT_ONCE):
                    left -= len(piece)
                    yield piece
            if left:
                raise FormatError(f"{self.where}: ends {left:,} bytes early; download or export the annotation again")

    def open(self) -> BinaryIO:
        """Open the bytes for reading from any place, in memory or in a temporary file; errors as `pieces`."""
        _check_ratio(self.info, self.where)
        file = BytesIO() if self.size <= IN_MEMORY else cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115
        try:
            file.writelines(self.pieces())
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return file


class Scratch:
    """A temporary file that is to become a file of an annotation; it is removed with this object.

    Parameters
    ----------
    where : str
        What messages call it.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        handle, name = tempfile.mkstemp(prefix="voxtract-")
        os.close(handle)
        self.path = Path(name)
        self._remove = weakref.finalize(self, self.path.unlink, missing_ok=True)

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.path.stat().st_size

    @property
    def crc(self) -> int:
        """CRC-32 of the bytes."""
        crc = 0
        with self.path.open("rb") as file:
            while piece := file.read(COPIED_AT_ONCE):
                crc = zlib.crc32(piece, crc)
        return crc

    def open(self) -> BinaryIO:
        """Open the bytes for reading."""
        return self.path.open("rb")

    def __deepcopy__(self, _: object) -> Scratch:
        return self  # its bytes never change


class ScratchFolder:
    """A temporary folder; it is removed with this object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="voxtract-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def __deepcopy__(self, _: object) -> ScratchFolder:
        return self


@dataclass(frozen=True, slots=True)
class Contents:
    """What an annotation file holds.

    Parameters
    ----------
    name : str
        Of the annotation: that of the NML without its ending.
    document : Document
        Its volume layers have their data.
    files : dict of name -> Entry
        Further files of the archive; written back.
    """

    name: str
    document: Document
    files: dict[str, Entry]


def load_nml(path: Path) -> Contents:
    """Read an NML file.

    Raises
    ------
    NoSuchFile, UnreadableFile
    FormatError
        See `nml_read.read`.
    """
    try:
        with path.open("rb") as file:
            document = nml_read.read(file, str(path))
    except VoxtractError:
        raise
    except OSError as why:
        raise _unreadable(path, why) from why
    for layer in document.volumes:
        if layer.location is not None:
            _warn_of(layer, path, f"its voxels are to be in {layer.location!r}, but an .nml file holds none")
            layer.location = None
    return Contents(path.stem, document, {})


def load_zip(path: Path, folder: ScratchFolder | None = None) -> Contents:
    """Read the NML of an annotation zip; voxels are looked for, but not read.

    Parameters
    ----------
    path : Path
    folder : ScratchFolder, optional
        Where the zip lies, if it is to be removed once nobody can read it any more.

    Raises
    ------
    NoSuchFile, UnreadableFile
    FormatError
        No zip, cut short, encrypted, a bomb, with names that lead out of it or that two files have, without an NML or
        with several, or one that `nml_read.read` cannot read.

    Warns
    -----
    UserWarning
        The zip with the voxels of a layer is not there, empty or damaged: the layer is one without data.
    """
    with _reading(path, str(path)) as archive:
        infos = _checked_infos(archive, path)
        stamp = _stamp(path)
        nml = _only_nml(infos, path)
        where = f"{path}/{nml.filename}"
        if nml.file_size > LARGEST_NML:
            raise FormatError(f"{where}: unpacks to {nml.file_size:,} bytes; an NML of at most {LARGEST_NML:,} is read")
        _check_ratio(nml, where)
        with archive.open(nml) as file:
            document = nml_read.read(cast("BinaryIO", file), where)
            if file.tell() != nml.file_size:
                raise FormatError(
                    f"{where}: has {file.tell():,} bytes, the zip says {nml.file_size:,}; download or export it again"
                )
    inner = str(PurePosixPath(nml.filename).parent)
    files = {info.filename: Entry(path, info, stamp, folder) for info in infos.values() if info is not nml}
    for layer in document.volumes:
        _attach(layer, files, inner, path)
    used = {id(layer.data) for layer in document.volumes}
    others = {name: entry for name, entry in files.items() if id(entry) not in used}
    prefix = "" if inner == "." else f"{inner}/"
    others = {name.removeprefix(prefix): entry for name, entry in others.items()}
    return Contents(PurePosixPath(nml.filename).stem, document, others)


def entries(path: Path) -> dict[str, Entry]:
    """List the files of a zip that has just been written."""
    with _reading(path, str(path)) as archive:
        return {info.filename: Entry(path, info, _stamp(path)) for info in archive.infolist()}


def save_nml(path: Path, document: Document) -> None:
    """Write an NML file; nothing is left under its name where that fails. Errors as `save_zip`."""
    with _replacing(path) as file:
        nml_write.write(document, file)


def save_zip(
    path: Path, nml_name: str, document: Document, locations: Mapping[int, str], files: Mapping[str, Stored]
) -> None:
    """Write an annotation zip: the same bytes for the same content.

    Parameters
    ----------
    locations : dict of volume layer id -> name of its file
    files : dict of name -> Stored

    Raises
    ------
    NotFound
        The folder is not there.
    OutputError
        It cannot be written to.
    InvalidInput
        See `nml_write.write`.
    """
    with _replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open(nml_name, "w", force_zip64=_text_size(document) > _ZIP32) as nml:
            nml_write.write(document, cast("BinaryIO", nml), locations)
        for name, stored in files.items():
            with archive.open(name, "w", force_zip64=stored.size > _ZIP32) as target:
                for piece in _pieces(stored):
                    target.write(piece)


_LEADING_OUT = re.compile(r"^/|^[A-Za-z]:|(^|/)\.\.(/|$)|^$")
_ZIP32 = 1 << 31  # larger files need the 64-bit form, which has to be chosen before they are written


def _text_size(document: Document) -> int:
    """Bound the size of the NML from above, well enough to choose between the forms of zip."""
    skeleton = document.skeleton
    comments = sum(200 + 6 * len(text) for tree in skeleton.flattened_trees() for text in tree.table.comments.values())
    edges = sum(len(tree.edge_ids) for tree in skeleton.flattened_trees())
    segments = sum(len(layer.segments) for layer in document.volumes)
    return 600 * skeleton.get_total_node_count() + 40 * edges + comments + 2000 * segments


def _pieces(stored: Stored) -> Iterator[bytes]:
    if isinstance(stored, Entry):
        yield from stored.pieces()
        return
    with stored.open() as file:
        while piece := file.read(COPIED_AT_ONCE):
            yield piece


@contextmanager
def _reading(path: Path, where: str) -> Iterator[zipfile.ZipFile]:
    """Open a zip; what goes wrong with it in the block is said in our words."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except VoxtractError:
        raise
    except _FAULTS as why:
        raise FormatError(f"{where}: is no whole zip ({why}); download or export the annotation again") from why
    except OSError as why:
        if why.errno == errno.EINVAL:  # an offset that leads out of the file
            raise FormatError(f"{where}: is no whole zip; download or export the annotation again") from why
        raise _unreadable(path, why) from why


def _unreadable(path: Path, why: OSError) -> VoxtractError:
    if isinstance(why, FileNotFoundError):
        return NoSuchFile(f"{path}: no such file; check the spelling")
    return UnreadableFile(f"{path}: cannot be read: {why.strerror or why}; check permissions and disk")


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _check_ratio(info: zipfile.ZipInfo, where: str) -> None:
    if info.file_size > NOT_A_BOMB and info.file_size > HIGHEST_RATIO * info.compress_size:
        raise FormatError(
            f"{where}: {info.compress_size:,} bytes unpack to {info.file_size:,}, which no annotation does; a zip bomb "
            "is not read"
        )


def _checked_infos(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Files of an archive by name, without folders and what macOS adds."""
    if len(archive.filelist) > MOST_ENTRIES:
        raise FormatError(f"{path}: has {len(archive.filelist):,} entries; an annotation has at most {MOST_ENTRIES:,}")
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in archive.filelist:
        name = info.filename
        if not is_safe(name):
            raise FormatError(f"{path}: has the entry {name[:200]!r}, which leads out of the archive; it is not read")
        if info.is_dir() or name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith("._"):
            continue
        if name in infos:
            raise FormatError(f"{path}: has two entries named {name[:200]!r}; download or export the annotation again")
        infos[name] = info
    return infos


def is_safe(name: str) -> bool:
    """Whether the name of a file in an archive stays in it, on any system."""
    return not _LEADING_OUT.search(name.replace("\\", "/"))


def _only_nml(infos: Mapping[str, zipfile.ZipInfo], path: Path) -> zipfile.ZipInfo:
    found = [info for name, info in infos.items() if name.lower().endswith(".nml")]
    if len(found) != 1:
        names = ", ".join(info.filename for info in found[:5]) or "none"
        raise FormatError(f"{path}: an annotation zip holds exactly one .nml file, this one: {names}")
    return found[0]


def _attach(layer: VolumeLayer, files: Mapping[str, Entry], folder: str, path: Path) -> None:
    """Give a layer the zip with its voxels, if there is one."""
    if layer.location is None:
        return
    entry = files.get(layer.location) or files.get(f"{folder}/{layer.location}")
    if entry is None:
        _warn_of(layer, path, f"its voxels are to be in {layer.location!r}, which is not in the archive")
    elif missing := _why_empty(entry):
        _warn_of(layer, path, f"{layer.location!r}, where its voxels are to be, {missing}")
    else:
        layer.data = entry
        return
    layer.location = None


def _why_empty(entry: Entry) -> str:
    """Say why a zip with voxels is none; empty where it is one, or too large to be looked into."""
    if entry.size == 0:
        return "has 0 bytes"
    if entry.size > CHECKED_AT_ONCE:
        return ""
    try:
        with entry.open() as file, zipfile.ZipFile(file) as inner:
            return "" if inner.filelist else "has no entries"
    except (FormatError, *_FAULTS) as why:
        return f"is damaged ({why})"


def _warn_of(layer: VolumeLayer, path: Path, message: str) -> None:
    warnings.warn(
        f"{path}: volume layer {layer.name!r} (id {layer.id}) has no data: {message}", UserWarning, stacklevel=5
    )


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file under another name beside its place; at the end of the block it is put there, else removed."""
    if not path.parent.is_dir():
        raise NotFound(f"{path.parent}: no such folder, so {path.name} cannot be put there; make it first")
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            yield cast("BinaryIO", file)
        part.replace(path)
    except VoxtractError:
        raise
    except OSError as why:
        raise OutputError(f"{path}: cannot be written: {why.strerror or why}; check space and permissions") from why
    finally:
        part.unlink(missing_ok=True)
