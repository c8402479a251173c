"""Archives as folders: zip and tar (gz, bz2, xz) unpacked with limits, archives inside of them too.

What comes out of an archive is not trusted: no member leaves the target folder, links and devices are refused, and
the bytes, the members and the ratio of both are counted while they are written, not believed from a header.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from voxtract.errors import DamagedFile, InvalidInput, NotFound, OutputError, UnreadableFile, VoxtractError
from voxtract.model import Header, Remark, Skipped, Source, Volume, VolumeFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TAR: dict[str, Any] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".tbz2": bz2.open,
    ".xz": lzma.open,
    ".txz": lzma.open,
}
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
JUNK = frozenset((".ds_store", "__macosx", "thumbs.db", "desktop.ini"))  # what systems leave behind, in lower case
PIECE = 1 << 20

# What a file that is cut short or was changed makes the standard library raise.
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an archive may unpack to, with all archives inside of it.

    Parameters
    ----------
    nbytes, members : int
        Of all files together.
    ratio : int
        Bytes that come out per byte of the outermost archive. Deflate cannot exceed 1032, and masks come near.
    small : int
        Bytes up to which the ratio does not matter.
    depth : int
        Archives in archives.
    """

    nbytes: int = 1 << 40
    members: int = 1_000_000
    ratio: int = 2000
    small: int = 256 << 20
    depth: int = 5


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Unpacked:
    """An archive that lies unpacked in a folder, until the process ends.

    Parameters
    ----------
    archive : str
        The outermost one, as messages name it.
    folder : Path
    skipped : (Skipped, ...)
        Archives inside of it that could not be unpacked, and why.
    """

    archive: str
    folder: Path
    skipped: tuple[Skipped, ...] = ()

    def named(self, text: str) -> str:
        """Put the name of the archive into a path or a message, in place of the folder it lies unpacked in."""
        return text.replace(str(self.folder), self.archive)

    def source(self, found: Source) -> Source:
        """A source that was opened in the folder, as one of the archive."""
        return Source(
            self.named(found.description),
            tuple(
                replace(
                    case,
                    image=None if case.image is None else Member(case.image, self),
                    labels=tuple(replace(one, file=Member(one.file, self)) for one in case.labels),
                )
                for case in found.cases
            ),
            tuple(Skipped(self.named(one.where), self.named(one.reason)) for one in (*found.skipped, *self.skipped)),
            tuple(Remark(self.named(one.where), self.named(one.message)) for one in found.remarks),
            tuple(replace(one, where=self.named(one.where), why=self.named(one.why)) for one in found.matches),
            found.classes,
        )


@dataclass(frozen=True, slots=True)
class Member:
    """A volume in an unpacked archive, which messages and later runs know by the archive.

    Parameters
    ----------
    file : VolumeFile
        Where it lies unpacked.
    unpacked : Unpacked
    """

    file: VolumeFile
    unpacked: Unpacked

    @property
    def where(self) -> str:
        """The archive, and the way inside of it."""
        return self.unpacked.named(self.file.where)

    @property
    def volume_index(self) -> int | None:
        """Frame of the file."""
        return self.file.volume_index

    @property
    def paths(self) -> tuple[str]:
        """The archive."""
        return (self.unpacked.archive,)

    def header(self) -> Header:
        """Header of the file; raises as that does, naming the archive."""
        with self.told():
            return replace(self.file.header(), where=self.where)

    def read(self) -> Volume:
        """Header and voxels of the file; raises as that does, naming the archive."""
        with self.told():
            volume = self.file.read()
        return Volume(replace(volume.header, where=self.where), volume.data)

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Voxels of the file in pieces along z; raises as that does, naming the archive."""
        with self.told():
            yield from self.file.slabs(planes)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Let messages name the archive instead of the place where its member lies."""
        try:
            yield
        except VoxtractError as fault:
            raise type(fault)(self.unpacked.named(str(fault))) from fault


def is_archive(name: str) -> bool:
    """Whether a file of this name is an archive that can be unpacked."""
    return name.lower().endswith(SUFFIXES)


def is_junk(name: str) -> bool:
    """Whether a file or folder is what an operating system leaves behind: ``.DS_Store``, ``._name`` and their like."""
    return name.lower() in JUNK or name.startswith("._")


