"""Whole volumes and annotations from one tool's form into another's."""

from __future__ import annotations

import inspect
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from voxtract.classes import ClassMap
from voxtract.crew import Crew, default_memory_limit
from voxtract.errors import InvalidInput, OutputError, VoxtractError, check_choice
from voxtract.job import files, names
from voxtract.model import Case, ChunkedFile, Source, VolumeFile
from voxtract.pipeline import check_cases, check_run, extract_source
from voxtract.progress import Progress
from voxtract.read import open_source
from voxtract.report import CaseResult, Report
from voxtract.segments import components_of, write_tables
from voxtract.settings import Settings
from voxtract.storage import Place, Remote, place
from voxtract.write import ANNOTATION_FORMATS
from voxtract.write.pairs import NiftiPairs
from voxtract.write.remote import staging as staging_of
from voxtract.write.supervisely import CaseLayout, NiftiFolders, VolumeProject
from voxtract.write.webknossos import AnnotationZips

log = logging.getLogger("voxtract")

# Forms that hold whole volumes, by name; the others hold slices and boxes, which `extract` makes.
LAYOUTS: dict[str, Callable[..., CaseLayout]] = {
    "nifti": NiftiPairs,
    "supervisely": VolumeProject,
    "supervisely-nifti": NiftiFolders,
    "webknossos": partial(AnnotationZips, lambda volume: components_of(volume.file)),
}
TARGETS = (*LAYOUTS, "tables", *ANNOTATION_FORMATS)
_VOXEL = 24  # bytes a voxel of a label volume needs while classes are put in its place


