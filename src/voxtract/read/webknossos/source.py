"""An annotation, or a dataset, as a source: its volume layers are labels, a layer of its dataset the image."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

import numpy as np

from voxtract.errors import InvalidInput, check_choice
from voxtract.geometry import Box
from voxtract.model import Case, LabelVolume, Match, Remark, Skipped, Source
from voxtract.read.webknossos.classes import ClassBy, classes_of, of_skeleton, with_groups
from voxtract.read.webknossos.files import BoxFile, LabelBox, NodeFile
from voxtract.read.webknossos.layers import DatasetLayer, LabelLayer, without_data
from voxtract.read.webknossos.opening import Opened, open_both, place_of
from voxtract.read.webknossos.regions import Content, Region, boxes_of, distinct
from voxtract.webknossos.annotation import Annotation
from voxtract.webknossos.layers import VolumeLayer, known_size
from voxtract.webknossos.mag import Mag, MagLike
from voxtract.webknossos.place import Place

if TYPE_CHECKING:
    from numpy.typing import NDArray

SKELETON = "skeleton"  # name of the label volume of nodes

_NOT_IN_IDS = re.compile(r'[/\\:*?"<>|\x00-\x1f]')


@dataclass(frozen=True, eq=False, slots=True)
class AnnotationSource(Source):
    """The cases of an annotation, and the annotation itself.

    Parameters
    ----------
    annotation : Annotation, optional
        None where the source is a dataset.
    layers : mapping of name to VolumeLayer
        The volume layer that a label volume of this name comes from.
    """

    annotation: Annotation | None = None
    layers: Mapping[str, VolumeLayer] = field(default_factory=dict)


def open_webknossos(
    path: str | os.PathLike[str],
    *,
    dataset: str | os.PathLike[str] | None = None,
    layer: str | None = None,
    volume_layer: str | int | Sequence[str | int] | None = None,
    region: Region | Sequence[int] | None = None,
    margin: int | Sequence[int] = 0,
    mag: MagLike | None = None,
    skeleton: bool | None = None,
    class_by: ClassBy = "segment",
    fallback: bool = False,
) -> AnnotationSource:
    """Open a WEBKNOSSOS annotation or dataset.

    Volume layers become label volumes of which only the stored chunks are read, whatever boxes the file declares.
    Axial slices are those along z.

    Parameters
    ----------
    path : path or address
        An annotation (.nml, .zip), a dataset folder (with ``datasource-properties.json``), or a link to an annotation
        or a dataset on a server. Server, token and timeout of `voxtract.webknossos.webknossos_context`, or of the
        environment (``WK_TOKEN``), hold.
    dataset : path or address, optional
        Of the images: a dataset folder, a link, or ``"server"``: the annotation's own dataset, streamed.
    layer : str, optional
        Layer of the dataset that is the image; not needed where it has one that is no segmentation.
    volume_layer : name or id, or several, optional
        Volume layers that are taken (of a dataset: its segmentation layers); by default all.
    region : {"annotation", "tight", "task", "user", "boxes", "dataset"} or (x, y, z, width, height, depth), optional
        The voxels of a case. "annotation": the box around all stored chunks (and nodes, with `skeleton`), the default
        of annotations. "tight": around all voxels that are not 0, for which all chunks are decoded once. "task":
        the task bounding box; "user": a case for each user bounding box; "boxes": both. "dataset": all of the image
        layer, or of all segmentation layers, the default of datasets. Six numbers are a box in voxels of mag 1.
    margin : int or (x, y, z)
        Voxels of mag 1 more on each side of every region.
    mag : optional
        Magnification that is read, as 1 or "2-2-1"; the finest that all layers have where it is not given.
    skeleton : bool, optional
        Take nodes as labels of one voxel each: a label volume called "skeleton", whose classes are the trees. By
        default only where the annotation has no voxels.
    class_by : {"segment", "group", "layer"}
        What is a class: each segment (and tree), called as in the list or ``segment_<id>``; each of their groups; or
        each layer.
    fallback : bool
        Put the voxels of the fallback layer, from `dataset`, below those of the annotation, as WEBKNOSSOS shows them.
        All of the region is then looked at.

    Returns
    -------
    AnnotationSource
        Layers without voxels are among those skipped.

    Raises
    ------
    NotFound, UnreadableFile
        A file that is not there, or cannot be read.
    InvalidInput
        Words that do not go together, a layer, mag or box that there is not, voxels with axes beyond x, y, z, or
        nothing to take. DamagedFile, which is one: what is no annotation, dataset, or volume layer.
    ServerError, UnexpectedAnswer
        The server or the connection fails.
    """
    if isinstance(region, str):
        check_choice("region", region, get_args(Region))
    check_choice("class_by", class_by, get_args(ClassBy))
    opened = open_both(path, dataset)
    skipped: list[Skipped] = []
    layers = _label_layers(opened, volume_layer, fallback, skipped)
    image = _image_layer(opened, layer)
    nodes = _nodes(opened) if skeleton or (skeleton is None and not layers and image is None) else None
    content = Content(opened, layers, image, nodes, _common_mag(opened.where, layers, image, mag), skipped)
    _remark(content)
    if not layers and image is None and nodes is None:
        raise InvalidInput(
            f"{opened.where}: has neither labels nor nodes nor images to take{content.skipped_text}; dataset= says "
            "where images are"
        )
    usual: Region = "dataset" if opened.annotation is None else "annotation"
    return _source(content, list(boxes_of(content, region or usual, margin)), class_by)


def _label_layers(
    opened: Opened, wanted: str | int | Sequence[str | int] | None, fallback: bool, skipped: list[Skipped]
) -> list[LabelLayer]:
    """Find the label layers; those without voxels are skipped, or an error where they were asked for."""
    annotation, dataset = opened.annotation, opened.dataset
    if annotation is None:
        if fallback:
            raise InvalidInput(f"{opened.where}: is a dataset; fallback=True is for annotations")
        if dataset is None:
            raise TypeError("neither an annotation nor a dataset")
        names = [one.name for one in dataset.layers.values() if one.category == "segmentation"]
        taken = names if wanted is None else [names[n] for n in _chosen([(n, None) for n in names], wanted, opened)]
        return [LabelLayer.of_dataset(dataset, name) for name in taken]
    if fallback and dataset is None:
        raise InvalidInput(f"{opened.where}: fallback=True needs the dataset: dataset=FOLDER")
    listed = annotation.volume_layers
    reasons = without_data(opened.said)
    names = distinct(layer.name for layer in listed)
    chosen = range(len(listed)) if wanted is None else _chosen([(one.name, one.id) for one in listed], wanted, opened)
    found = []
    for n in chosen:
        below = None
        if fallback and dataset is not None and listed[n].fallback_layer is not None:
            below = DatasetLayer.of(dataset, listed[n].fallback_layer or "")
        try:
            found.append(LabelLayer.of_annotation(names[n], listed[n], below))
        except InvalidInput as why:
            told = f"{why}; {reasons[listed[n].id]}" if listed[n].id in reasons else str(why)
            what = f"volume layer {listed[n].name!r} (id {listed[n].id})"
            if wanted is not None:
                raise InvalidInput(f"{opened.where}, {what} {told}") from why
            skipped.append(Skipped(f"{opened.where}, {what}", told))
    return found


def _chosen(
    layers: Sequence[tuple[str, int | None]], wanted: str | int | Sequence[str | int], opened: Opened
) -> list[int]:
    """Positions of the layers that are wanted, each given by its name or id."""
    positions = []
    for one in [wanted] if isinstance(wanted, str | int) else wanted:
        found = [n for n, layer in enumerate(layers) if one in layer]
        if len(found) != 1:
            names = ", ".join(repr(name) if number is None else f"{name!r} (id {number})" for name, number in layers)
            raise InvalidInput(
                f"{opened.where}: has {'several layers' if found else 'no layer'} {one!r}; give the name or the id of "
                f"one: {names or 'there is none'}"
            )
        positions += found
    return positions


def _image_layer(opened: Opened, name: str | None) -> DatasetLayer | None:
    """Find the layer of the image."""
    dataset = opened.dataset
    if dataset is None:
        if name is not None:
            raise InvalidInput(f"{opened.where}: layer={name!r} is one of a dataset; say which: dataset=FOLDER")
        return None
    images = [one.name for one in dataset.layers.values() if one.category != "segmentation"]
    if name is None and len(images) != 1:
        if opened.annotation is None and not images:
            return None
        found = ", ".join(map(repr, images)) or "none"
        raise InvalidInput(f"{place_of(dataset)}: which layer is the image? Say layer=NAME; there are {found}")
    return DatasetLayer.of(dataset, name or images[0])


def _nodes(opened: Opened) -> NDArray[np.int64] | None:
    """Positions of all nodes in voxels of mag 1, in the order of the trees; None where there are none."""
    if opened.annotation is None:
        return None
    trees = [tree for tree, _ in with_groups(opened.annotation.skeleton) if len(tree.table)]
    return np.concatenate([tree.get_node_positions() for tree in trees]) if trees else None


def _common_mag(where: str, layers: Iterable[LabelLayer], image: DatasetLayer | None, wanted: MagLike | None) -> Mag:
    """The mag that was asked for, or the finest that all layers have."""
    mags = {layer.told: tuple(layer.boxes) for layer in layers}
    if image is not None:
        mags[f"image layer {image.name!r}"] = image.mags
    if not mags:
        return Mag(1 if wanted is None else wanted)
    common = sorted(set.intersection(*map(set, mags.values())))
    told = "; ".join(f"{name}: {', '.join(map(str, sorted(found)))}" for name, found in mags.items())
    if not common:
        raise InvalidInput(f"{where}: the layers have no mag in common: {told}; leave one out")
    mag = common[0] if wanted is None else Mag(wanted)
    if mag not in common:
        raise InvalidInput(f"{where}: not all layers have mag {mag}: {told}; take another mag, or leave a layer out")
    return mag


def _remark(content: Content) -> None:
    """Note what a person should look at."""
    opened = content.opened
    known = without_data(opened.said).values()
    texts = [one.removeprefix(f"{opened.where}: ") for one in opened.said if not any(map(one.endswith, known))]
    if min(opened.voxel_size) <= 0:
        texts.append("the voxel size is not known; 1 nm is taken for it")
    content.remarks.extend(Remark(opened.where, text) for text in texts)


def _source(content: Content, boxes: Sequence[tuple[str, Box]], class_by: ClassBy) -> AnnotationSource:
    """All cases."""
    opened, annotation = content.opened, content.opened.annotation
    volumes = [layer.labels for layer in content.layers]
    if content.nodes is not None and annotation is not None:
        volumes.append(of_skeleton(distinct([*(one.name for one in volumes), SKELETON])[-1], annotation.skeleton))
    classes, categories, keys = classes_of(volumes, class_by)
    cases: list[Case] = []
    matches: list[Match] = []
    ids = distinct(_id(opened.name, name) for name, _ in boxes)
    for case_id, (_, box) in zip(ids, boxes, strict=True):
        place = _place(content, box)
        image = None if content.image is None else BoxFile(content.image.at(content.mag), place)
        files: list[tuple[LabelBox | NodeFile, str]] = [
            (LabelBox(layer.at(content.mag), place), layer.told) for layer in content.layers
        ]
        if content.nodes is not None:
            files.append((_node_file(content, case_id, place), "nodes of the skeleton"))
        columns = zip(files, volumes, categories, keys, strict=True)
        labels = tuple(LabelVolume(file, of.name, classed, named) for (file, _), of, classed, named in columns)
        cases.append(Case(case_id, image, labels))
        why = f"mag {content.mag}, voxels {place.box.start} to {place.box.stop}"
        matches += [] if image is None else [Match(case_id, "image", image.where, why)]
        matches += [Match(case_id, "labels", file.where, f"{told}, {why}") for file, told in files]
    return AnnotationSource(
        f"WEBKNOSSOS {'dataset' if annotation is None else 'annotation'} {opened.where}, mag {content.mag}",
        tuple(cases),
        tuple(content.skipped),
        tuple(content.remarks),
        tuple(matches),
        classes if volumes else None,
        annotation,
        {layer.labels.name: layer.layer for layer in content.layers if layer.layer is not None},
    )


def _place(content: Content, box: Box) -> Place:
    annotation = content.opened.annotation
    size = known_size(content.opened.voxel_size)
    if annotation is None:
        return Place(content.mag.grown(box), content.mag, size, content.opened.name)
    return Place(content.mag.grown(box), content.mag, size, annotation.dataset_name, annotation.organization_id)


def _node_file(content: Content, case_id: str, place: Place) -> NodeFile:
    """The nodes in a box; what is hidden is remarked."""
    opened = content.opened
    if content.nodes is None:
        raise TypeError("no nodes")
    file, hidden = NodeFile.of(opened.where, place, content.nodes, (opened.path,) if opened.path else ())
    if hidden:
        text = f"case {case_id}: {hidden} nodes lie in the voxel of an earlier one, and are not among its labels"
        content.remarks.append(Remark(opened.where, text))
    return file


def _id(name: str, box: str) -> str:
    """Id of a case, which can be the name of a folder."""
    return _NOT_IN_IDS.sub("_", f"{name}_{box}" if box else name).strip(". ") or "annotation"
