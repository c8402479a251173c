"""What happens to one case: its headers are checked, its volumes decoded once each, its files put in place together."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.backend import Backend
from voxtract.compute.choose import consecutive
from voxtract.compute.labels import stored_labels
from voxtract.compute.masks import SliceMasks
from voxtract.compute.normalize import PixelRule, pixel_rule
from voxtract.compute.planes import slices_per_block
from voxtract.crew import Crew
from voxtract.errors import InvalidInput, VoxtractError
from voxtract.geometry import Plane, View
from voxtract.journal import Journal, stamp
from voxtract.layout import SLAB, Layout, said_of
from voxtract.model import Case, Components, Findings, Header, Volume, VolumeFile
from voxtract.progress import Progress
from voxtract.read.extraction import findings_name
from voxtract.report import PHASES, CaseResult
from voxtract.settings import Settings
from voxtract.write import ImageFormat, image_format
from voxtract.write.files import Batch, Staging
from voxtract.write.findings import encode_findings

if TYPE_CHECKING:
    from numpy.typing import NDArray


def used(case: Case, settings: Settings) -> tuple[VolumeFile | None, VolumeFile | None]:
    """Image and labels of a case, as far as the settings ask for them."""
    return case.image if settings.images else None, case.labels if settings.needs_labels else None


def names(image: VolumeFile | None, labels: VolumeFile | None) -> tuple[str, ...]:
    """What messages call the files of a case."""
    return tuple(file.where for file in (image, labels) if file is not None)


@dataclass(frozen=True, slots=True)
class Job:
    """What a run does to each of its cases; called from many threads.

    `parts` says which part of the data set each case belongs to, where it is split.
    """

    settings: Settings
    device: Backend
    crew: Crew
    staging: Staging
    journal: Journal | None
    bar: Progress
    keep_files: bool
    parts: Mapping[str, str]

    def attempt(self, case: Case) -> CaseResult:
        """Do one case; its faults become a failed result, so that the others go on."""
        image, labels = used(case, self.settings)
        inputs = names(image, labels)
        part = self.parts.get(case.id)
        stamps = stamp(image, labels) if self.journal is not None else []
        if self.journal is not None and (earlier := self.journal.result(case.id, inputs, stamps, part)):
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
        part = self.parts.get(case_id)
        if not inputs:
            return CaseResult(case_id, "done", split=part)
        tally = _Tally()
        with tally.phase("read"):
            layout = Layout.of(image, labels, self.settings)
        with self.crew.memory(inputs[0], layout.memory), self.staging.batch() as batch:
            work = _Work(case_id, part, self, batch, tally)
            layout, rows = work.annotate(labels, layout) if labels is not None else (layout, {})
            found = [work.findings(plane, layout, rows.get(plane.view)) for plane in layout.planes]
            if image is not None and layout.image is not None:
                with said_of(image.where):
                    work.slice(image, layout.image, layout, found)
            if self.journal is not None:
                batch.write(findings_name(case_id), encode_findings(found))
        nbytes = sum(header.nbytes for header in (layout.image, layout.labels) if header is not None)
        return CaseResult(
            case_id, "done", inputs, tally.slices, tally.annotations, tally.seconds, nbytes, tuple(tally.files), part
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
    part: str | None
    job: Job
    batch: Batch
    tally: _Tally

    def annotate(self, file: VolumeFile, layout: Layout) -> tuple[Layout, dict[View, Components]]:
        """Find the components of all planes and write them; the layout may become narrower by a crop."""
        settings, device = self.job.settings, self.job.device
        if layout.labels is None:
            raise TypeError("labels without a header")
        parts: dict[View, list[Components]] = {view: [] for view in settings.views}
        labels: NDArray[Any] | None = None
        for first, voxels in self._pieces(file, layout.labels, slabs=layout.labels_slabs):
            with self.tally.phase("compute"):
                labels = layout.frame.labels(stored_labels(Volume(layout.labels, voxels), settings.threshold))
                if settings.crop == "foreground":
                    layout = layout.with_frame(layout.frame.cropped_to_foreground(labels, file.where), settings)
                    labels = labels if layout.frame.crop is None else layout.frame.crop.array(labels)
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
                    parts[plane.view].append(settings.keep(rows).moved(first))

            self.job.crew.share(find, layout.planes)
        rows: dict[View, Components] = {}
        with said_of(file.where):
            for plane in layout.planes:
                rows[plane.view] = self._on_chosen_slices(plane, Components.join(parts[plane.view]))
                found = self.findings(plane, layout, rows[plane.view])
                self._write_annotations(found, labels if settings.masks else None)
        return layout, rows

    def findings(self, plane: Plane, layout: Layout, rows: Components | None) -> Findings:
        """What was found in a plane; `rows` are None for a case without labels."""
        settings = self.job.settings
        folder = settings.folder(self.case_id, plane.view, self.part)
        known = Components.none() if rows is None else rows
        return Findings(
            self.case_id,
            plane,
            layout.frame.grid,
            known,
            settings.extent,
            self._chosen(plane, known),
            f"{folder}/{self.case_id}_{plane.view}_",
            image_format(settings.images).suffix if layout.image is not None and settings.images else "",
            rows is not None,
            self.part,
        )

    def slice(self, file: VolumeFile, header: Header, layout: Layout, found: Sequence[Findings]) -> None:
        """Cut the chosen slices of all planes and write them."""
        settings, device = self.job.settings, self.job.device
        writer = image_format(settings.images or "tiff", settings.compression)
        rule = None
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
            for one in found:
                self._write_slices(data, replace(one.plane, shape=framed.shape), first, rule, writer, one)
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
        self, data: Any, piece: Plane, first: int, rule: PixelRule, writer: ImageFormat, found: Findings
    ) -> None:
        """Write the chosen slices of a piece whose first one has the index `first`."""
        spacing_mm = piece.pixel_spacing_mm(found.grid.spacing_mm)
        begin, end = np.searchsorted(found.slices, (first, first + piece.count))
        chosen = found.slices[begin:end]

        def write(block: tuple[int, int]) -> None:
            with self.tally.phase("compute"):
                images = self.job.device.cut(data, piece, *block, rule)
            with self.tally.phase("write"):
                for index, image in zip(range(*block), images, strict=True):
                    self.batch.write(found.name(first + index), writer.encode(image, spacing_mm))

        self.job.crew.share(write, consecutive(chosen - first, slices_per_block(data, piece, rule.dtype)))
        self.tally.files += map(found.name, chosen.tolist())

    def _write_annotations(self, found: Findings, labels: NDArray[Any] | None) -> None:
        settings = self.job.settings
        masks = None
        if labels is not None:
            masks = SliceMasks(labels, found.plane, found.rows, settings.connectivity)
        with self.tally.phase("write"):
            for writer in settings.formats:
                for name, content in writer.case_files(found, masks):
                    self.batch.write(name, content)
                    self.tally.files.append(name)
        self.tally.annotations[found.plane.view] = len(found.rows)
