"""Read -> compute -> write for many cases; knows no format and no device.

Each case is one task of the crew (see job.py). Outputs depend on the settings and the inputs alone: never on the
number of workers or on who came first.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, Unpack

import numpy as np

from voxtract.backend import Backend, select
from voxtract.compute.labels import stored_labels
from voxtract.crew import Crew, default_memory_limit, default_workers
from voxtract.desk import Desk
from voxtract.errors import InvalidInput, OutputError, VoxtractError
from voxtract.geometry import Plane, View
from voxtract.job import Job, names
from voxtract.journal import Journal
from voxtract.labelling import categories
from voxtract.layout import Layout
from voxtract.model import Case, Source
from voxtract.progress import Progress
from voxtract.read import open_source
from voxtract.read.extraction import LEFT_OUT, open_extraction
from voxtract.report import CaseResult, Report
from voxtract.settings import OF_SLICES, AnnotationOptions, DataOptions, ImageOptions, Settings
from voxtract.splits import assign, fold_lists, folds, split_lists
from voxtract.storage import Place, Remote, place
from voxtract.write.files import Staging
from voxtract.write.remote import staging as staging_of

log = logging.getLogger("voxtract")


class ExtractOptions(ImageOptions, AnnotationOptions, DataOptions, total=False):
    """Keywords of :func:`extract` that shape the outputs; `voxtract.settings.Settings` describes them."""

    saving_mode: Literal["case", "view", "flat"]
    pad_value: float
    extraction_mode: Literal["slice", "volume"]
    data_mode: Literal["center", "box", "radius"]
    allow_affine_mismatch: bool


def extract(
    source: Source | str | os.PathLike[str] | Remote,
    output_path: str | os.PathLike[str] | Remote,
    views: Sequence[View] | None = None,
    *,
    images: Literal["tiff", "png", "webdataset", "zarr"] | None = "tiff",
    annotations: str | Sequence[str] | None = "csv",
    target_size: tuple[int, int] | None = None,
    backend: Literal["auto", "cpu", "cuda"] = "auto",
    device: int = 0,
    workers: int | None = None,
    memory_limit: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
    client: Any = None,
    **options: Unpack[ExtractOptions],
) -> Report:
    """Turn every case of a source into slice images and annotations.

    Each volume is decoded once and serves all views. ``<case>_<view>_000.tif`` and ``<case>_<view>_000.csv`` lie side
    by side in ``<output_path>/<case>/<view>/``. A case that fails is named in the log and in the report; the outputs
    of the others are complete.

    Parameters
    ----------
    source : Source, path or URL
        What :func:`voxtract.open_source` returns, or what it opens.
    output_path : path or URL
        Folder to write to; made where it is missing. At a URL the files of a case appear when they are all made.
    views : sequence of {"axial", "coronal", "sagittal"}, optional
        By default those that the source names for a case, else axial.
    images : {"tiff", "png", "webdataset", "zarr"}, optional
        Written for cases with an image; None writes none. "webdataset" writes shards of slices with their boxes, so
        annotations may be None, "zarr" an array of all slices.
    annotations : {"csv", "coco", "yolo", "voc", "parquet"} or several of them, optional
        Written for cases with labels; None writes none.
    target_size : (height, width), optional
        Pixels of the image; slices are padded to it and coordinates follow.
    backend : {"auto", "cpu", "cuda"}
        What computes; the results are the same.
    device : int
        Which CUDA device, of those that ``CUDA_VISIBLE_DEVICES`` leaves, counted from 0; for "cuda".
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
    client : distributed.Client, optional
        Dask cluster whose workers do the cases; `output_path` and the inputs are the same on all its machines.
        `workers` then says nothing, `memory_limit` holds for each process, and each takes the first device it sees.
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
    settings = Settings(views=views, images=images, annotations=annotations, target_size=target_size, **options)
    return extract_source(
        source if isinstance(source, Source) else open_source(source),
        place(output_path),
        settings,
        backend=backend,
        device=device,
        workers=workers,
        memory_limit=memory_limit,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
        client=client,
    )


