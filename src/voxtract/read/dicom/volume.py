"""One volume of a DICOM series: its header from the headers of its files, its voxels when they are asked for."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from voxtract.errors import InvalidInput, NotFound, UnreadableFile, VoxtractError
from voxtract.geometry import Grid
from voxtract.model import Header, Volume
from voxtract.read.dicom.frames import Frame
from voxtract.read.dicom.geometry import Stack, arrange
from voxtract.read.dicom.pixels import Values, fill

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class DicomVolume:
    """A volume of a DICOM series; see `voxtract.model.VolumeFile`.

    Parameters
    ----------
    where : str
        The file, or the folder of the series, as messages name it.
    frames : (Frame, ...)
        All frames of the series, in any order, as their headers described them when the source was opened.
    volume_index : int, optional
        Which volume, 0-based, where there are several at one place (4D).
    """

    where: str
    frames: tuple[Frame, ...]
    volume_index: int | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """All files of the series, sorted."""
        return tuple(sorted({frame.path for frame in self.frames}))

    def header(self) -> Header:
        """Sort the slices and say where they lie; no file is opened.

        Returns
        -------
        Header
            Shape (columns, rows, slices), affine in RAS+ mm. Stored dtype, with slope and intercept, where one scaling
            holds for all slices; else int32 or float32, to which the scaling of each slice has been applied.

        Raises
        ------
        InvalidInput
            The files are no volume; see `voxtract.read.dicom.geometry.arrange`.
        NotFound, UnreadableFile
            One of the files is gone.
        """
        return self._layout()[2]

    def read(self) -> Volume:
        """Read all voxels, several files at once.

        Returns
        -------
        Volume
            Its data are (x, y, z), Fortran-ordered, native byte order.

        Raises
        ------
        NotFound, UnreadableFile, InvalidInput
            As `header`; also where no decoder for the pixels is installed.
        DamagedFile
            Pixels that are cut short or do not decode.
        """
        stack, values, header = self._layout()
        data = _room(header, header.grid.shape[2])
        with _said_of(self.where):
            fill(stack.frames, values, data)
        return Volume(header, data)

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        """Read the voxels slab by slab along z; only the files of a slab are opened for it.

        Parameters
        ----------
        planes : int
            Planes (x, y) of a slab; the last may have fewer.

        Yields
        ------
        (x, y, n) array, as the data of `read`
            The next one may overwrite it.

        Raises
        ------
        NotFound, UnreadableFile, DamagedFile, InvalidInput
            As `read`.
        """
        stack, values, header = self._layout()
        count = header.grid.shape[2]
        room = _room(header, min(planes, count))
        for first in range(0, count, planes):
            frames = stack.frames[first : first + planes]
            slab = room[:, :, : len(frames)]
            with _said_of(self.where):
                fill(frames, values, slab)
            yield slab

    def frame_order(self, by: Literal["instance", "stored"]) -> tuple[int, ...]:
        """Count the slices as other tools may, which do not look at positions.

        Parameters
        ----------
        by : {"instance", "stored"}
            By the instance numbers of their files, and within a file as they are stored; or as they are stored in the
            one file that holds them all.

        Returns
        -------
        (slice index along z, ...)
            Of the first slice so counted, the second, and so on.

        Raises
        ------
        InvalidInput
            The files are no volume, or one of several; instance numbers that are missing or there twice; slices in
            several files, which have no order among them.
        """
        frames = arrange(self.frames, self.volume_index, self.where).frames
        use = "use slice_order position+ or position-"
        if len(frames) < len(self.frames):
            raise InvalidInput(
                f"{self.where}: holds several volumes, and it is not known how their slices are counted together; {use}"
            )
        files = {frame.path: frame.instance for frame in frames}
        if by == "stored" and len(files) > 1:
            raise InvalidInput(
                f"{self.where}: its slices lie in {len(files)} files, which are not stored in an order; {use}, or "
                "instance"
            )
        if len(files) > 1 and (None in files.values() or len(set(files.values())) < len(files)):
            raise InvalidInput(
                f"{self.where}: its {len(files)} files have {len(set(files.values()) - {None})} different instance "
                f"numbers, so that these give no order; {use}"
            )
        return tuple(sorted(range(len(frames)), key=lambda z: (frames[z].instance or 0, frames[z].number)))

    def _layout(self) -> tuple[Stack, Values, Header]:
        stack = arrange(self.frames, self.volume_index, self.where)
        with _said_of(self.where):
            _check_present(stack.frames)
        values = Values.of(stack.frames)
        encoding = stack.frames[0].encoding
        grid = Grid((encoding.columns, encoding.rows, len(stack.frames)), stack.affine)
        return stack, values, Header(grid, values.dtype, values.slope, values.intercept, self.where)


def _room(header: Header, planes: int) -> NDArray[Any]:
    x, y, _ = header.grid.shape
    try:
        return np.empty((x, y, planes), header.dtype, order="F")
    except MemoryError as fault:
        raise UnreadableFile(
            f"{header.where}: its voxels do not fit into memory ({fault}); use a machine with more"
        ) from fault


def _check_present(frames: Sequence[Frame]) -> None:
    """Raise where a file that was listed is gone."""
    for path in dict.fromkeys(frame.path for frame in frames):
        try:
            Path(path).stat()
        except (FileNotFoundError, NotADirectoryError) as fault:
            raise NotFound(f"{path}: no such file; list the source again") from fault
        except OSError as fault:
            raise UnreadableFile(f"{path}: cannot be read: {fault.strerror}; check permissions and disk") from fault


@contextmanager
def _said_of(where: str) -> Iterator[None]:
    """Let what is raised name the volume, and then its file."""
    try:
        yield
    except VoxtractError as fault:
        if str(fault).startswith(f"{where}: "):
            raise
        raise type(fault)(f"{where}: {fault}") from fault
