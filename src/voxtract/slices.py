"""The plain functions: a folder (or file) in, the slices or annotations of one view out.

Code written for ``nidataset.slices`` runs after changing the package name; what follows the ``*`` is extra, and
:class:`voxtract.settings.Settings` describes those words.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal, Unpack

from voxtract.errors import check_choice
from voxtract.geometry import View
from voxtract.model import Source
from voxtract.pipeline import run
from voxtract.read import plain_file, plain_folder
from voxtract.report import Report
from voxtract.settings import AnnotationOptions, ImageOptions, Settings
from voxtract.storage import Place, Remote, place
from voxtract.write import FILES
from voxtract.write.remote import staging as staging_of
from voxtract.write.tables import stats_text

log = logging.getLogger("voxtract")

PathLike = str | os.PathLike[str] | Remote


def extract_slices_dataset(
    nii_folder: PathLike,
    output_path: PathLike,
    view: View = "axial",
    saving_mode: Literal["case", "view"] = "case",
    target_size: tuple[int, int] | None = None,
    pad_value: float = 0.0,
    save_stats: bool = False,
    *,
    backend: Literal["auto", "cpu", "cuda"] = "auto",
    device: int = 0,
    workers: int | None = None,
    memory_limit: int | None = None,
    progress: bool | None = True,
    volume_index: int | None = None,
    images: Literal["tiff", "png"] = "tiff",
    **options: Unpack[ImageOptions],
) -> None:
    """Write every slice of every ``*.nii.gz`` of a folder as an image.

    A file that fails is named in the log (logger "voxtract", on stderr by default) and left out; the outputs of the
    others are complete.

    Parameters
    ----------
    nii_folder : path
        Folder; only the ``*.nii.gz`` in itself are taken, sorted by name.
    output_path : path
        Folder to write to; made where it is missing.
    view : {"axial", "coronal", "sagittal"}
        Axis that is cut: z, y or x of the voxel array. The slice is [x, y], [x, z] or [y, z], not rotated.
    saving_mode : {"case", "view"}
        ``<output_path>/<case>/<view>/<case>_<view>_000.tif`` or ``<output_path>/<view>/<case>_<view>_000.tif``.
    target_size : (height, width), optional
        Pixels of the image; the slice is padded on all sides, an odd pixel goes to the bottom or right.
    pad_value : float
        Value of the padding, in output units.
    save_stats : bool
        Write ``<output_path>/<view>_slices_stats.csv`` with ``FILENAME,NUM_SLICES,TOTAL_SLICES``.
    backend, device, workers, memory_limit, progress
        See :func:`voxtract.extract`.
    volume_index : int, optional
        Frame to take from files with four axes, 0-based.
    images : {"tiff", "png"}
        Format.
    **options
        ``compression, dtype, normalization, reorient`` of :class:`voxtract.settings.Settings`.

    Raises
    ------
    NotFound
        (a `FileNotFoundError`) No such folder, or no ``*.nii.gz`` in it.
    InvalidInput
        (a `ValueError`) A word that is not allowed; the message lists the allowed ones.
    OutputError
        (an `OSError`) `output_path` cannot be written.
    """
    check_choice("saving_mode", saving_mode, ("case", "view"))
    check_choice("images", images, FILES)
    settings = Settings(
        views=(view,),
        images=images,
        annotations=None,
        saving_mode=saving_mode,
        target_size=target_size,
        pad_value=pad_value,
        **options,
    )
    run_plain(
        plain_folder(nii_folder, "image", volume_index),
        place(output_path),
        settings,
        "slices",
        save_stats=save_stats,
        backend=backend,
        device=device,
        workers=workers,
        memory_limit=memory_limit,
        progress=progress,
    )


def extract_annotations_dataset(
    nii_folder: PathLike,
    output_path: PathLike,
    view: View = "axial",
    saving_mode: Literal["case", "view"] = "case",
    extraction_mode: Literal["slice", "volume"] = "slice",
    data_mode: Literal["center", "box", "radius"] = "center",
    target_size: tuple[int, int] | None = None,
    save_stats: bool = False,
    *,
    backend: Literal["auto", "cpu", "cuda"] = "auto",
    device: int = 0,
    workers: int | None = None,
    memory_limit: int | None = None,
    progress: bool | None = True,
    volume_index: int | None = None,
    **options: Unpack[AnnotationOptions],
) -> None:
    """Write the connected components of every label volume (``*.nii.gz``) of a folder as CSV.

    A file that fails is named in the log (logger "voxtract", on stderr by default) and left out; the outputs of the
    others are complete.

    Parameters
    ----------
    nii_folder, output_path, view, saving_mode, target_size
        As in :func:`extract_slices_dataset`; coordinates are pixels of the padded image.
    extraction_mode : {"slice", "volume"}
        ``<case>_<view>_<n>.csv`` for each slice (a header alone where it is empty), or one ``<case>.csv``.
    data_mode : {"center", "box", "radius"}
        Columns ``X,Y,Z``, ``X_MIN,Y_MIN,Z_MIN,X_MAX,Y_MAX,Z_MAX`` (inclusive) or ``X,Y,Z,RADIUS_X,RADIUS_Y,RADIUS_Z``;
        X = column, Y = row, Z = slice index.
    save_stats : bool
        Write ``<output_path>/<view>_annotations_stats.csv`` with ``FILENAME,NUM_ANNOTATIONS,TOTAL_ANNOTATIONS``.
    backend, device, workers, memory_limit, progress, volume_index
        As in :func:`extract_slices_dataset`.
    **options
        ``components, center, extra_columns, objects, connectivity, min_size, classes, threshold, skip_empty,
        index_width, reorient`` of :class:`voxtract.settings.Settings`.

    Raises
    ------
    NotFound, InvalidInput, OutputError
        As in :func:`extract_slices_dataset`.
    """
    check_choice("saving_mode", saving_mode, ("case", "view"))
    settings = Settings(
        views=(view,),
        images=None,
        saving_mode=saving_mode,
        extraction_mode=extraction_mode,
        data_mode=data_mode,
        target_size=target_size,
        **_unpadded(options),
    )
    run_plain(
        plain_folder(nii_folder, "labels", volume_index),
        place(output_path),
        settings,
        "annotations",
        save_stats=save_stats,
        backend=backend,
        device=device,
        workers=workers,
        memory_limit=memory_limit,
        progress=progress,
    )


def extract_slices(
    nii_path: PathLike,
    output_path: PathLike,
    view: View = "axial",
    target_size: tuple[int, int] | None = None,
    pad_value: float = 0.0,
    debug: bool = False,
    *,
    backend: Literal["auto", "cpu", "cuda"] = "auto",
    device: int = 0,
    volume_index: int | None = None,
    images: Literal["tiff", "png"] = "tiff",
    **options: Unpack[ImageOptions],
) -> list[str]:
    """Write every slice of one NIfTI file as ``<output_path>/<case>_<view>_000.tif``.

    Parameters
    ----------
    nii_path : path
        A ``.nii.gz`` or ``.nii`` file.
    output_path, view, target_size, pad_value, backend, device, volume_index, images, **options
        As in :func:`extract_slices_dataset`.
    debug : bool
        Log what was written.

    Returns
    -------
    list of str: the files, in slice order

    Raises
    ------
    NotFound, InvalidInput, DamagedFile, UnreadableFile, OutputError
        Says where, what was found, what was expected and what to do.
    """
    check_choice("images", images, FILES)
    settings = Settings(
        views=(view,),
        images=images,
        annotations=None,
        saving_mode="flat",
        target_size=target_size,
        pad_value=pad_value,
        **options,
    )
    return _one_file(plain_file(nii_path, "image", volume_index), place(output_path), settings, backend, device, debug)


def extract_annotations(
    nii_path: PathLike,
    output_path: PathLike,
    view: View = "axial",
    saving_mode: Literal["slice", "volume"] = "slice",
    data_mode: Literal["center", "box", "radius"] = "center",
    target_size: tuple[int, int] | None = None,
    debug: bool = False,
    *,
    backend: Literal["auto", "cpu", "cuda"] = "auto",
    device: int = 0,
    volume_index: int | None = None,
    **options: Unpack[AnnotationOptions],
) -> list[str]:
    """Write the components of one label volume as CSV, right into `output_path`.

    Parameters
    ----------
    nii_path : path
        A ``.nii.gz`` or ``.nii`` file.
    saving_mode : {"slice", "volume"}
        ``<case>_<view>_<n>.csv`` for each slice, or one ``<case>.csv``.
    output_path, view, data_mode, target_size, backend, device, volume_index, **options
        As in :func:`extract_annotations_dataset`.
    debug : bool
        Log what was written.

    Returns
    -------
    list of str: the files, in slice order

    Raises
    ------
    NotFound, InvalidInput, DamagedFile, UnreadableFile, OutputError
        Says where, what was found, what was expected and what to do.
    """
    settings = Settings(
        views=(view,),
        images=None,
        saving_mode="flat",
        extraction_mode=saving_mode,
        data_mode=data_mode,
        target_size=target_size,
        **_unpadded(options),
    )
    return _one_file(plain_file(nii_path, "labels", volume_index), place(output_path), settings, backend, device, debug)


def run_plain(
    source: Source,
    output: Place,
    settings: Settings,
    kind: Literal["slices", "annotations"],
    *,
    save_stats: bool,
    backend: str = "auto",
    device: int = 0,
    workers: int | None = None,
    memory_limit: int | None = None,
    progress: bool | None = None,
) -> Report:
    """Run one view over a plain folder, write its stats file if asked for, and report."""
    (view,) = settings.views or ("axial",)
    report = run(
        source,
        output,
        settings,
        backend=backend,
        device=device,
        workers=workers,
        memory_limit=memory_limit,
        progress=progress,
        title=f"{view} {kind}",
    )
    if save_stats:
        counts = [(Path(r.inputs[0]).name, getattr(r, kind)[view]) for r in report.done]
        with staging_of(output) as staging:
            staging.write(f"{view}_{kind}_stats.csv", stats_text(kind, counts))
    return report


def _unpadded(options: AnnotationOptions) -> AnnotationOptions:
    """The plain functions do not pad the slice index of annotation files unless asked to."""
    return {"index_width": 0, **options}


def _one_file(source: Source, output: Place, settings: Settings, backend: str, device: int, debug: bool) -> list[str]:
    report = run(source, output, settings, backend=backend, device=device, progress=False, keep_files=True)
    (result,) = report.results
    if result.error is not None:
        raise result.error
    if debug:
        log.info("%s", report)
    return [str(output / name) for name in result.files]