def extract_source(
    source: Source,
    output: Place,
    settings: Settings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    backend: str = "auto",
    device: int = 0,
    workers: int | None = None,
    memory_limit: int | None = None,
    progress: bool | None = None,
    client: Any = None,
) -> Report:
    """Run `settings` over an open source with a journal; see :func:`extract`."""
    settings = settings.for_source(source)
    return run(
        source,
        output,
        settings,
        backend=backend,
        device=device,
        workers=workers,
        memory_limit=memory_limit,
        open_journal=partial(Journal, output, settings.to_dict(), resume=resume, overwrite=overwrite),
        progress=progress,
        client=client,
    )


def run(
    source: Source,
    output: Place,
    settings: Settings,
    *,
    backend: str = "auto",
    device: int = 0,
    workers: int | None = None,
    memory_limit: int | None = None,
    open_journal: Callable[[], Journal] | None = None,
    progress: bool | None = None,
    title: str = "extract",
    keep_files: bool = False,
    client: Any = None,
) -> Report:
    """Work through all cases of `source`; see :func:`extract`.

    Parameters
    ----------
    open_journal : callable, optional
        Gives the journal, once all else has been checked, since a journal says that a run has begun. Cases it holds
        are not done again; finished ones are added.
    title : str
        Word before the progress bar.
    keep_files : bool
        For a caller who looks at each result: list the files it wrote, and leave it to the caller to report errors.
    client : distributed.Client, optional
        Who does the cases instead of the threads of this process.
    """
    begin = time.perf_counter()
    check_cases(source, settings)
    if client is None:
        chosen, workers = check_run(backend, workers, device)
        where: str = chosen.name
    else:
        from voxtract import cluster

        if device:
            raise InvalidInput(
                f"device {device!r} on a cluster: each process takes the first device that it sees; leave it out, and "
                "set CUDA_VISIBLE_DEVICES for each worker, as dask-cuda does (--dask cuda)"
            )
        where, workers = cluster.check(client, backend)
    with nullcontext() if open_journal is None else open_journal() as journal:
        for left_out in source.skipped:
            log.warning("left out: %s: %s", left_out.where, left_out.reason)
        for remark in source.remarks:
            log.warning("%s: %s", remark.where, remark.message)
        bar = Progress(len(source.cases), title, show=progress, log_errors=not keep_files)
        parts, lists = divide(source, settings, workers)
        with staging_of(output) as staging:
            with bar:
                desk = Desk(settings, journal, bar, parts, keep_files)
                if client is None:
                    crew = Crew(workers, default_memory_limit() if memory_limit is None else memory_limit)
                    results = _do_all(source.cases, desk, Job(settings, chosen, crew, staging, journal is not None))
                else:
                    results = cluster.do_all(
                        client, source.cases, desk, output, backend=backend, memory_limit=memory_limit
                    )
            if journal is not None:
                _finish(journal, source, staging, settings, lists, results)
    seconds = time.perf_counter() - begin
    return Report(str(output), where, workers, tuple(results), source.skipped, seconds, source.remarks)


def _do_all(cases: Sequence[Case], desk: Desk, job: Job) -> list[CaseResult]:
    """Do all cases that are not done yet in threads; results in their order."""

    def attempt(case: Case) -> CaseResult:
        earlier = desk.earlier(case)
        if earlier is not None:
            return earlier
        desk.begin(case)
        return desk.end(job.do(case, desk.parts.get(case.id)))

    return job.crew.each(attempt, cases)


def divide(source: Source, settings: Settings, workers: int) -> tuple[dict[str, str], dict[str, str]]:
    """Spread the cases over the parts of the data set.

    Returns
    -------
    part of each case id (empty where there are no parts), and the list files: name relative to the output to text

    Raises
    ------
    InvalidInput
        Parts or folds that cannot be made of so many cases.
    VoxtractError
        To stratify, the labels of all cases are read, and one cannot be.
    """
    ids = [case.id for case in source.cases]
    classes = _classes_of_cases(source, settings, workers) if settings.stratify else None
    parts = {} if settings.parts is None else assign(ids, settings.parts, classes)
    lists = split_lists(parts)
    if settings.folds is not None:
        lists |= fold_lists(folds(ids, settings.folds, settings.seed, classes))
    return parts, lists


def _classes_of_cases(source: Source, settings: Settings, workers: int) -> dict[str, list[int]]:
    """Classes of the label values that each case has."""

    def of(case: Case) -> list[int]:
        values: set[int] = set()
        for volume in case.labels:
            labels = np.unique(stored_labels(volume.file.read(), settings.threshold))
            values.update(categories(labels[labels > 0], volume).tolist())
        if settings.classes is not None:
            values.intersection_update(settings.classes)
        known = settings.known_classes
        return sorted(values if known is None else set(known.ids(list(values)).tolist()))

    with ThreadPoolExecutor(workers) as pool:
        return dict(zip([case.id for case in source.cases], pool.map(of, source.cases), strict=True))


