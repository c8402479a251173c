"""What happens to one case: its headers are checked, its volumes decoded once each, its files put in place together."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxtract.backend import Backend
from voxtract.compute.labels import stored_labels
from voxtract.compute.normalize import PixelRule, pixel_rule
from voxtract.compute.planes import slices_per_block
from voxtract.crew import Crew
from voxtract.errors import InvalidInput, VoxtractError
from voxtract.geometry import Grid, Plane, Reorientation, View
from voxtract.journal import Journal, stamp
from voxtract.model import Case, Components, Header, Volume, VolumeFile
from voxtract.progress import Progress
from voxtract.report import PHASES, CaseResult
from voxtract.settings import Settings
from voxtract.write import ImageFormat, image_format
from voxtract.write.files import Batch, Staging
from voxtract.write.tables import slice_texts, volume_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCRATCH = 64 << 20  # bytes a case needs beside its voxels: blocks of slices, runs, text
SLAB = 4 << 20  # bytes of voxels at a time where the volume is not held; of 1 to 16 MiB all alike, 84 MB at once slower


def used(case: Case, settings: Settings) -> tuple[VolumeFile | None, VolumeFile | None]:
    """Image and labels of a case, as far as the settings ask for them."""
    return case.image if settings.images else None, case.labels if settings.annotations else None


def names(image: VolumeFile | None, labels: VolumeFile | None) -> tuple[str, ...]:
    """What messages call the files of a case."""
    return tuple(file.where for file in (image, labels) if file is not None)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the volumes of one case lie, known from their headers."""

    image: Header | None
    labels: Header | None
    grid: Grid
    turn: Reorientation | None
    planes: tuple[Plane, ...]
    image_slabs: bool  # the image can be worked on slab by slab, without holding the volume; the labels
    labels_slabs: bool

    @classmethod
    def of(cls, image: VolumeFile | None, labels: VolumeFile | None, settings: Settings) -> Layout:
        """Read the headers of a case that has an image, labels, or both.

        Raises
        ------
        VoxtractError
            A header cannot be read, the two do not share a grid, or a slice is larger than the target size.
        """
        image_header = None if image is None else image.header()
        labels_header = None if labels is None else labels.header()
        if image_header is not None and labels_header is not None:
            _check_pair(image_header, labels_header, affine=not settings.allow_affine_mismatch)
        place = image_header or labels_header  # the image, where there is one, says where the case lies
        if place is None:
            raise TypeError("a case without image and labels has no layout")
        with _said_of(place.where):
            turn = None if settings.reorient is None else Reorientation.between(place.grid, settings.reorient)
            grid = place.grid if turn is None else turn.grid(place.grid)
            planes = tuple(Plane(view, grid.shape, settings.target_size) for view in settings.views)
        along_z = turn is None and [plane.view for plane in planes] == ["axial"]
        return cls(
            image_header,
            labels_header,
            grid,
            turn,
            planes,
            image_slabs=along_z and not isinstance(settings.normalization, str),
            labels_slabs=along_z
            and settings.extent == "slice"
            and settings.threshold is None
            and _plain(labels_header),
        )

    @property
    def memory(self) -> int:
        """Bytes that the case holds at most: one volume at a time, and room to work."""
        need = 0
        if self.image is not None:
            need = SLAB if self.image_slabs else self.image.nbytes
        if self.labels is not None:
            whole = self.labels.nbytes
            if not _plain(self.labels):  # become integers of up to 8 bytes
                whole += self.labels.nbytes // self.labels.dtype.itemsize * 8
            need = max(need, SLAB if self.labels_slabs else whole)
        return SCRATCH + need