def stem_of(name: str) -> str:
    """Name of an archive without its suffixes."""
    return next(
        (name[: -len(end)] for end in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(end)), name
    )


def unpacked(archive: Path, limits: Limits = LIMITS) -> Unpacked:
    """Unpack an archive into a folder that is removed when the process ends; raises as `unpack`."""
    folder = tempfile.TemporaryDirectory(prefix="voxtract-", ignore_cleanup_errors=True)
    _HELD.append(folder)
    return Unpacked(str(archive), Path(folder.name), unpack(archive, Path(folder.name), limits))


_HELD: list[Any] = []  # temporary folders; each is removed when its object goes


def unpack(archive: Path, target: Path, limits: Limits = LIMITS) -> tuple[Skipped, ...]:
    """Unpack an archive, and those inside of it next to themselves into folders named like them.

    Parameters
    ----------
    archive : Path
        Zip or tar; its name says which, see `SUFFIXES`.
    target : Path
        Folder that exists and is empty. What junk the archive holds is left out.
    limits : Limits

    Returns
    -------
    (Skipped, ...)
        Archives inside that could not be unpacked; of these nothing is left.

    Raises
    ------
    NotFound, UnreadableFile
        The archive is not there, or the system does not hand it out.
    DamagedFile
        Its bytes contradict each other.
    InvalidInput
        No archive by its name; a member that leaves the folder, is a link or a device, is encrypted or there twice;
        more than the limits allow.
    OutputError
        `target` cannot be written, or the disk is full.
    """
    try:
        budget = _Budget(limits, archive.stat().st_size, str(archive))
        skipped: list[Skipped] = []
        _unpack(archive, str(archive), target, budget, limits.depth, skipped)
    except FileNotFoundError as fault:
        raise NotFound(f"{archive}: no such file; check the spelling") from fault
    except PermissionError as fault:
        raise UnreadableFile(f"{archive}: cannot be read: {fault.strerror}; check its permissions") from fault
    return tuple(skipped)


@dataclass(slots=True)
class _Budget:
    """What has come out so far, of all that may."""

    limits: Limits
    packed: int
    where: str
    nbytes: int = 0
    members: int = field(default=0)

    @property
    def most(self) -> int:
        """Bytes that may come out altogether."""
        return min(self.limits.nbytes, max(self.limits.small, self.packed * self.limits.ratio))

    def spend(self, nbytes: int, members: int = 0) -> None:
        self.nbytes += nbytes
        self.members += members
        if self.members > self.limits.members:
            raise InvalidInput(
                f"{self.where}: holds more than {self.limits.members} files; unpack it yourself and give the folder"
            )
        if self.nbytes > self.most:
            raise InvalidInput(
                f"{self.where}: its {self.packed} bytes unpack to more than {self.most}, which no data set does; "
                "if you trust it, unpack it yourself and give the folder"
            )


class _Counted(io.RawIOBase):
    """A decompressed stream whose bytes are counted before they are made."""

    def __init__(self, stream: IO[bytes], limit: int, where: str) -> None:
        self._stream, self._left, self._limit, self._where = stream, limit, limit, where

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0 or size > self._left:
            size = self._left + 1
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise InvalidInput(
                f"{self._where}: unpacks to more than {self._limit} bytes, which no data set does; "
                "if you trust it, unpack it yourself and give the folder"
            )
        return data


def _unpack(archive: Path, where: str, target: Path, budget: _Budget, depth: int, skipped: list[Skipped]) -> None:
    """Unpack one archive, then those that came out of it."""
    inner: list[Path] = []
    members = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    if not is_archive(archive.name):
        raise InvalidInput(f"{where}: is no archive that is read here; allowed: {', '.join(SUFFIXES)}")
    with _explained(where):
        for name, opened in members(archive, where, budget):
            parts = _parts(name, where)
            if not parts or any(map(is_junk, parts)):
                continue
            path = target.joinpath(*parts)
            if opened is None:
                _made(path, name, where)
                continue
            _made(path.parent, name, where)
            _write(path, opened, name, where, budget)
            if is_archive(path.name):
                inner.append(path)
    for path in sorted(inner):
        _unpack_inner(path, f"{where}/{path.relative_to(target).as_posix()}", budget, depth, skipped)