def convert(
    source: Source | str | os.PathLike[str] | Remote,
    output_path: str | os.PathLike[str] | Remote,
    to: str,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    memory_limit: int | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Report:
    """Write the cases of a source as another tool keeps them.

    =====================  ==========================================================================================
    to                     files
    =====================  ==========================================================================================
    ``nifti``              ``images/<case>.nii.gz`` and ``labels/<case>.nii.gz``; see `write.pairs.NiftiPairs`
    ``supervisely``        a volume project; see `write.supervisely.VolumeProject`
    ``supervisely-nifti``  the NIfTI layout that Supervisely imports; see `write.supervisely.NiftiFolders`
    ``webknossos``         ``<case>.zip``, an annotation to upload; see `write.webknossos.AnnotationZips`
    ``tables``             ``segments.csv``, ``components.csv`` and ``nodes.csv``; see `segments.Tables`
    ``csv``, ``coco``, …   what :func:`voxtract.extract` writes with ``annotations=`` this
    =====================  ==========================================================================================

    A case that fails is named in the log and in the report; the others are complete.

    Parameters
    ----------
    source : Source, path or URL
        What :func:`voxtract.open_source` returns, or what it opens.
    output_path : path or URL
        Folder to write to; made where it is missing.
    to : str
    overwrite : bool
        Write into a folder that holds something already; files of other names stay.
    workers, memory_limit, progress
        As of :func:`voxtract.extract`.
    **options
        Words of the form: fields of the class named above, or keywords of :func:`voxtract.extract`. `class_map` names
        the classes in place of the source.

    Raises
    ------
    NotFound, InvalidInput
        The source is not there or is not recognised; a word is not allowed; the output folder holds something; two
        cases would be one file. Nothing has been written then.
    OutputError
        The output folder cannot be written.
    """
    check_choice("to", to, TARGETS)
    opened = source if isinstance(source, Source) else open_source(source)
    output = place(output_path)
    if to == "tables":
        check_options(to, options, ("connectivity", "min_size"))
        if isinstance(output, Remote):
            raise InvalidInput(f"{output}: tables are written to disk only; give a folder, and copy them from there")
        return write_tables(opened, output, overwrite=overwrite, progress=progress, **options)
    if to not in LAYOUTS:
        settings = Settings(annotations=(to,), **options)
        words: dict[str, Any] = {"workers": workers, "memory_limit": memory_limit, "progress": progress}
        return extract_source(opened, output, settings, overwrite=overwrite, **words)
    layout = _layout(to, opened, options)
    if not overwrite and _holds_something(output):
        raise InvalidInput(
            f"{output}: is not empty; choose another folder, or pass overwrite=True (--overwrite) to write into it"
        )
    return _write_all(layout, opened, output, workers, memory_limit, progress)


def _holds_something(folder: Place) -> bool:
    if isinstance(folder, Remote):
        folder.check_writable()
        try:
            return bool(folder.entries())
        except FileNotFoundError:
            return False
        except OSError as why:
            raise OutputError(f"{folder}: cannot be looked at: {why.strerror}") from why
    return folder.is_dir() and any(folder.iterdir())


def _layout(to: str, source: Source, options: Mapping[str, Any]) -> CaseLayout:
    make = LAYOUTS[to]
    own = [name for name in inspect.signature(make).parameters if name != "classes"]
    check_options(to, options, [*own, "class_map"])
    words = dict(options)
    if (named := words.pop("class_map", None)) is not None:
        source = replace(source, classes=ClassMap.of(named))
    return make(classes=_classes(source, needed=to not in ("nifti", "webknossos")), **words)


def check_options(to: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise `InvalidInput` unless all `options` are `known`."""
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise InvalidInput(f"{', '.join(unknown)}: not known for {to!r}; allowed: {', '.join(known)}")


def _classes(source: Source, *, needed: bool) -> ClassMap | None:
    """Classes of all cases; those of a source that names none come from the values of its labels, if they are needed.

    Raises
    ------
    VoxtractError
        A label volume that has to be read for it cannot be.
    """
    if source.classes is None and not needed:
        return None
    classes = source.classes or ClassMap((), unnamed="label_{}")
    if classes.unnamed is None or not needed:
        return classes
    found: set[int] = set()
    for case in source.cases:
        for volume in case.labels:
            if isinstance(volume.category, int):
                found.add(volume.category)
                continue
            try:
                labels = _labels(volume.file)
            except VoxtractError:  # told when its turn comes
                continue
            found.update(labels if volume.category is None else (volume.category.get(n, n) for n in labels))
    return classes.covering(sorted(found))


def _labels(file: VolumeFile) -> set[int]:
    """Label values of a volume; chunk by chunk where it is stored so."""
    import numpy as np

    pieces = (
        (chunk for row in file.layers() for _, chunk in row) if isinstance(file, ChunkedFile) else [file.read().data]
    )
    return {int(value) for piece in pieces for value in np.unique(piece).tolist() if value > 0}


def _write_all(
    layout: CaseLayout,
    source: Source,
    output: Place,
    workers: int | None,
    memory_limit: int | None,
    progress: bool | None,
) -> Report:
    begin = time.perf_counter()
    check_cases(source, Settings())
    device, workers = check_run("cpu", workers)
    of_run = list(layout.run_files(source.cases))
    for left_out in source.skipped:
        log.warning("left out: %s: %s", left_out.where, left_out.reason)
    for remark in source.remarks:
        log.warning("%s: %s", remark.where, remark.message)
    crew = Crew(workers, default_memory_limit() if memory_limit is None else memory_limit)
    bar = Progress(len(source.cases), "convert", show=progress)
    with staging_of(output) as staging:

        def attempt(case: Case) -> CaseResult:
            inputs = names(case)
            bar.begin(Path(inputs[0]).name if inputs else case.id)
            try:
                nbytes, need = _sizes(case, in_chunks=isinstance(layout, AnnotationZips))
                with crew.memory(inputs[0] if inputs else case.id, need), staging.batch() as batch:
                    for name, content in layout.case_files(case):
                        batch.write(name, content)
            except VoxtractError as error:
                bar.end(error)
                return CaseResult(case.id, "failed", inputs, error=error)
            bar.end()
            return CaseResult(case.id, "done", inputs, nbytes=nbytes)

        with bar:
            results = crew.each(attempt, source.cases)
        for name, content in of_run:
            staging.write(name, content)
    seconds = time.perf_counter() - begin
    return Report(str(output), device.name, workers, tuple(results), source.skipped, seconds, source.remarks)


def _sizes(case: Case, *, in_chunks: bool) -> tuple[int, int]:
    """Bytes of all voxels of a case, and about what it takes to write them; what is `in_chunks` is never held."""
    headers = [file.header() for file in files(case) if not (in_chunks and isinstance(file, ChunkedFile))]
    image = 0 if case.image is None else 2 * headers[0].nbytes
    voxels = [math.prod(header.grid.shape) for header in headers[0 if case.image is None else 1 :]]
    return sum(header.nbytes for header in headers), image + max(voxels, default=0) * _VOXEL