@dataclass(frozen=True, slots=True)
class Job:
    """What a run does to each of its cases; called from many threads."""

    settings: Settings
    device: Backend
    crew: Crew
    staging: Staging
    journal: Journal | None
    bar: Progress
    keep_files: bool

    def attempt(self, case: Case) -> CaseResult:
        """Do one case; its faults become a failed result, so that the others go on."""
        image, labels = used(case, self.settings)
        inputs = names(image, labels)
        stamps = stamp(image, labels) if self.journal is not None else []
        if self.journal is not None and (earlier := self.journal.result(case.id, inputs, stamps)):
            self.bar.end()
            return earlier
        self.bar.begin(Path(inputs[0]).name if inputs else case.id)
        error: VoxtractError
        try:
            result = self._complete(case.id, image, labels)
            if self.journal is not None:
                self.journal.add(result, stamps)
        except VoxtractError as why:
            error = why
        except MemoryError as why:
            error = InvalidInput(f"{inputs[0]}: not enough memory ({why}); use fewer workers or set a memory_limit")
            error.__cause__ = why
        else:
            self.bar.end()
            return result if self.keep_files else replace(result, files=())
        self.bar.end(error)
        return CaseResult(case.id, "failed", inputs, error=error)

    def _complete(self, case_id: str, image: VolumeFile | None, labels: VolumeFile | None) -> CaseResult:
        inputs = names(image, labels)
        if not inputs:
            return CaseResult(case_id, "done")
        tally = _Tally()
        with tally.phase("read"):
            layout = Layout.of(image, labels, self.settings)
        with self.crew.memory(inputs[0], layout.memory), self.staging.batch() as batch:
            work = _Work(case_id, self, layout, batch, tally)
            if labels is not None and layout.labels is not None:
                work.annotate(labels, layout.labels)
            if image is not None and layout.image is not None:
                with _said_of(image.where):
                    work.slice(image, layout.image)
        nbytes = sum(header.nbytes for header in (layout.image, layout.labels) if header is not None)
        return CaseResult(
            case_id, "done", inputs, tally.slices, tally.annotations, tally.seconds, nbytes, tuple(tally.files)
        )


@dataclass(slots=True)
class _Tally:
    """What a case has produced so far, and the time it took; filled by the threads that share it."""

    slices: dict[str, int] = field(default_factory=dict)
    annotations: dict[str, int] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block to phase `name`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            with self.lock:
                self.seconds[name] += time.perf_counter() - begin


