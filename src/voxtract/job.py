"""What happens to one case: its headers are checked, its volumes decoded once each, its files put in place together."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.backend import Backend
from voxtract.compute.choose import consecutive
from voxtract.compute.components import ComponentWords, find_components_in_chunks
from voxtract.compute.labels import stored_labels
from voxtract.compute.normalize import PixelRule, pixel_rule
from voxtract.compute.planes import slices_per_block
from voxtract.crew import Crew
from voxtract.errors import InvalidInput, VoxtractError
from voxtract.geometry import Plane, View
from voxtract.journal import Stamps, stamp, write_manifest
from voxtract.labelling import CaseMasks, described, seen_in, together
from voxtract.layout import SLAB, STREAMS, Layout, said_of
from voxtract.model import Case, ChunkedFile, Components, Findings, Header, Volume, VolumeFile
from voxtract.read.extraction import findings_name
from voxtract.report import PHASES, CaseResult
from voxtract.settings import Settings
from voxtract.write.annotations import Masks
from voxtract.write.files import Batch, Note, Staging
from voxtract.write.findings import encode_findings
from voxtract.write.images import Images

if TYPE_CHECKING:
    from numpy.typing import NDArray

AHEAD = 64 << 20  # bytes of images that may be cut while one that is to be written before them is not


def files(case: Case) -> tuple[VolumeFile, ...]:
    """All volumes of a case."""
    return (*(() if case.image is None else (case.image,)), *(volume.file for volume in case.labels))


def names(case: Case) -> tuple[str, ...]:
    """What messages call the files of a case."""
    return tuple(file.where for file in files(case))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case ended, and what the journal is told of it.

    Parameters
    ----------
    result : CaseResult
    stamps : list
        What the inputs were before they were read.
    manifest : Note, optional
        The list of its files, where they are noted.
    """

    result: CaseResult
    stamps: Stamps
    manifest: Note | None