def _unpack_inner(path: Path, where: str, budget: _Budget, depth: int, skipped: list[Skipped]) -> None:
    target = path.parent / stem_of(path.name)
    try:
        if depth < 1:
            raise InvalidInput(f"{where}: lies too deep, in {budget.limits.depth} archives; unpack it yourself")
        if target.exists() or target == path:
            raise InvalidInput(f"{where}: a folder of its name lies beside it; rename one of them")
        target.mkdir()
        try:
            _unpack(path, where, target, budget, depth - 1, skipped)
        except VoxtractError:
            shutil.rmtree(target)
            raise
    except OutputError:
        raise
    except VoxtractError as fault:
        skipped.append(Skipped(where, str(fault).removeprefix(f"{where}: ")))
    path.unlink()


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Tell the faults of the standard library in our words."""
    try:
        yield
    except _DAMAGE as fault:
        raise DamagedFile(f"{where}: the archive is damaged ({fault}); copy or download it again") from fault
    except (NotImplementedError, RuntimeError) as fault:  # zipfile's words for other compression, and for encryption
        raise InvalidInput(f"{where}: cannot be unpacked ({fault}); pack it again as a plain zip") from fault
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as fault:  # bz2 has no error of its own
        if fault.errno is None:
            raise DamagedFile(f"{where}: the archive is damaged ({fault}); copy or download it again") from fault
        raise OutputError(f"{where}: cannot be unpacked: {fault.strerror}; set TMPDIR to a disk with room") from fault


Opened = Any  # a function that opens the bytes of a member, or None for a folder


def _zip_members(archive: Path, where: str, budget: _Budget) -> Iterator[tuple[str, Opened]]:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        budget.spend(0, len(members))
        announced = sum(member.file_size for member in members)
        if announced > budget.most - budget.nbytes:
            budget.spend(announced)  # says so before anything is written
        for member in members:
            name = _zip_name(member)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(name, where, "is a link or a device")
            if member.flag_bits & 1:
                raise InvalidInput(f"{where}: {name!r} is encrypted; unpack it yourself and give the folder")
            yield name, None if member.is_dir() else partial(file.open, member)


def _zip_name(member: zipfile.ZipInfo) -> str:
    """Name in Unicode, also where a tool wrote UTF-8 without saying so."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename


def _tar_members(archive: Path, where: str, budget: _Budget) -> Iterator[tuple[str, Opened]]:
    decompress = _TAR.get(archive.suffix.lower())
    left = budget.most - budget.nbytes + (budget.limits.members + 2) * 3 * 512  # headers come out of it, too
    with (decompress or open)(archive, "rb") as stream:
        counted = cast("IO[bytes]", _Counted(stream, left, where))
        with tarfile.open(fileobj=counted, mode="r|") as file:
            for member in file:
                budget.spend(0, 1)
                if not (member.isreg() or member.isdir()):
                    raise _refused(member.name, where, "is a link or a device")
                yield member.name, None if member.isdir() else partial(file.extractfile, member)
        while counted.read(PIECE):  # to the end, where the checksum is
            pass


def _parts(name: str, where: str) -> list[str]:
    """Split the name of a member, which must stay below the target."""
    name = name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or re.match("[A-Za-z]:/", name) or ".." in parts or "\0" in name:
        raise _refused(name, where, "leaves the folder it is unpacked to")
    return parts


def _refused(name: str, where: str, why: str) -> InvalidInput:
    return InvalidInput(f"{where}: {name!r} {why}; pack plain files and folders only, or unpack it yourself")


def _made(folder: Path, name: str, where: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as fault:
        raise InvalidInput(f"{where}: {name!r} is both a file and a folder; pack it again") from fault


def _write(path: Path, opened: Opened, name: str, where: str, budget: _Budget) -> None:
    try:
        file = path.open("xb")
    except (FileExistsError, IsADirectoryError) as fault:
        raise InvalidInput(f"{where}: holds {name!r} twice; pack it again") from fault
    with file, opened() as source:
        while piece := source.read(PIECE):
            budget.spend(len(piece))
            file.write(piece)