def _finish(
    journal: Journal,
    source: Source,
    staging: Staging,
    settings: Settings,
    lists: Mapping[str, str],
    results: Sequence[CaseResult],
) -> None:
    """Put the journal in order and write the files that speak of all cases."""
    left_out = {
        "failed": [{"case": result.id, "error": str(result.error)} for result in results if result.error is not None],
        "skipped": [{"where": skip.where, "reason": skip.reason} for skip in source.skipped],
    }
    notes = []
    try:
        journal.finish(case.id for case in source.cases)
        staging.write(LEFT_OUT, json.dumps(left_out, indent=1) + "\n")
    except OutputError as why:  # a full disk; the journal as it was written still says what is complete
        log.warning("%s", why)
    for name, text in lists.items():
        notes.append(staging.write_pieces(name, [text.encode()]))
    extraction = open_extraction(staging.root)
    silent = [name for name in settings.annotation_names if name in OF_SLICES]
    bare = [case.id for case in source.cases if not case.labels]
    if silent and bare:
        shown = ", ".join(bare[:5]) + (", …" if len(bare) > 5 else "")
        log.warning(
            "%d cases have no labels, so %s does not list their images: %s", len(bare), " and ".join(silent), shown
        )
    for writer in settings.formats:
        for name, pieces in writer.run_files(extraction):
            notes.append(staging.write_pieces(name, pieces))
    journal.end(notes)


def check_run(backend: str, workers: int | None, device: int = 0) -> tuple[Backend, int]:
    """Choose the backend, with the CUDA device of this index, and the number of threads.

    Raises
    ------
    BackendUnavailable
        See `voxtract.backend.select`.
    InvalidInput
        `workers` is not a number of at least 1, or `device` not one of at least 0.
    """
    if workers is None:
        workers = default_workers()
    if not isinstance(workers, int) or workers < 1:
        raise InvalidInput(f"workers {workers!r} must be a whole number of at least 1")
    return select(backend, device), workers


def plan(
    source: Source,
    output: Place,
    settings: Settings,
    *,
    backend: str = "auto",
    device: int = 0,
    workers: int | None = None,
) -> Report:
    """Say what :func:`run` would make of each case, from the headers alone; nothing is written."""
    check_cases(source, settings)
    chosen, workers = check_run(backend, workers, device)
    results = []
    for case in source.cases:
        case = settings.needed(case)
        inputs = names(case)
        try:
            layout = Layout.of(case, settings)
        except VoxtractError as error:
            results.append(CaseResult(case.id, "failed", inputs, error=error))
        else:
            slices: dict[str, int] = {plane.view: _planned(plane, settings) for plane in layout.planes if case.image}
            results.append(CaseResult(case.id, "planned", inputs, slices))
    return Report(str(output), chosen.name, workers, tuple(results), source.skipped, remarks=source.remarks)


def _planned(plane: Plane, settings: Settings) -> int:
    """Slices that a run would write; the number of annotated ones is known only from voxels, so all count."""
    return plane.count if settings.choice.annotated else len(settings.choice.take(plane.count, np.zeros(0, np.int64)))


def check_cases(source: Source, settings: Settings) -> None:
    """Refuse a source whose cases would overwrite each other, or that has nothing that was asked for.

    Raises
    ------
    InvalidInput
    """
    seen: dict[str, Case] = {}
    for case in source.cases:
        if case.id in seen:
            both = " and ".join(" + ".join(names(c)) for c in (seen[case.id], case))
            raise InvalidInput(f"{both} have the same case id {case.id!r}; rename one, or extract them separately")
        if not case.id or case.id in (".", "..") or any(c in case.id for c in ("/", "\0", os.sep)):
            raise InvalidInput(f"case id {case.id!r} cannot be the name of a folder")
        seen[case.id] = case
    if not any(names(settings.needed(case)) for case in source.cases):
        raise InvalidInput(
            f"{source.description}: nothing to do: images={settings.images!r} and annotations={settings.annotations!r} "
            "leave out all that the source has; ask for one that it has"
        )
