"""Read -> compute -> write for many cases; knows no format and no device.

Each case is one task of the crew. It reads its headers, waits until its memory is granted, decodes labels and image
once each, and makes all views from them. Outputs depend on the settings and the inputs alone: never on the number
of workers or on who came first.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from voxtract.backend import Backend, select
from voxtract.compute.labels import stored_labels
from voxtract.compute.normalize import PixelRule, pixel_rule
from voxtract.compute.planes import slices_per_block
from voxtract.crew import Crew, default_memory_limit, default_workers
from voxtract.errors import InvalidInput, VoxtractError
from voxtract.geometry import Grid, Plane, Reorientation, View
from voxtract.journal import Journal
from voxtract.model import Case, Components, Header, Source, VolumeFile
from voxtract.progress import Progress
from voxtract.read import open_source
from voxtract.report import PHASES, CaseResult, Report
from voxtract.settings import AnnotationOptions, ImageOptions, Settings
from voxtract.write import ImageFormat, image_format
from voxtract.write.files import Staging
from voxtract.write.tables import slice_texts, volume_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCRATCH = 64 << 20  # bytes a case needs beside its voxels: blocks of slices, runs, text


class ExtractOptions(ImageOptions, AnnotationOptions, total=False):
    """Keywords of :func:`extract` that shape the outputs; `voxtract.settings.Settings` describes them."""

    saving_mode: Literal["case", "view", "flat"]
    pad_value: float
    extraction_mode: Literal["slice", "volume"]
    data_mode: Literal["center", "box", "radius"]
    allow_affine_mismatch: bool


def extract(
    source: Source | str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    views: Sequence[View] = ("axial",),
    *,
    annotations: Literal["csv"] | None = "csv",
    target_size: tuple[int, int] | None = None,
    backend: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int | None = None,
    memory_limit: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
    **options: Unpack[ExtractOptions],
) -> Report:
    """Turn every case of a source into slice images and annotations.

    Each volume is decoded once and serves all views. ``<case>_<view>_000.tif`` and ``<case>_<view>_000.csv`` lie side
    by side in ``<output_path>/<case>/<view>/``. A case that fails is named in the log and in the report; the outputs
    of the others are complete.

    Parameters
    ----------
    source : Source or path
        What :func:`voxtract.open_source` returns, or a path for it.
    output_path : path
        Folder to write to; made where it is missing.
    views : sequence of {"axial", "coronal", "sagittal"}
    annotations : {"csv"}, optional
        Written for cases with labels; None writes none.
    target_size : (height, width), optional
        Pixels of the image; slices are padded to it and coordinates follow.
    backend : {"auto", "cpu", "cuda"}
        Device that computes; the results are the same.
    workers : int, optional
        Threads; by default the cores this process may use.
    memory_limit : int, optional
        Bytes for all volumes in memory together; by default half of the machine's memory.
    resume : bool
        Go on with the run that was interrupted in `output_path`: complete cases with unchanged inputs stay.
    overwrite : bool
        Replace the output of an earlier run; files of other names stay.
    progress : bool, optional
        Draw a bar on stderr; by default where that is a terminal.
    **options
        The other words of :class:`voxtract.settings.Settings`.

    Returns
    -------
    Report

    Raises
    ------
    NotFound, InvalidInput
        The source is not there or is not recognised; a word is not allowed; the output folder holds an earlier run;
        two cases share an id. Nothing has been written then.
    BackendUnavailable
        The device asked for cannot be had.
    OutputError
        The output folder cannot be written.
    """
    settings = Settings(views=views, annotations=annotations, target_size=target_size, **options)
    return extract_source(
        open_source(source) if isinstance(source, str | os.PathLike) else source,
        Path(output_path),
        settings,
        backend=backend,
        workers=workers,
        memory_limit=memory_limit,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
    )


def extract_source(
    source: Source,
    output: Path,
    settings: Settings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    backend: str = "auto",
    workers: int | None = None,
    memory_limit: int | None = None,
    progress: bool | None = None,
) -> Report:
    """Run `settings` over an open source with a journal; see :func:`extract`."""
    check_cases(source, settings)
    journal = Journal(output, settings.to_dict(), resume=resume, overwrite=overwrite)
    return run(
        source,
        output,
        settings,
        backend=backend,
        workers=workers,
        memory_limit=memory_limit,
        journal=journal,
        progress=progress,
    )


def run(
    source: Source,
    output: Path,
    settings: Settings,
    *,
    backend: str = "auto",
    workers: int | None = None,
    memory_limit: int | None = None,
    journal: Journal | None = None,
    progress: bool | None = None,
    title: str = "extract",
    keep_files: bool = False,
) -> Report:
    """Work through all cases of `source`; see :func:`extract`.

    Parameters
    ----------
    journal : Journal, optional
        Cases it holds are not done again; finished ones are added.
    title : str
        Word before the progress bar.
    keep_files : bool
        List in each result the files it wrote.
    """
    begin = time.perf_counter()
    check_cases(source, settings)
    workers = default_workers() if workers is None else workers
    if workers < 1:
        raise InvalidInput(f"workers {workers} must be at least 1")
    device = select(backend)
    writer = image_format(settings.images, settings.compression) if settings.images else None
    crew = Crew(workers, default_memory_limit() if memory_limit is None else memory_limit)
    with Staging(output) as staging, Progress(len(source.cases), title, show=progress) as bar:
        job = _Job(settings, device, crew, staging, journal, bar, writer, keep_files)
        results = crew.each(job.attempt, source.cases)
    if journal is not None:
        journal.finish(case.id for case in source.cases)
    seconds = time.perf_counter() - begin
    return Report(str(output), device.name, workers, tuple(results), tuple(source.skipped), seconds)


def plan(source: Source, output: Path, settings: Settings) -> Report:
    """Say what :func:`run` would make of each case, from the headers alone; nothing is written."""
    check_cases(source, settings)
    results = []
    for case in source.cases:
        image, labels = _used(case, settings)
        inputs = _names(image, labels)
        try:
            layout = _Layout.of(image, labels, settings)
        except VoxtractError as error:
            results.append(CaseResult(case.id, "failed", inputs, error=error))
        else:
            slices: dict[str, int] = {plane.view: plane.count for plane in layout.planes} if image else {}
            results.append(CaseResult(case.id, "planned", inputs, slices))
    return Report(str(output), "none", 0, tuple(results), tuple(source.skipped))


def check_cases(source: Source, settings: Settings) -> None:
    """Refuse a source whose cases would overwrite each other, or that has nothing that was asked for.

    Raises
    ------
    InvalidInput
    """
    seen: dict[str, Case] = {}
    for case in source.cases:
        if case.id in seen:
            both = " and ".join(" + ".join(_names(c.image, c.labels)) for c in (seen[case.id], case))
            raise InvalidInput(f"{both} have the same case id {case.id!r}; rename one, or extract them separately")
        if not case.id or case.id in (".", "..") or any(c in case.id for c in ("/", "\0", os.sep)):
            raise InvalidInput(f"case id {case.id!r} cannot be the name of a folder")
        seen[case.id] = case
    if not any(any(_used(case, settings)) for case in source.cases):
        raise InvalidInput(
            f"{source.description}: nothing to do: images={settings.images!r} and annotations={settings.annotations!r} "
            "leave out all that the source has; ask for one that it has"
        )


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the volumes of one case lie, known from their headers."""

    headers: tuple[Header, ...]
    grid: Grid
    turn: Reorientation | None
    planes: tuple[Plane, ...]

    @classmethod
    def of(cls, image: VolumeFile | None, labels: VolumeFile | None, settings: Settings) -> _Layout:
        headers = tuple(file.header() for file in (image, labels) if file is not None)
        if len(headers) == 2:
            _check_pair(*headers, affine=not settings.allow_affine_mismatch)
        place = headers[0]  # the image, where there is one, says where the case lies
        try:
            turn = None if settings.reorient is None else Reorientation.between(place.grid, settings.reorient)
            grid = place.grid if turn is None else turn.grid(place.grid)
            planes = tuple(Plane(view, grid.shape, settings.target_size) for view in settings.views)
        except InvalidInput as why:
            raise InvalidInput(f"{place.where}: {why}") from why
        return cls(headers, grid, turn, planes)

    @property
    def memory(self) -> int:
        """Bytes that the case holds at most: one volume at a time, and room to work."""
        return SCRATCH + max(header.nbytes for header in self.headers)

    def turned(self, data: NDArray[Any]) -> NDArray[Any]:
        """View voxels as stored in the order of `grid`."""
        return data if self.turn is None else self.turn.array(data)