@dataclass(frozen=True, slots=True)
class Job:
    """What a run does to each of its cases; called from many threads.

    Parameters
    ----------
    settings : Settings
    device : Backend
    crew : Crew
    staging : Staging
    noted : bool
        Note what a journal needs, and leave findings.
    """

    settings: Settings
    device: Backend
    crew: Crew
    staging: Staging
    noted: bool

    def do(self, case: Case, part: str | None) -> Outcome:
        """Do one case, of this part of the data set; its faults become a failed result, so that the others go on."""
        case = self.settings.needed(case)
        inputs = names(case)
        stamps = stamp(files(case)) if self.noted else []
        error: VoxtractError
        try:
            result, manifest = self._complete(case, part)
            return Outcome(result, stamps, manifest)
        except VoxtractError as why:
            error = why
        except MemoryError as why:
            error = InvalidInput(f"{inputs[0]}: not enough memory ({why}); use fewer workers or set a memory_limit")
            error.__cause__ = why
        return Outcome(CaseResult(case.id, "failed", inputs, error=error), stamps, None)

    def _complete(self, case: Case, part: str | None) -> tuple[CaseResult, Note | None]:
        """Make all files of a case and put them in place."""
        inputs, tally, manifest = names(case), _Tally(), None
        with self.staging.batch(noted=self.noted) as batch:
            found, nbytes = self._made(_Work(case, part, self, batch, tally)) if inputs else ([], 0)
            if self.noted:
                batch.write(findings_name(case.id), encode_findings(found))
                manifest = write_manifest(batch, case.id)
        result = CaseResult(
            case.id, "done", inputs, tally.slices, tally.annotations, tally.seconds, nbytes, tuple(tally.files), part
        )
        return result, manifest

    def _made(self, work: _Work) -> tuple[list[Findings], int]:
        """Write images and annotations of a case; its findings, and the bytes of voxels that were read."""
        case = work.case
        with work.tally.phase("read"):
            layout = Layout.of(case, self.settings)
        with self.crew.memory(names(case)[0], layout.memory(self.crew.limit), STREAMS):
            layout, rows = work.annotate(layout) if case.labels else (layout, {})
            found = [work.findings(plane, layout, rows.get(plane.view)) for plane in layout.planes]
            if case.image is not None and layout.image is not None:
                with said_of(case.image.where):
                    work.slice(case.image, layout.image, layout, found)
        headers = layout.labels if layout.image is None else (layout.image, *layout.labels)
        return found, sum(header.nbytes for header in headers)


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

    case: Case
    part: str | None
    job: Job
    batch: Batch
    tally: _Tally

    def annotate(self, layout: Layout) -> tuple[Layout, dict[View, Components]]:
        """Find the components of all planes and write them; the layout may become narrower by a crop."""
        settings, case = self.job.settings, self.case
        held: list[NDArray[Any]] = []
        if layout.labels_together:
            held = [voxels for number in range(len(case.labels)) for _, voxels in self._labels(number, layout)]
            if settings.crop == "foreground":
                frame = layout.frame.cropped_to_foreground(held, case.labels[0].file.where)
                layout = layout.with_frame(frame, settings)
                held = held if frame.crop is None else list(map(frame.crop.array, held))
        parts: dict[View, list[Components]] = {plane.view: [] for plane in layout.planes}
        for number, volume in enumerate(case.labels):
            planes = [plane for plane in layout.planes if seen_in(volume, plane, layout.frame)]
            with said_of(volume.file.where):
                if isinstance(volume.file, ChunkedFile) and layout.chunked[number]:
                    found = self._found_in_chunks(volume.file, layout.labels[number], planes)
                else:
                    found = self._found([(0, held[number])] if held else self._labels(number, layout), planes)
                for plane, rows in found:
                    rows = described(rows, case.labels, number, plane, layout.frame)
                    parts[plane.view].append(settings.keep(rows))
        rows_of: dict[View, Components] = {}
        with said_of(case.labels[0].file.where):
            for plane in layout.planes:
                rows = together(parts[plane.view], plane) if parts[plane.view] else Components.none()
                rows_of[plane.view] = rows = self._on_chosen_slices(plane, rows)
                masks = CaseMasks(held, plane, rows, settings.connectivity) if settings.masks else None
                self._write_annotations(self.findings(plane, layout, rows), masks)
        return layout, rows_of

    def _labels(self, number: int, layout: Layout) -> Iterator[tuple[int, NDArray[Any]]]:
        """Label volume `number` as integers, taken through the frame, in pieces along z."""
        file, header = self.case.labels[number].file, layout.labels[number]
        for first, voxels in self._pieces(file, header, slabs=layout.labels_slabs):
            with self.tally.phase("compute"):
                labels = layout.frame.labels(stored_labels(Volume(header, voxels), self.job.settings.threshold))
            yield first, labels

    def _found(
        self, pieces: Iterable[tuple[int, NDArray[Any]]], planes: Sequence[Plane]
    ) -> Iterator[tuple[Plane, Components]]:
        """Rows of one label volume in each plane."""
        device = self.job.device
        parts: dict[View, list[Components]] = {plane.view: [] for plane in planes}
        for first, labels in pieces:
            with self.tally.phase("compute"):
                data = device.to_device(labels)

            def find(plane: Plane, data: Any = data, first: int = first) -> None:
                with self.tally.phase("compute"):
                    rows = device.find_components(data, plane.view, **self._words)
                    parts[plane.view].append(rows.moved(first))

            self.job.crew.share(find, planes)
        return ((plane, Components.join(parts[plane.view])) for plane in planes)

    def _found_in_chunks(
        self, file: ChunkedFile, header: Header, planes: Sequence[Plane]
    ) -> Iterator[tuple[Plane, Components]]:
        """Rows of a label volume of which only chunks are stored; each view goes through them once."""
        for plane in planes:
            with self.tally.phase("compute"):
                rows = find_components_in_chunks(
                    file.layers(), header.grid.shape, header.dtype, plane.view, **self._words
                )
            yield plane, rows

    @property
    def _words(self) -> ComponentWords:
        """What to find in label volumes."""
        settings = self.job.settings
        return {
            "extent": settings.extent,
            "connectivity": settings.connectivity,
            "objects": settings.objects,
            "mass": settings.center == "mass",
        }

    def findings(self, plane: Plane, layout: Layout, rows: Components | None) -> Findings:
        """What was found in a plane; `rows` are None for a case without labels."""
        settings = self.job.settings
        folder = settings.folder(self.case.id, plane.view, self.part)
        known = Components.none() if rows is None else rows
        objects = tuple(volume.objects for volume in self.case.labels)
        return Findings(
            self.case.id,
            plane,
            layout.frame.grid,
            known,
            settings.extent,
            self._chosen(plane, known),
            f"{folder}/{self.case.id}_{plane.view}_",
            settings.image_writer.suffix if layout.image is not None and settings.images else "",
            rows is not None,
            self.part,
            objects if any(objects) else (),
        )

    def slice(self, file: VolumeFile, header: Header, layout: Layout, found: Sequence[Findings]) -> None:
        """Cut the chosen slices of all planes and write them."""
        settings, device = self.job.settings, self.job.device
        rule = None
        images: list[Images] = []
        for first, voxels in self._pieces(file, header, slabs=layout.image_slabs):
            with self.tally.phase("compute"):
                framed = layout.frame.image(voxels, settings.interpolation)
                data = device.to_device(framed)
                rule = rule or pixel_rule(
                    header if framed.dtype == header.dtype else replace(header, dtype=framed.dtype),
                    dtype=settings.dtype,
                    normalization=settings.normalization,
                    pad_value=settings.pad_value,
                    statistics=None if layout.image_slabs else device.statistics(data),
                )
            if not images:
                with self.tally.phase("write"):
                    begin = settings.image_writer.begin
                    images = [begin(one, rule.dtype, rule.pad_value, self.batch) for one in found]
            for one, its_images in zip(found, images, strict=True):
                self._write_slices(data, replace(one.plane, shape=framed.shape), first, rule, its_images, one)
        with self.tally.phase("write"):
            for its_images in images:
                self.tally.files += its_images.finish()
        self.tally.slices.update({one.plane.view: len(one.slices) for one in found})

    def _chosen(self, plane: Plane, rows: Components) -> NDArray[np.int64]:
        """Slices that are taken; those of 3D components reach from their first to their last."""
        axis = plane.axes[2]
        first, last = rows.start[:, axis], rows.stop[:, axis]
        if self.job.settings.extent == "slice":
            return self.job.settings.choice.take(plane.count, first)
        covered = np.zeros(plane.count + 1, np.int64)
        np.add.at(covered, first, 1)
        np.add.at(covered, last, -1)
        return self.job.settings.choice.take(plane.count, np.flatnonzero(covered.cumsum()[:-1]))

    def _on_chosen_slices(self, plane: Plane, rows: Components) -> Components:
        """Rows that lie in slices that are taken; 3D components all stay."""
        if self.job.settings.slices in ("all", "annotated") or self.job.settings.extent == "volume":
            return rows
        return rows.select(np.isin(rows.start[:, plane.axes[2]], self._chosen(plane, rows)))

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

    def _write_slices(
        self, data: Any, piece: Plane, first: int, rule: PixelRule, images: Images, found: Findings
    ) -> None:
        """Write the chosen slices of a piece whose first one has the index `first`."""
        begin, end = np.searchsorted(found.slices, (first, first + piece.count))
        chosen = found.slices[begin:end]

        def write(block: tuple[int, int]) -> None:
            with self.tally.phase("compute"):
                cut = self.job.device.cut(data, piece, *block, rule)
            with self.tally.phase("write"):
                for index, image in zip(range(*block), cut, strict=True):
                    images.write(first + index, image)

        blocks = consecutive(chosen - first, slices_per_block(data, piece, rule.dtype))
        at_once = max(1, len(blocks))
        if images.in_order:
            longest = max((end - begin for begin, end in blocks), default=1)
            at_once = max(2, AHEAD // (longest * math.prod(piece.size) * rule.dtype.itemsize))
        for k in range(0, len(blocks), at_once):
            self.job.crew.share(write, blocks[k : k + at_once])

    def _write_annotations(self, found: Findings, masks: Masks | None) -> None:
        with self.tally.phase("write"):
            for writer in self.job.settings.formats:
                for name, content in writer.case_files(found, masks):
                    self.batch.write(name, content)
                    self.tally.files.append(name)
        self.tally.annotations[found.plane.view] = len(found.rows)
