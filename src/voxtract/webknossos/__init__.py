"""WEBKNOSSOS annotations: files and servers, skeletons, bounding boxes and volume layers.

A small library of its own. Code written for the documentation of the official client runs after
``import voxtract.webknossos as webknossos``. Names are imported when first used.

Examples
--------
>>> import tempfile
>>> import voxtract.webknossos as webknossos
>>> annotation = webknossos.Annotation("axons", dataset_name="cortex", voxel_size=(11.24, 11.24, 28))
>>> soma = annotation.skeleton.add_tree("axon 1").add_node((10, 20, 30), comment="soma")
>>> with tempfile.TemporaryDirectory() as folder:
...     annotation.save(f"{folder}/axons.nml")
...     webknossos.Annotation.load(f"{folder}/axons.nml") == annotation
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voxtract.webknossos.annotation import Annotation, AnnotationState, AnnotationType
    from voxtract.webknossos.boxes import BoundingBox, Vec3Int
    from voxtract.webknossos.client import Client, webknossos_context
    from voxtract.webknossos.dataset import Dataset, Layer
    from voxtract.webknossos.document import AdditionalAxis
    from voxtract.webknossos.errors import AlreadyThere, FormatError, NoSuchFile, NoSuchLayer, WrongUse
    from voxtract.webknossos.layers import SegmentGroup, SegmentInformation, VolumeLayer
    from voxtract.webknossos.mag import Mag
    from voxtract.webknossos.mag_view import MagView
    from voxtract.webknossos.nodes import Node
    from voxtract.webknossos.remote import RemoteDataset
    from voxtract.webknossos.skeleton import Group, Skeleton, Tree
    from voxtract.webknossos.volume import VolumeData

_ROOMS = {
    "AdditionalAxis": "document",
    "AlreadyThere": "errors",
    "Annotation": "annotation",
    "AnnotationState": "annotation",
    "AnnotationType": "annotation",
    "BoundingBox": "boxes",
    "Client": "client",
    "Dataset": "dataset",
    "FormatError": "errors",
    "Group": "skeleton",
    "Layer": "dataset",
    "Mag": "mag",
    "MagView": "mag_view",
    "NoSuchFile": "errors",
    "NoSuchLayer": "errors",
    "Node": "nodes",
    "RemoteDataset": "remote",
    "SegmentGroup": "layers",
    "SegmentInformation": "layers",
    "Skeleton": "skeleton",
    "Tree": "skeleton",
    "Vec3Int": "boxes",
    "VolumeData": "volume",
    "VolumeLayer": "layers",
    "WrongUse": "errors",
    "webknossos_context": "client",
}

__all__ = [
    "AdditionalAxis",
    "AlreadyThere",
    "Annotation",
    "AnnotationState",
    "AnnotationType",
    "BoundingBox",
    "Client",
    "Dataset",
    "FormatError",
    "Group",
    "Layer",
    "Mag",
    "MagView",
    "NoSuchFile",
    "NoSuchLayer",
    "Node",
    "RemoteDataset",
    "SegmentGroup",
    "SegmentInformation",
    "Skeleton",
    "Tree",
    "Vec3Int",
    "VolumeData",
    "VolumeLayer",
    "WrongUse",
    "webknossos_context",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'voxtract.webknossos' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"voxtract.webknossos.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
