"""From files to cases: what a path holds, and the voxels when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence

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
from voxtract.read.nifti import NiftiFile
from voxtract.storage import Place, Remote, place

__all__ = ["FORMATS", "NiftiFile", "is_folder", "open_source", "plain_file", "plain_folder"]

FORMATS = ("nifti", "zarr")

PathLike = str | os.PathLike[str] | Remote
Suffixes = str | Sequence[str]


def open_source(
    path: PathLike | None = None,
    *,
    image: PathLike | None = None,
    labels: PathLike | None = None,
    format: str | None = None,  # noqa: A002 - the word that the command line uses
    recursive: bool = False,
    volume_index: int | None = None,
    image_suffix: Suffixes | None = None,
    labels_suffix: Suffixes | None = None,
) -> Source:
    """List the cases that a file, a folder, or a pair of them holds; no header is read.

    All of them may be URLs: ``s3://``, ``gs://``, ``az://`` and others (``pip install 'voxtract[cloud]'``); of
    ``https://`` single files.

    ==============================  =====================================================================
    given                           cases
    ==============================  =====================================================================
    a NIfTI file, or a .zarr        this image (of an OME-Zarr image with the label images inside it)
    a folder of NIfTI files         an image each, or pairs where ``<case>_seg`` lies beside ``<case>``
    a folder with two folders       pairs from ``images`` and ``labels`` (or ``imagesTr`` and ``labelsTr``
                                    as nnU-Net has them, ``img`` and ``mask``, and their like)
    ``image=``, ``labels=``         this file or folder as images, as labels, or as pairs of both
    ``path`` and ``labels=``        the same as ``image=path, labels=labels``
    ``path``, ``image=`` and more   `image` and `labels` lie in the folder `path`
    ==============================  =====================================================================

    A case's id is its file name without ``.nii``, ``.nii.gz`` or ``.zarr``; with `recursive`, the folders on the way to
    it come first, joined by ``_``. Images and labels make a pair if they have the same id, as they are or after the
    suffix is taken off: ``case_0000`` and ``case`` (nnU-Net), ``case`` and ``case_seg``. Where images and labels are
    both in play, only pairs are cases; each file left over is in ``source.skipped`` with the reason.

    Parameters
    ----------
    path, image, labels : path, optional
        Files or folders; `labels` are label volumes.
    format : {"nifti", "zarr"}, optional
        Take `path` as this, whatever its name.
    recursive : bool
        Look into the folders of a folder too (not through links, nor into hidden ones).
    volume_index : int, optional
        Frame to take from images and labels with four axes, 0-based.
    image_suffix : str or several, optional
        End of an image's name that is not part of the id, ``"_0000"`` by default. If given, only files with it are
        images: ``"_0001"`` takes the second channel of nnU-Net's.
    labels_suffix : str or several, optional
        The same for labels; by default ``"_seg"``, ``"_label"``, ``"_labels"`` and ``"_mask"``.

    Returns
    -------
    Source
        Its cases are sorted by file name. A file that cannot be read is a case too: reading it says what is wrong.

    Raises
    ------
    NotFound
        A path that is not there, or a folder without a NIfTI file.
    InvalidInput
        A format that is not known, a file that is no NIfTI file, nothing or too much given, no image that fits any
        labels, or two files with one case id.
    UnreadableFile
        A folder that the operating system does not list.
    """
    if format is not None:
        check_choice("format", format, FORMATS)
    options = Options(recursive, volume_index, _suffixes(image_suffix), _suffixes(labels_suffix), format)
    base = place(path or "")
    if image is None and path is not None:  # path is the images, beside labels= or alone
        if labels is None and is_folder(base) and not is_volume_folder(base, options):
            return open_folder(base, options)
        base, image = place(""), path
    if image is not None and labels is not None:
        return open_pairs(_below(base, image), _below(base, labels), options)
    if image is not None:
        return open_images(_below(base, image), options)
    if labels is not None:
        return open_labels(_below(base, labels), options)
    raise InvalidInput("nothing to open; give a path, image= or labels=")


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
