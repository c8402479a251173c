"""Supervisely volumes: the layouts of its NIfTI import, annotations uploaded alone, and projects on disk.

What the layouts look like, and where this reader differs from Supervisely's own, is told at `open_supervisely`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from voxtract.errors import InvalidInput, check_choice
from voxtract.model import Source
from voxtract.read.supervisely import project
from voxtract.read.supervisely.by_table import KnownVolume, read_volumes, volumes_of_project
from voxtract.read.supervisely.items import Mode, Options, checked
from voxtract.read.supervisely.layouts import open_tree
from voxtract.read.supervisely.tree import Tree, walk

__all__ = ["LAYOUTS", "open_supervisely"]

Layout = Literal["auto", "by_name", "by_plane", "annotations", "project"]
LAYOUTS: tuple[Layout, ...] = ("auto", "by_name", "by_plane", "annotations", "project")


def open_supervisely(
    path: str | os.PathLike[str],
    *,
    layout: Layout = "auto",
    mode: Mode = "auto",
    layer: Literal["ras", "file"] = "ras",
    layer_base: Literal[1, 0] = 1,
    volumes: str | os.PathLike[str] | Iterable[Mapping[str, Any]] | None = None,
    dataset: str | None = None,
    trust: Literal["voxels"] | None = None,
    resample_labels: bool = False,
    strict: bool = False,
) -> Source:
    """List what a folder or an archive of Supervisely volumes holds; headers are read, no voxels.

    ===============  ==================================================================================================
    layout           files
    ===============  ==================================================================================================
    ``by_name``      ``CTChest.nii.gz`` and ``CTChest/lung.nii.gz``, or ``.nrrd``: a file per class, each value an
                     object; perhaps a ``class_names.json``, which `voxtract.write.supervisely` writes
    ``by_plane``     ``axl_anatomic.nii.gz`` and ``axl_inference.nii.gz`` (each value a class) or ``axl_inference_1``,
                     ``_2``, … (a file per class, each value an object); ``axl_score.csv``; ``color_map.txt``
    ``annotations``  the latter without their volumes, which `volumes` tells; perhaps a ``.json`` that maps them
    ``project``      ``meta.json``, ``<dataset>/volume``, ``ann`` and ``mask``
    ===============  ==================================================================================================

    Volumes and labels are given in RAS, by flips and axis swaps only. Labels that do not lie on the grid of their
    volume are an error of their case. What is wrong with one item does not stop the others: its labels fail with the
    reason when they are asked for, and ``source.matches`` has a row of role "error". Files that nothing uses are in
    ``source.skipped``, what a person should look at in ``source.remarks``; what only voxels tell (labels that are all
    0, or no whole numbers) is told when they are read.

    Parameters
    ----------
    path : path
        Folder, or archive (zip, tar, tar.gz, tar.bz2, tar.xz), which is unpacked until the process ends. Archives
        inside are looked into.
    layout : {"auto", "by_name", "by_plane", "annotations", "project"}
        "auto" decides by the names: a plane and the word ``anatomic``, a plane and a word of labels, or neither.
    mode : {"auto", "semantic", "instance"}
        For planes: whether each value is a class, or each file. "auto": one file is semantic, several are instance.
    layer : {"ras", "file"}
        What a score table counts: slices of the volume in RAS (as Supervisely takes it), or of the file.
    layer_base : {1, 0}
        Number of the first slice in a score table. The export application writes 0.
    volumes : path or rows, optional
        For annotations alone: a ``.csv`` or ``.json`` with dataset, name, id, shape and affine of each volume, rows of
        the same, or a project on disk.
    dataset : str, optional
        For annotations alone: the data set all files belong to. By default the only one of `volumes`, or the one a
        file's folder is called like.
    trust : {"voxels"}, optional
        Where labels have the shape of their volume's file but another header, leave their header out of account.
    resample_labels : bool
        Bring labels on another grid to that of their volume, each voxel the value of the nearest.
    strict : bool
        Whatever is to be told is an error.

    Returns
    -------
    Source
        ``case.views`` is the view of the plane, where a volume is named after one; `classes` has what names and
        colour maps give; a value without a name is the class ``Segment_<value>``.

    Raises
    ------
    NotFound, UnreadableFile
        Nothing there, no NIfTI file in it, or the system does not hand it out.
    InvalidInput
        A word that is not allowed, a tree that fits no layout, an archive or a table that cannot be read, nothing that
        can be used; with `strict` all that is to be told.
    DamagedFile
        An archive whose bytes contradict each other.

    Notes
    -----
    Layouts: the "NIfTI" page of Supervisely's import documentation. Its importer matches by base name over the whole
    tree and numbers classes by the order in which the system lists files; here labels belong to a volume of their own
    folder, classes are numbered by the number in the name, and what fits twice is an error.
    """
    check_choice("layout", layout, LAYOUTS)
    check_choice("mode", mode, ("auto", "semantic", "instance"))
    check_choice("layer", layer, ("ras", "file"))
    check_choice("layer_base", layer_base, (1, 0))
    check_choice("trust", trust, (None, "voxels"))
    tree = walk(Path(path))
    if layout == "project" or (layout == "auto" and project.is_project(tree.root)):
        found = project.open_project(tree.root)
        return checked(found if tree.archive is None else tree.archive.source(found), [], strict)
    if layout == "auto":
        _check_no_projects(tree)
    options = Options(
        mode=mode, layer=layer, layer_base=layer_base, trust=trust, resample_labels=resample_labels, strict=strict
    )
    return open_tree(tree, layout, _known(volumes), dataset, options)


def _check_no_projects(tree: Tree) -> None:
    """Refuse a tree with projects in it, whose volumes and masks are called like those of no other layout."""
    projects = [entry for entry in tree.entries if entry.name == project.META and project.is_project(entry.path.parent)]
    if projects:
        named = ", ".join(str(Path(entry.where).parent) for entry in projects[:5])
        raise InvalidInput(
            f"{tree.where}: holds {len(projects)} volume project{'s' * (len(projects) > 1)} ({named}) and more; "
            "open each by itself"
        )


def _known(volumes: str | os.PathLike[str] | Iterable[Mapping[str, Any]] | None) -> list[KnownVolume] | None:
    if volumes is None:
        return None
    if not isinstance(volumes, str | os.PathLike):
        return read_volumes(volumes)
    if Path(volumes).is_dir():
        root = walk(Path(volumes)).root
        return volumes_of_project(root, project.open_project(root))
    return read_volumes(Path(volumes))
