"""Opening DICOM files: whatever the operating system or pydicom raises leaves as one of our errors."""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from voxtract.errors import DamagedFile, InvalidInput, NotFound, UnreadableFile

MARK = b"DICM"  # behind a preamble of 128 bytes: PS3.10, 7.1
HEAD = 132

# What pydicom raises on bytes that are no DICOM, or no longer, beside its own two exceptions.
PARSING_FAULTS = (
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def need_pydicom(where: object) -> None:
    """Raise `InvalidInput` with the install line where pydicom is not installed."""
    if find_spec("pydicom") is None:
        raise InvalidInput(
            f"{where}: DICOM needs the package pydicom, which is not installed; pip install 'voxtract[dicom]'"
        )


@contextmanager
def opened(path: str | Path, buffering: int = -1) -> Iterator[BinaryIO]:
    """Open a regular file.

    Raises
    ------
    NotFound, UnreadableFile, InvalidInput
        No such file; the system does not hand it out; a folder, pipe or device.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise InvalidInput(f"{path}: is no plain file, but a DICOM file was expected")
        with path.open("rb", buffering=buffering) as file:
            yield file
    except (FileNotFoundError, NotADirectoryError) as fault:
        if isinstance(fault, NotFound):
            raise
        raise NotFound(f"{path}: no such file; check the spelling, or list the folder again") from fault
    except OSError as fault:
        if isinstance(fault, UnreadableFile):
            raise
        raise UnreadableFile(
            f"{path}: cannot be read: {fault.strerror or fault}; check permissions and disk"
        ) from fault
    except MemoryError as fault:
        raise UnreadableFile(f"{path}: its voxels do not fit into memory ({fault}); use a machine with more") from fault


@contextmanager
def parsing(where: str) -> Iterator[None]:
    """Map what pydicom raises while it takes a file apart.

    Raises
    ------
    DamagedFile
        The bytes contradict each other.
    """
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        yield
    except InvalidInput:
        raise
    except (BytesLengthException, InvalidDicomError, *PARSING_FAULTS) as fault:
        raise DamagedFile(
            f"{where}: cannot be taken apart as DICOM ({type(fault).__name__}: {fault}); copy or export the file again"
        ) from fault


def has_mark(path: str | Path) -> bool:
    """Whether a file begins as DICOM files do: 128 bytes, then ``DICM``; False for what cannot be opened."""
    try:
        with opened(path, buffering=0) as file:
            return file.read(HEAD)[-len(MARK) :] == MARK
    except (InvalidInput, NotFound, UnreadableFile):
        return False
