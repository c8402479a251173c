"""All files below a folder or in an archive, in one order whatever the system lists first."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from voxtract.errors import InvalidInput, NotFound, UnreadableFile, VoxtractError
from voxtract.model import Skipped, VolumeFile
from voxtract.read.archives import Member, Unpacked, is_archive, is_junk, stem_of, unpacked
from voxtract.read.nifti import NiftiFile
from voxtract.read.nrrd import NrrdFile
from voxtract.read.supervisely.names import is_nifti, is_volume, volume_stem


@dataclass(frozen=True, slots=True)
class Entry:
    """One file.

    Parameters
    ----------
    folder : str
        Way to it from the top, parted by ``/``; empty at the top.
    name : str
    path : Path
        Where it lies, which is another place if it comes out of an archive.
    where : str
        Its name for people.
    archive : Unpacked, optional
        The archive it comes out of.
    """

    folder: str
    name: str
    path: Path
    where: str
    archive: Unpacked | None = None

    @property
    def way(self) -> str:
        """Folder and name."""
        return f"{self.folder}/{self.name}" if self.folder else self.name

    @property
    def parent(self) -> str:
        """Name of the folder it lies in."""
        return self.folder.rpartition("/")[2] or self.path.parent.name

    @property
    def is_volume(self) -> bool:
        """Whether the name says that it holds voxels."""
        return is_volume(self.name)

    @property
    def is_nifti(self) -> bool:
        """Whether the name says so."""
        return is_nifti(self.name)

    @property
    def stem(self) -> str:
        """Name without ``.nii``, ``.nii.gz`` or ``.nrrd``."""
        return volume_stem(self.name)

    @property
    def id(self) -> str:
        """Way to it without the suffix of a volume, as a name."""
        return "_".join([*filter(None, self.folder.split("/")), self.stem])

    @property
    def plain(self) -> NiftiFile | NrrdFile:
        """The file where it lies."""
        return NiftiFile(self.path) if self.is_nifti else NrrdFile(self.path)

    @property
    def file(self) -> VolumeFile:
        """The file, known by the archive it comes out of."""
        return self.plain if self.archive is None else Member(self.plain, self.archive)


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder and what is below it.

    Parameters
    ----------
    where : str
        Folder or archive, for people.
    root : Path
        The folder, or the one the archive was unpacked to. Folders that hold nothing but the next folder are passed.
    entries : (Entry, ...)
        Sorted by folder and name.
    skipped : (Skipped, ...)
        Folders and archives that were not looked into.
    archive : Unpacked, optional
        What it is, unless a folder.
    """

    where: str
    root: Path
    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...]
    archive: Unpacked | None


def walk(path: Path) -> Tree:
    """List a folder or an archive; archives inside are looked into as if they were folders.

    Junk of operating systems is passed over. Links to folders are not followed.

    Raises
    ------
    NotFound, UnreadableFile
        Nothing there, or the system does not list it.
    InvalidInput, DamagedFile
        A file that is no archive, or one that cannot be unpacked; see `voxtract.read.archives.unpack`.
    """
    listing = _Listing()
    root, where, archive = path, str(path), None
    if not os.path.lexists(path):
        raise NotFound(f"{path}: no such file or folder; check the spelling")
    if not path.is_dir():
        if not is_archive(path.name):
            raise InvalidInput(f"{path}: is neither a folder nor an archive (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz)")
        archive = unpacked(path)
        root = archive.folder
        listing.skipped += archive.skipped
    while (inner := _only_folder(root)) is not None:
        root = inner
    listing.descend(root, "", archive)
    entries = sorted(listing.entries.values(), key=lambda entry: (entry.folder.split("/"), entry.name))
    return Tree(where, root, tuple(entries), tuple(sorted(listing.skipped, key=lambda skip: skip.where)), archive)


@dataclass(slots=True)
class _Listing:
    entries: dict[str, Entry] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    def descend(self, folder: Path, way: str, archive: Unpacked | None) -> None:
        """Add what lies in a folder; its name in the tree is `way`."""
        archives: list[os.DirEntry[str]] = []
        for entry in _listed(folder):
            where = entry.path if archive is None else archive.named(entry.path)
            below = str(PurePosixPath(way, entry.name))
            if entry.name.startswith("."):
                self.skipped.append(Skipped(where, "hidden (its name begins with a dot)"))
            elif entry.is_dir() and entry.is_symlink():  # may lead in a circle
                self.skipped.append(Skipped(where, "is a link to a folder; give that folder itself"))
            elif entry.is_dir():
                try:
                    self.descend(Path(entry.path), below, archive)
                except UnreadableFile as fault:
                    self.skipped.append(Skipped(where, str(fault)))
            elif is_archive(entry.name) and archive is None:  # those in archives are unpacked already
                archives.append(entry)
            else:
                self.add(Entry(way, entry.name, Path(entry.path), where, archive))
        for entry in archives:
            try:
                inner = unpacked(Path(entry.path))
            except VoxtractError as fault:
                self.skipped.append(Skipped(entry.path, str(fault)))
                continue
            self.skipped += inner.skipped
            self.descend(inner.folder, str(PurePosixPath(way, stem_of(entry.name))), inner)

    def add(self, entry: Entry) -> None:
        if (first := self.entries.setdefault(entry.way, entry)) is not entry:
            self.skipped.append(Skipped(entry.where, f"has the place of {first.where}; rename the archive"))


def upwards(folder: str) -> Iterator[str]:
    """Folders of a tree from one up to the top."""
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]
    yield ""


def _listed(folder: Path) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((one for one in entries if not is_junk(one.name)), key=lambda one: one.name)
    except (FileNotFoundError, NotADirectoryError) as fault:
        raise NotFound(f"{folder}: no such folder; check the spelling") from fault
    except OSError as fault:
        raise UnreadableFile(f"{folder}: cannot be listed: {fault.strerror}; check its permissions") from fault


def _only_folder(folder: Path) -> Path | None:
    """The folder that `folder` holds, if it holds nothing else."""
    inside = [one for one in _listed(folder) if not one.name.startswith(".")]
    return Path(inside[0].path) if len(inside) == 1 and inside[0].is_dir() and not inside[0].is_symlink() else None