@dataclass(slots=True)
class _Tally:
    """What a case has produced so far; filled by the threads that share it."""

    slices: dict[str, int] = field(default_factory=dict)
    annotations: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    files: list[str] = field(default_factory=list)
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
class _Job:
    """What happens to each case of a run; called from many threads."""

    settings: Settings
    device: Backend
    crew: Crew
    staging: Staging
    journal: Journal | None
    bar: Progress
    writer: ImageFormat | None
    keep_files: bool

    def attempt(self, case: Case) -> CaseResult:
        """Do one case; its faults become a failed result, so that the others go on."""
        image, labels = _used(case, self.settings)
        inputs = _names(image, labels)
        if self.journal is not None and (earlier := self.journal.result(case.id, inputs)):
            self.bar.end()
            return earlier
        self.bar.begin(Path(inputs[0]).name if inputs else case.id)
        error: VoxtractError
        try:
            result = self._complete(case.id, image, labels)
            if self.journal is not None:
                self.journal.add(result)
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
        if image is None and labels is None:
            return CaseResult(case_id, "done")
        tally = _Tally()
        with tally.phase("read"):
            layout = _Layout.of(image, labels, self.settings)
        inputs = _names(image, labels)
        with self.crew.memory(inputs[0], layout.memory):
            # components are small: held until the image has been read too, so that a damaged file leaves nothing behind
            found = [] if labels is None else self._find(labels, layout, tally)
            if image is not None:
                self._write_images(case_id, image, layout, tally)
        for plane, rows in zip(layout.planes, found, strict=False):
            self._write_rows(case_id, plane, rows, tally)
        nbytes = sum(header.nbytes for header in layout.headers)
        files = tuple(tally.files) if self.keep_files else ()
        return CaseResult(case_id, "done", inputs, tally.slices, tally.annotations, tally.seconds, nbytes, files)

    def _find(self, labels: VolumeFile, layout: _Layout, tally: _Tally) -> list[Components]:
        """Components of each plane, in the order of the planes."""
        with tally.phase("read"):
            volume = labels.read()
        with tally.phase("compute"):
            data = self.device.to_device(layout.turned(stored_labels(volume, self.settings.threshold)))
        del volume
        found: dict[View, Components] = {}

        def find(plane: Plane) -> None:
            with tally.phase("compute"):
                rows = self.device.find_components(
                    data,
                    plane.view,
                    extent=self.settings.extent,
                    connectivity=self.settings.connectivity,
                    objects=self.settings.objects,
                    mass=self.settings.center == "mass",
                )
                found[plane.view] = self.settings.keep(rows)

        self.crew.share(find, layout.planes)
        return [found[plane.view] for plane in layout.planes]

    def _write_images(self, case_id: str, image: VolumeFile, layout: _Layout, tally: _Tally) -> None:
        with tally.phase("read"):
            volume = image.read()
        with tally.phase("compute"):
            data = self.device.to_device(layout.turned(volume.data))
            rule = pixel_rule(
                volume.header,
                dtype=self.settings.dtype,
                normalization=self.settings.normalization,
                pad_value=self.settings.pad_value,
                statistics=self.device.statistics(data),
            )
        del volume
        for plane in layout.planes:
            self._write_plane(case_id, data, plane, rule, layout.grid.spacing_mm, tally)

    def _write_plane(
        self,
        case_id: str,
        data: Any,
        plane: Plane,
        rule: PixelRule,
        spacing_mm: tuple[float, float, float],
        tally: _Tally,
    ) -> None:
        writer = self.writer
        if writer is None:
            return
        spacing = plane.pixel_spacing_mm(spacing_mm)
        stem = f"{self.settings.folder(case_id, plane.view)}/{case_id}_{plane.view}_"
        names = [f"{stem}{index:03d}{writer.suffix}" for index in range(plane.count)]
        step = slices_per_block(data, plane, rule.dtype)

        def write(first: int) -> None:
            last = min(first + step, plane.count)
            with tally.phase("compute"):
                images = self.device.cut(data, plane, first, last, rule)
            with tally.phase("write"):
                for name, image in zip(names[first:last], images, strict=True):
                    self.staging.write(name, writer.encode(image, spacing))

        self.crew.share(write, range(0, plane.count, step))
        tally.files += names
        tally.slices[plane.view] = plane.count

    def _write_rows(self, case_id: str, plane: Plane, rows: Components, tally: _Tally) -> None:
        settings = self.settings
        folder = settings.folder(case_id, plane.view)
        with tally.phase("write"):
            if settings.extraction_mode == "volume":
                texts = {f"{folder}/{case_id}.csv": volume_text(rows, plane, settings.columns)}
            else:
                texts = {
                    f"{folder}/{case_id}_{plane.view}_{index:0{settings.index_width}d}.csv": text
                    for index, text in slice_texts(rows, plane, settings.columns, skip_empty=settings.skip_empty)
                }
            for name, text in texts.items():
                self.staging.write(name, text)
        tally.files += texts
        tally.annotations[plane.view] = len(rows)


def _used(case: Case, settings: Settings) -> tuple[VolumeFile | None, VolumeFile | None]:
    """Image and labels of a case, as far as the settings ask for them."""
    return case.image if settings.images else None, case.labels if settings.annotations else None


def _names(image: VolumeFile | None, labels: VolumeFile | None) -> tuple[str, ...]:
    return tuple(file.where for file in (image, labels) if file is not None)


def _check_pair(image: Header, labels: Header, *, affine: bool) -> None:
    mismatch = image.grid.mismatch(labels.grid)
    if mismatch is None or (not affine and not mismatch.startswith("shape")):
        return
    advice = "export both from the same series"
    if mismatch.startswith("affine"):
        advice += ", or pass allow_affine_mismatch=True (--allow-affine-mismatch) where the voxels do correspond"
    raise InvalidInput(f"{labels.where}: does not lie on its image {image.where}: {mismatch}; {advice}")
