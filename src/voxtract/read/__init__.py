"""From files to cases: what a path holds, and the voxels when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

from voxtract.errors import InvalidInput, check_choice
from voxtract.model import Source
from voxtract.read.folders import (
    Options,
    is_folder,
    is_volume_folder,
    open_folder,
    open_images,
    open_labels,
    open_pairs,
    plain_file,
    plain_folder,
)
from voxtract.read.formats import (
    FORMATS,
    Format,
    check_options,
    is_link,
    open_as,
    open_dicom_pairs,
    open_link,
    recognised,
)
from voxtract.read.nifti import NiftiFile
from voxtract.storage import Place, Remote, place

__all__ = ["FORMATS", "NiftiFile", "is_folder", "open_plain", "open_source", "plain_file", "plain_folder"]

PathLike = str | os.PathLike[str] | Remote
Suffixes = str | Sequence[str]


def open_source(
    path: PathLike | None = None,
    *,
    image: PathLike | None = None,
    labels: PathLike | None = None,
    format: Format | None = None,  # noqa: A002 - the word that the command line uses
    recursive: bool = False,
    volume_index: int | None = None,
    image_suffix: Suffixes | None = None,
    labels_suffix: Suffixes | None = None,
    **options: Any,
) -> Source:
    """List the cases that a file, a folder, an archive or an export holds; no voxel is read.

    ===========  ====================================================================================================
    format       what `path` is, and how it is recognised
    ===========  ====================================================================================================
    nifti        a NIfTI file; a folder of them, an image each, or pairs where ``<case>_seg`` lies beside ``<case>``;
                 a folder with two folders of images and labels (``images`` and ``labels``, nnU-Net's ``imagesTr`` and
                 ``labelsTr``, ``img`` and ``mask``, and their like). A ``.zarr`` may lie where a NIfTI file may
    zarr         a zarr array, or an OME-Zarr image with the label images inside it: a folder called ``.zarr``, or with
                 ``zarr.json``, ``.zarray`` or ``.zattrs`` in it. See `voxtract.read.zarr`
    dicom        a DICOM file, the folder of a series, a tree of series: told by their bytes, where no NIfTI file lies
                 beside; DICOM SEG objects become labels. See `voxtract.read.dicom.open_dicom`
    supervisely  a volume project (``meta.json``), the layouts of its NIfTI import (``axl_anatomic.nii.gz``, or
                 ``<volume>.nii.gz`` and ``<volume>/<class>.nii.gz``), an archive of these.
                 See `voxtract.read.supervisely.open_supervisely`
    labelbox     an export of DICOM annotations, ``.json`` or ``.ndjson``; needs ``volumes=``.
                 See `voxtract.read.labelbox.open_labelbox`, whose options, filters and limits are given one by one, as
                 ``frame_base=0``
    webknossos   an annotation, ``.nml`` or the ``.zip`` with one in it; a folder with ``datasource-properties.json``; a
                 link to an annotation or dataset on a server. See `voxtract.read.webknossos.open_webknossos`
    ===========  ====================================================================================================

    With ``image=`` and ``labels=``, or one of them, these are files or folders of images and of label volumes;
    ``path`` and ``labels=`` is the same as ``image=path, labels=labels``; with ``path``, ``image=`` and more, they lie
    in the folder ``path``.

    NIfTI and zarr may also lie at URLs: ``s3://``, ``gs://``, ``az://`` and others (``pip install 'voxtract[cloud]'``);
    of ``https://`` single files.

    A case's id is its file name without ``.nii``, ``.nii.gz`` or ``.zarr``; with `recursive`, the folders on the way to
    it come first, joined by ``_``. Images and labels make a pair if they have the same id, as they are or after the
    suffix is taken off: ``case_0000`` and ``case`` (nnU-Net), ``case`` and ``case_seg``. Where images and labels are
    both in play, only pairs are cases; each file left over is in ``source.skipped`` with the reason.

    Parameters
    ----------
    path, image, labels : path or URL, optional
        Files or folders; `labels` are label volumes.
    format : {"nifti", "zarr", "dicom", "supervisely", "labelbox", "webknossos"}, optional
        Take `path` as this, whatever it looks like.
    recursive : bool
        Look into the folders of a folder too (not through links, nor into hidden ones); of NIfTI.
    volume_index : int, optional
        Frame to take from images and labels with four axes, 0-based.
    image_suffix : str or several, optional
        End of an image's name that is not part of the id, ``"_0000"`` by default. If given, only files with it are
        images: ``"_0001"`` takes the second channel of nnU-Net's.
    labels_suffix : str or several, optional
        The same for labels; by default ``"_seg"``, ``"_label"``, ``"_labels"`` and ``"_mask"``.
    **options
        Words of the format's own reader, as ``mode="instance"`` of Supervisely's.

    Returns
    -------
    Source
        Its cases are sorted by file name. A file that cannot be read is a case too: reading it says what is wrong.

    Raises
    ------
    NotFound
        A path that is not there, or a folder without a volume.
    InvalidInput
        A format or a word that is not known, a file that is no volume, nothing or too much given, no image that fits
        any labels, or two files with one case id.
    UnreadableFile
        A folder that the operating system does not list.
    """
    if format is not None:
        check_choice("format", format, FORMATS)
    if image is None and labels is None and is_link(str(path)) and format in (None, "webknossos"):
        return open_link(str(path), options)
    words = Options(recursive, volume_index, _suffixes(image_suffix), _suffixes(labels_suffix), format)
    if image is None and labels is None:
        if path is None:
            raise InvalidInput("nothing to open; give a path, image= or labels=")
        whole = place(path)
        kind = format or recognised(whole)
        if kind not in ("nifti", "zarr"):
            return open_as(kind, whole, volume_index, options)
        check_options(kind, options, ())
        many = is_folder(whole) and not is_volume_folder(whole, words)
        return open_folder(whole, words) if many else open_images(whole, words)
    if image is None and path is not None:  # path is the images
        path, image = None, path
    base = place(path or "")
    images, masks = (None if one is None else _below(base, one) for one in (image, labels))
    check_options(format or "nifti", options, ())

    def plain(where: Place, role: Literal["image", "labels"]) -> Source:
        return open_images(where, words) if role == "image" else open_labels(where, words)

    if format == "dicom" or (format is None and any(recognised(one) == "dicom" for one in (images, masks) if one)):
        return open_dicom_pairs(images, masks, volume_index, plain)
    if images is not None and masks is not None:
        return open_pairs(images, masks, words)
    return plain(images, "image") if images is not None else plain(masks or base, "labels")


def open_plain(path: PathLike, role: Literal["image", "labels"], volume_index: int | None = None) -> Source:
    """List a folder as `plain_folder` does, a file as `plain_file`, or DICOM where there is no NIfTI.

    Raises
    ------
    VoxtractError
        As these.
    """
    where = place(path)
    if role == "image" and where.exists() and recognised(where) == "dicom":
        return open_as("dicom", where, volume_index, {})
    return (plain_folder if is_folder(where) else plain_file)(where, role, volume_index)


def _below(base: Place, given: PathLike) -> Place:
    """What is given, in the folder `base` unless it says itself where it lies."""
    there = place(given)
    if isinstance(there, Remote) or there.is_absolute():
        return there
    return base / str(there)


def _suffixes(given: Suffixes | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    suffixes = (given,) if isinstance(given, str) else tuple(given)
    if not suffixes or not all(suffixes):
        raise InvalidInput(f"suffix {given!r} is empty; give the end of a name, for instance '_seg', or nothing")
    return suffixes