@dataclass(frozen=True, slots=True)
class _Work:
    """One case under way."""

    case_id: str
    job: Job
    layout: Layout
    batch: Batch
    tally: _Tally

    def annotate(self, file: VolumeFile, header: Header) -> None:
        """Find the components of all planes and write their tables."""
        settings, device, planes = self.job.settings, self.job.device, self.layout.planes
        found: dict[View, list[Components]] = {plane.view: [] for plane in planes}
        for first, voxels in self._pieces(file, header, slabs=self.layout.labels_slabs):
            with self.tally.phase("compute"):
                labels = self._turned(stored_labels(Volume(header, voxels), settings.threshold))
                data = device.to_device(labels)

            def find(plane: Plane, data: Any = data, first: int = first) -> None:
                with self.tally.phase("compute"):
                    rows = device.find_components(
                        data,
                        plane.view,
                        extent=settings.extent,
                        connectivity=settings.connectivity,
                        objects=settings.objects,
                        mass=settings.center == "mass",
                    )
                    found[plane.view].append(settings.keep(rows).moved(first))

            self.job.crew.share(find, planes)
        for plane in planes:
            self._write_rows(plane, Components.join(found[plane.view]))

    def slice(self, file: VolumeFile, header: Header) -> None:
        """Cut the slices of all planes and write them."""
        settings, device = self.job.settings, self.job.device
        writer = image_format(settings.images or "tiff", settings.compression)
        rule = None
        for first, voxels in self._pieces(file, header, slabs=self.layout.image_slabs):
            with self.tally.phase("compute"):
                turned = self._turned(voxels)
                data = device.to_device(turned)
                rule = rule or pixel_rule(
                    header,
                    dtype=settings.dtype,
                    normalization=settings.normalization,
                    pad_value=settings.pad_value,
                    statistics=None if self.layout.image_slabs else device.statistics(data),
                )
            for plane in self.layout.planes:
                self._write_slices(data, replace(plane, shape=turned.shape), first, rule, writer)
        self.tally.slices.update({plane.view: plane.count for plane in self.layout.planes})

    def _pieces(self, file: VolumeFile, header: Header, *, slabs: bool) -> Iterator[tuple[int, NDArray[Any]]]:
        """Voxels as stored, whole or slab by slab along z, each with the index of its first plane."""
        if not slabs:
            with self.tally.phase("read"):
                volume = file.read()
            yield 0, volume.data
            return
        plane_bytes = header.nbytes // header.grid.shape[2]
        planes = max(1, SLAB // plane_bytes)
        first = 0
        with closing(file.slabs(planes)) as pieces:
            while True:
                with self.tally.phase("read"):
                    slab = next(pieces, None)
                if slab is None:
                    return
                yield first, slab
                first += slab.shape[2]

    def _turned(self, voxels: NDArray[Any]) -> NDArray[Any]:
        turn = self.layout.turn
        return voxels if turn is None else turn.array(voxels)

    def _write_slices(self, data: Any, piece: Plane, first: int, rule: PixelRule, writer: ImageFormat) -> None:
        """Write the slices of a piece whose first one has the index `first`."""
        spacing_mm = piece.pixel_spacing_mm(self.layout.grid.spacing_mm)
        folder = self.job.settings.folder(self.case_id, piece.view)
        stem = f"{folder}/{self.case_id}_{piece.view}_"
        files = [f"{stem}{first + index:03d}{writer.suffix}" for index in range(piece.count)]
        step = slices_per_block(data, piece, rule.dtype)

        def write(begin: int) -> None:
            end = min(begin + step, piece.count)
            with self.tally.phase("compute"):
                images = self.job.device.cut(data, piece, begin, end, rule)
            with self.tally.phase("write"):
                for name, image in zip(files[begin:end], images, strict=True):
                    self.batch.write(name, writer.encode(image, spacing_mm))

        self.job.crew.share(write, range(0, piece.count, step))
        self.tally.files += files

    def _write_rows(self, plane: Plane, rows: Components) -> None:
        settings = self.job.settings
        folder = settings.folder(self.case_id, plane.view)
        with self.tally.phase("write"):
            if settings.extraction_mode == "volume":
                texts = {f"{folder}/{self.case_id}.csv": volume_text(rows, plane, settings.columns)}
            else:
                stem = f"{folder}/{self.case_id}_{plane.view}_"
                texts = {
                    f"{stem}{index:0{settings.index_width}d}.csv": text
                    for index, text in slice_texts(rows, plane, settings.columns, skip_empty=settings.skip_empty)
                }
            for name, text in texts.items():
                self.batch.write(name, text)
        self.tally.files += texts
        self.tally.annotations[plane.view] = len(rows)


@contextmanager
def _said_of(where: str) -> Iterator[None]:
    """Let what speaks of no file, because it knows none, name this one."""
    try:
        yield
    except InvalidInput as why:
        if str(why).startswith(where):
            raise
        raise InvalidInput(f"{where}: {why}") from why


def _plain(labels: Header | None) -> bool:
    """Whether labels are taken as they are stored."""
    return labels is not None and labels.dtype.kind in "iu" and not labels.is_scaled


def _check_pair(image: Header, labels: Header, *, affine: bool) -> None:
    mismatch = image.grid.mismatch(labels.grid)
    if mismatch is None or (not affine and not mismatch.startswith("shape")):
        return
    advice = "export both from the same series"
    if mismatch.startswith("affine"):
        advice += ", or pass allow_affine_mismatch=True (--allow-affine-mismatch) where the voxels do correspond"
    raise InvalidInput(f"{labels.where}: does not lie on its image {image.where}: {mismatch}; {advice}")
