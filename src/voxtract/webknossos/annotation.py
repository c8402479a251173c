"""The annotation: a skeleton, bounding boxes and volume layers, from a file or a server and back."""

from __future__ import annotations

import os
import re
import shutil
import time as clock
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import InvalidInput, OutputError, VoxtractError
from voxtract.webknossos import archive
from voxtract.webknossos.archive import Contents, Entry, ScratchFolder
from voxtract.webknossos.boxes import BoundingBox
from voxtract.webknossos.document import AdditionalAxis, Document
from voxtract.webknossos.errors import AlreadyThere, FormatError, NoSuchFile, NoSuchLayer, WrongUse
from voxtract.webknossos.kept import Kept
from voxtract.webknossos.layers import SegmentInformation, Stored, VolumeLayer, check_dtype, known_size
from voxtract.webknossos.nodes import Vector, check_vector
from voxtract.webknossos.skeleton import Skeleton

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from numpy.typing import DTypeLike

    from voxtract.webknossos.dataset import Dataset, Layer
    from voxtract.webknossos.remote import RemoteDataset

PathLike = str | os.PathLike[str]

_NOW: Any = object()
_IN_META = ("username", "annotationId")  # items that are attributes of the annotation
_DTYPE_NAME = re.compile(r"[<>=|]?(u?int\d*|float\d*|double|complex\d*|bool)")
_NOT_IN_NAMES = re.compile(r'[/\\:*?"<>|\x00-\x1f]|^\.+')


class AnnotationType(Enum):
    """What an annotation was made for, as it stands in links."""

    EXPLORATIONAL = "Explorational"
    TASK = "Task"
    _COMPOUND_TASK = "CompoundTask"
    _COMPOUND_PROJECT = "CompoundProject"
    _COMPOUND_TASK_TYPE = "CompoundTaskType"


class AnnotationState(Enum):
    """How far an annotation is."""

    ACTIVE = "Active"
    CANCELLED = "Cancelled"
    FINISHED = "Finished"
    INITIALIZING = "Initializing"


class Annotation:
    """Everything that somebody has drawn and said about a dataset: skeleton, bounding boxes, volume layers.

    Parameters
    ----------
    name : str
    skeleton : Skeleton, optional
        Says which dataset is meant. Where it is not given, `dataset_name` and `voxel_size` are needed.
    dataset_name : str, optional
    voxel_size : (x, y, z), optional
        Nanometres.
    organization_id, description : str, optional
        Of the dataset; they are kept in the skeleton.
    owner_name, annotation_id : str, optional
    time : int, optional
        Milliseconds since 1970; now, in whole seconds, where it is not given.
    edit_position : (x, y, z) float, optional
        Voxel that the viewer shows.
    edit_rotation : (x, y, z) float, optional
        Degrees.
    zoom_level : number, optional
    metadata : dict of str to str, optional
    task_bounding_box : BoundingBox, optional
    user_bounding_boxes : list of BoundingBox, optional
    dataset_id : str, optional

    Attributes
    ----------
    active_node : int or None
        Id of the node that is chosen in the viewer.
    wk_url : str or None
        Server that wrote the file.
    additional_axes : list of AdditionalAxis
        Axes beyond x, y, z.
    kept : dict
        What the file says that this version does not know; written back.

    Raises
    ------
    WrongUse
        No skeleton and no dataset, or both (also an AssertionError).
    InvalidInput
        Numbers that are none.

    Examples
    --------
    >>> annotation = Annotation("axons", dataset_name="cortex", voxel_size=(11.24, 11.24, 28), time=0)
    >>> tree = annotation.skeleton.add_tree("axon 1")
    >>> node = tree.add_node((10, 20, 30), comment="soma")
    >>> annotation.user_bounding_boxes.append(BoundingBox((0, 0, 0), (100, 100, 10), name="done"))
    >>> annotation
    Annotation('axons', dataset 'cortex', 1 trees, 1 nodes, 1 boxes, 0 volume layers)
    """

    def __init__(
        self,
        name: str,
        skeleton: Skeleton | None = None,
        dataset_name: str | None = None,
        voxel_size: Iterable[float] | None = None,
        organization_id: str | None = None,
        description: str | None = None,
        owner_name: str | None = None,
        annotation_id: str | None = None,
        time: int | None = _NOW,
        edit_position: Iterable[float] | None = None,
        edit_rotation: Iterable[float] | None = None,
        zoom_level: float | None = None,
        metadata: dict[str, str] | None = None,
        task_bounding_box: BoundingBox | None = None,
        user_bounding_boxes: list[BoundingBox] | None = None,
        dataset_id: str | None = None,
    ) -> None:
        dataset = {
            "dataset_name": dataset_name,
            "voxel_size": voxel_size,
            "organization_id": organization_id,
            "description": description,
            "dataset_id": dataset_id,
        }
        if skeleton is not None:
            given = [word for word, value in dataset.items() if value is not None]
            if given:
                raise WrongUse(f"annotation {name!r}: the skeleton says the {' and '.join(given)}; leave that out")
        elif dataset_name is None or voxel_size is None:
            raise WrongUse(f"annotation {name!r}: give a skeleton, or dataset_name and voxel_size")
        else:
            skeleton = Skeleton(dataset_name, voxel_size, organization_id, description, dataset_id)
        self.name = name
        self.skeleton = skeleton
        self.owner_name = owner_name
        self.annotation_id = annotation_id
        self.time: int | None = int(clock.time()) * 1000 if time is _NOW else time
        self.edit_position = edit_position
        self.edit_rotation = edit_rotation
        self.zoom_level = zoom_level
        self.metadata = {} if metadata is None else metadata
        self.task_bounding_box = task_bounding_box
        self.user_bounding_boxes = [] if user_bounding_boxes is None else user_bounding_boxes
        self.active_node: int | None = None
        self.wk_url: str | None = None
        self.additional_axes: list[AdditionalAxis] = []
        self.kept: Kept = {}
        self._offset: Vector | None = None
        self._volume_layers: list[VolumeLayer] = []
        self._files: dict[str, Entry] = {}  # of the archive, that belong to no layer
        self._server: str | None = None  # where a link said it is

    # Facts that the skeleton holds

    @property
    def dataset_name(self) -> str:
        """Name of the dataset."""
        return self.skeleton.dataset_name

    @dataset_name.setter
    def dataset_name(self, dataset_name: str) -> None:
        self.skeleton.dataset_name = dataset_name

    @property
    def dataset_id(self) -> str | None:
        """Id of the dataset on its server."""
        return self.skeleton.dataset_id

    @dataset_id.setter
    def dataset_id(self, dataset_id: str | None) -> None:
        self.skeleton.dataset_id = dataset_id

    @property
    def voxel_size(self) -> Vector:
        """Size of a voxel along x, y, z in nanometres; -1 on all axes: not known."""
        return self.skeleton.voxel_size

    @voxel_size.setter
    def voxel_size(self, voxel_size: Iterable[float]) -> None:
        self.skeleton.voxel_size = voxel_size

    @property
    def organization_id(self) -> str | None:
        """Organization that the dataset belongs to."""
        return self.skeleton.organization_id

    @organization_id.setter
    def organization_id(self, organization_id: str | None) -> None:
        self.skeleton.organization_id = organization_id

    @property
    def description(self) -> str | None:
        """What is said about the annotation."""
        return self.skeleton.description

    @description.setter
    def description(self, description: str | None) -> None:
        self.skeleton.description = description

    @property
    def scale(self) -> Vector:
        """Deprecated: `voxel_size`."""
        _deprecated("scale", "voxel_size")
        return self.voxel_size

    @scale.setter
    def scale(self, scale: Iterable[float]) -> None:
        _deprecated("scale", "voxel_size")
        self.voxel_size = scale

    @property
    def username(self) -> str | None:
        """Deprecated: `owner_name`."""
        _deprecated("username", "owner_name")
        return self.owner_name

    @username.setter
    def username(self, username: str | None) -> None:
        _deprecated("username", "owner_name")
        self.owner_name = username

    @property
    def edit_position(self) -> Vector | None:
        """Voxel (x, y, z) that the viewer shows."""
        return self._edit_position

    @edit_position.setter
    def edit_position(self, position: Iterable[float] | None) -> None:
        self._edit_position = None if position is None else check_vector(position, "edit_position")

    @property
    def edit_rotation(self) -> Vector | None:
        """Rotation of the view in degrees."""
        return self._edit_rotation

    @edit_rotation.setter
    def edit_rotation(self, rotation: Iterable[float] | None) -> None:
        self._edit_rotation = None if rotation is None else check_vector(rotation, "edit_rotation")

    # Files

    @classmethod
    def load(cls, annotation_path: PathLike) -> Annotation:
        """Read an annotation file.

        Parameters
        ----------
        annotation_path : path
            An .nml (skeleton, boxes, and volume layers without data) or a .zip. The voxels of volume layers are left in
            the zip until they are asked for, so it has to stay as it is as long as they are needed.

        Returns
        -------
        Annotation

        Raises
        ------
        NoSuchFile
            There is none (FileNotFoundError and AssertionError).
        FormatError
            Another suffix, or a file that does not hold what the format asks for (RuntimeError, AssertionError and
            ValueError); see `archive.load_zip` and `nml_read.read`.
        UnreadableFile
            It cannot be read.

        Warns
        -----
        UserWarning
            The voxels of a volume layer are not there; see also `nml_read.read`.
        """
        path = Path(annotation_path)
        if _suffix(path) is None:
            raise FormatError(f"{path}: an annotation ends in .nml or .zip")
        if not path.is_file():
            raise NoSuchFile(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; give an .nml or .zip file")
        return cls._of(archive.load_nml(path) if _suffix(path) == ".nml" else archive.load_zip(path.resolve()))

    def save(self, path: PathLike, *, overwrite: bool = False) -> None:
        """Write an annotation file: the same bytes for the same annotation, whole or not at all.

        Parameters
        ----------
        path : path
            Ends in .nml (an annotation without volume layers) or .zip.
        overwrite : bool
            Whether a .zip that is there is replaced; an .nml always is.

        Raises
        ------
        WrongUse
            Another suffix, or an .nml where there are volume layers (also an AssertionError).
        AlreadyThere
            There is a .zip of that name (also a FileExistsError).
        NotFound
            The folder is not there (also a FileNotFoundError).
        InvalidInput
            What cannot be written: control characters in texts, metadata of other kinds, segment groups in circles.
        FormatError, UnreadableFile
            The zip that it was loaded from has changed, is damaged or gone.
        OutputError
            The file cannot be written.
        """
        path = Path(path)
        suffix = _suffix(path)
        if suffix is None:
            raise WrongUse(f"{path}: an annotation is written to .nml or .zip")
        if suffix == ".nml":
            if self._volume_layers:
                names = ", ".join(layer.name for layer in self._volume_layers)
                raise WrongUse(f"{path}: has the volume layers {names}, which an .nml cannot hold; save it as .zip")
            archive.save_nml(path, self._document())
            return
        if path.exists() and not overwrite:
            raise AlreadyThere(f"{path}: is there already; choose another name or pass overwrite=True")
        layers = {layer.id: layer.data for layer in self._volume_layers if layer.data is not None}
        self._save_zip(path, layers)

    def _save_zip(self, path: Path, layers: dict[int, Stored]) -> None:
        """Write a zip in which these layers have data."""
        nml_name = f"{_file_name(self.name) or 'annotation'}.nml"
        locations = self._locations({nml_name, *self._files}, layers)
        files = {**self._files, **{locations[number]: stored for number, stored in layers.items()}}
        archive.save_zip(path, nml_name, self._document(), locations, files)
        place = path.resolve()
        if any(isinstance(stored, Entry) and stored.path == place for stored in files.values()):
            written = archive.entries(place)  # the old zip is gone; what was read from it is in the new one
            self._files = {name: written[name] for name in self._files}
            for layer in self._volume_layers:
                if layer.id in layers:
                    layer.data = written[locations[layer.id]]

    def _locations(self, used: set[str], layers: dict[int, Stored]) -> dict[int, str]:
        """Names for the zips with voxels: those they had, else made from id and name."""
        locations: dict[int, str] = {}
        used = set(used)
        for layer in self._volume_layers:
            if layer.id not in layers:
                continue
            name = layer.location or ""
            if not archive.is_safe(name) or name in used or name.lower().endswith(".nml"):
                name = f"data_{layer.id}_{_file_name(layer.name)}.zip"
            while name in used:
                name = f"_{name}"
            used.add(name)
            locations[layer.id] = name
        return locations

    @classmethod
    def _of(cls, contents: Contents) -> Annotation:
        document = contents.document
        annotation = cls(contents.name, document.skeleton, time=document.time)
        annotation.owner_name = document.meta.get("username")
        annotation.annotation_id = document.meta.get("annotationId")
        annotation.metadata = {name: text for name, text in document.meta.items() if name not in _IN_META}
        annotation._edit_position = document.edit_position
        annotation._edit_rotation = document.edit_rotation
        annotation.zoom_level = document.zoom_level
        annotation.task_bounding_box = document.task_box
        annotation.user_bounding_boxes = document.user_boxes
        annotation.active_node = document.active_node
        annotation.wk_url = document.wk_url
        annotation.additional_axes = document.axes
        annotation.kept = document.kept
        annotation._offset = document.offset
        annotation._volume_layers = document.volumes
        for layer in document.volumes:
            layer.voxel_size = annotation.voxel_size
        annotation._files = contents.files
        return annotation

    def _document(self) -> Document:
        own = {"username": self.owner_name, "annotationId": self.annotation_id}
        meta = {**self.metadata, **{name: text for name, text in own.items() if text is not None}}
        return Document(
            self.skeleton,
            meta,
            self.time,
            self._offset,
            self._edit_position,
            self._edit_rotation,
            self.zoom_level,
            self.active_node,
            self.wk_url,
            self.user_bounding_boxes,
            self.task_bounding_box,
            self.additional_axes,
            self._volume_layers,
            self.kept,
        )

    # Volume layers

    @property
    def volume_layers(self) -> tuple[VolumeLayer, ...]:
        """The volume layers, in the order of the file."""
        return tuple(self._volume_layers)

    def get_volume_layer_names(self) -> Iterator[str]:
        """Names of the volume layers, in the order of the file."""
        return (layer.name for layer in self._volume_layers)

    def get_volume_layer(self, volume_layer_name: str | None = None, volume_layer_id: int | None = None) -> VolumeLayer:
        """Find a volume layer.

        Parameters
        ----------
        volume_layer_name : str, optional
        volume_layer_id : int, optional
            Where there are several layers, it counts before the name. Neither is needed where there is one layer.

        Raises
        ------
        NoSuchLayer
            There is none, not the one that is meant, or it is not said which (ValueError and AssertionError).

        Warns
        -----
        UserWarning
            The layer of that id has another name.
        """
        layers = self._volume_layers
        has = ", ".join(f"{layer.name!r} (id {layer.id})" for layer in layers)
        if not layers:
            raise NoSuchLayer(f"annotation {self.name!r} has no volume layers")
        named = [layer for layer in layers if volume_layer_name in (None, layer.name)]
        if volume_layer_id is not None:
            found = [layer for layer in layers if layer.id == volume_layer_id]
            if not found or (len(layers) == 1 and not named):
                raise NoSuchLayer(
                    f"annotation {self.name!r} has no volume layer "
                    f"{_called(volume_layer_name, volume_layer_id)}; it has {has}"
                )
            if found[0] not in named:
                warnings.warn(
                    f"annotation {self.name!r}: the volume layer of id {volume_layer_id} is called {found[0].name!r}, "
                    f"not {volume_layer_name!r}; the id counts",
                    UserWarning,
                    stacklevel=3,
                )
            return found[0]
        if len(named) == 1:
            return named[0]
        if volume_layer_name is None:
            raise NoSuchLayer(f"annotation {self.name!r} has {len(layers)} volume layers; say which: {has}")
        many = f"{len(named)} volume layers" if named else "no volume layer"
        raise NoSuchLayer(f"annotation {self.name!r} has {many} {_called(volume_layer_name, None)}; it has {has}")

    def get_volume_layer_segments(
        self, volume_layer_name: str | None = None, volume_layer_id: int | None = None
    ) -> dict[int, SegmentInformation]:
        """Segment id -> what is said of the segment: the layer's own dict, changes of which are saved.

        Parameters and errors as `get_volume_layer`.
        """
        return self.get_volume_layer(volume_layer_name, volume_layer_id).segments

    def add_volume_layer(
        self,
        name: str,
        dtype: DTypeLike | Layer | None = None,
        fallback_layer: str | Layer | int | None = None,
        volume_layer_id: int | None = None,
    ) -> VolumeLayer:
        """Add a volume layer without data.

        Parameters
        ----------
        name : str
        dtype : integer dtype, optional
            Of the voxels that `VolumeLayer.edit` will write; uint32 where it is not given. Left out altogether, as in
            ``add_volume_layer(name, fallback_layer, volume_layer_id)``, the values after it move up.
        fallback_layer : str or layer, optional
            Segmentation layer of the dataset that shows where this one holds nothing.
        volume_layer_id : int, optional
            The largest id + 1 where it is not given; 0 is the first.

        Returns
        -------
        VolumeLayer

        Raises
        ------
        WrongUse
            A dtype that is no integer type, a fallback layer that is no segmentation, an id that another layer has
            (also an AssertionError). The annotation is unchanged.
        """
        if dtype is not None and not _is_dtype(dtype):
            dtype, fallback_layer, volume_layer_id = None, dtype, _moved_up(fallback_layer, volume_layer_id)
        elif dtype is None and isinstance(fallback_layer, int | np.integer):
            fallback_layer, volume_layer_id = None, _moved_up(fallback_layer, volume_layer_id)
        checked = None if dtype is None else check_dtype(dtype)
        fallback = _fallback_name(fallback_layer)
        ids = [layer.id for layer in self._volume_layers]
        number = max(ids, default=-1) + 1 if volume_layer_id is None else int(volume_layer_id)
        if number in ids or number < 0:
            raise WrongUse(
                f"volume layer {name!r}: the id {number} is {'negative' if number < 0 else 'taken'}; take another"
            )
        layer = VolumeLayer(number, name, fallback, "zarr3", dtype=checked, voxel_size=self.voxel_size)
        self._volume_layers.append(layer)
        return layer

    def delete_volume_layer(self, volume_layer_name: str | None = None, volume_layer_id: int | None = None) -> None:
        """Remove a volume layer; parameters and errors as `get_volume_layer`."""
        layer = self.get_volume_layer(volume_layer_name, volume_layer_id)
        self._volume_layers = [other for other in self._volume_layers if other is not layer]
        self._files.pop(layer.edited_mapping_edges_location or "", None)

    def export_volume_layer_to_dataset(
        self,
        dataset: Dataset,
        layer_name: str = "volume_layer",
        volume_layer_name: str | None = None,
        volume_layer_id: int | None = None,
    ) -> Layer:
        """Copy the voxels of a volume layer into a dataset: all mags, in their format.

        Parameters
        ----------
        dataset : Dataset
        layer_name : str
            Of the new layer.
        volume_layer_name, volume_layer_id : optional
            As `get_volume_layer`.

        Raises
        ------
        WrongUse
            The layer has no data, or the name is taken (also an AssertionError). Nothing is written.
        InvalidInput
            A name that WEBKNOSSOS does not take.
        NoSuchLayer
            As `get_volume_layer`.
        FormatError, DamagedFile, UnreadableFile, OutputError
            The voxels cannot be read or written. Nothing is left behind.
        """
        from voxtract.webknossos.copying import copy_volume

        layer = self.get_volume_layer(volume_layer_name, volume_layer_id)
        dataset.check_new_layer(layer_name)
        with layer.open() as volume:
            return copy_volume(volume, dataset, layer_name, layer.largest_segment_id)

    @contextmanager
    def temporary_volume_layer_copy(
        self, volume_layer_name: str | None = None, volume_layer_id: int | None = None, read_only: bool = True
    ) -> Iterator[Layer]:
        """Copy the voxels of a volume layer into a temporary dataset, which is removed at the end of the block.

        Parameters
        ----------
        volume_layer_name, volume_layer_id : optional
            As `get_volume_layer`.
        read_only : bool
            Whether changing the copy is refused. Changes never reach the annotation; see `VolumeLayer.edit` for that.

        Raises
        ------
        NoSuchLayer, WrongUse, FormatError, DamagedFile, UnreadableFile, OutputError
            As `export_volume_layer_to_dataset`.
        """
        from voxtract.webknossos.copying import temporary_copy

        layer = self.get_volume_layer(volume_layer_name, volume_layer_id)
        with layer.open() as volume:
            size = known_size(self.voxel_size)
            with temporary_copy(volume, "volume_layer", size, layer.largest_segment_id, read_only) as copy:
                yield copy

    def merge_fallback_layer(
        self,
        target: PathLike,
        dataset_directory: PathLike,
        volume_layer_name: str | None = None,
        executor: Executor | None = None,  # noqa: ARG002 - the official library's; one process is enough here
    ) -> Dataset:
        """Make a dataset whose one layer is the fallback layer with the annotation's voxels written over it.

        Parameters
        ----------
        target : path
            A folder that does not exist yet, or is empty.
        dataset_directory : path
            Where the folder of the dataset, called `dataset_name`, lies.
        volume_layer_name : str, optional
            As `get_volume_layer`.
        executor : optional
            Not used.

        Returns
        -------
        Dataset
            Without a fallback layer it holds the volume layer, as ``volume_layer``; without data the fallback layer;
            else both, merged, as `voxtract.webknossos.merge.merge_fallback` says it.

        Raises
        ------
        AlreadyThere
            `target` holds something (also a RuntimeError).
        NoSuchLayer, WrongUse
            No such volume layer; neither data nor a fallback layer; the dataset lacks the fallback layer, or it has
            another dtype or lacks the annotation's finest mag (also an AssertionError).
        NotFound
            The dataset is not there.
        FormatError, DamagedFile, InvalidInput, UnreadableFile, OutputError
            The voxels cannot be read or written. Nothing is left behind.
        """
        from voxtract.webknossos.copying import copy_layer, copy_volume
        from voxtract.webknossos.dataset import Dataset
        from voxtract.webknossos.merge import merge_fallback

        layer = self.get_volume_layer(volume_layer_name)
        target = Path(target)
        if layer.fallback_layer is None:
            with layer.open() as volume, _new_dataset(target, known_size(self.voxel_size)) as dataset:
                copy_volume(volume, dataset, "volume_layer", layer.largest_segment_id)
            return Dataset.open(target)
        fallback = Dataset.open(Path(dataset_directory) / self.dataset_name, read_only=True).get_layer(
            layer.fallback_layer
        )
        if layer.data is not None:
            with layer.open() as volume:
                if not volume.is_empty:
                    return merge_fallback(target, fallback, volume)
        with _new_dataset(target, fallback.dataset.voxel_size) as dataset:
            copy_layer(fallback, dataset)
        return Dataset.open(target)

    # Servers

    @classmethod
    def download(
        cls,
        annotation_id_or_url: str,
        annotation_type: str | AnnotationType | None = None,
        webknossos_url: str | None = None,
        *,
        skip_volume_data: bool = False,
    ) -> Annotation:
        """Download an annotation.

        Parameters
        ----------
        annotation_id_or_url : str
            Its id, or a link to it.
        annotation_type : optional
            Ignored.
        webknossos_url : str, optional
            The server of an id; that of the `webknossos_context` where it is not given.
        skip_volume_data : bool
            Leave out the voxels of volume layers.

        Raises
        ------
        WrongUse
            A link together with `annotation_type` or `webknossos_url` (also an AssertionError).
        InvalidInput
            Neither an id nor a link.
        ServerError, UnexpectedAnswer
            The server or the connection fails.
        FormatError
            What came is no annotation.
        """
        from voxtract.webknossos import client

        address = client.find_annotation(annotation_id_or_url, webknossos_url)
        folder = ScratchFolder()
        path = client.download(
            annotation_id_or_url, annotation_type, webknossos_url, skip_volume_data=skip_volume_data, folder=folder.path
        )
        if _suffix(path) is None:
            raise FormatError(f"{path.name}: the server sent this, but an annotation ends in .nml or .zip")
        contents = archive.load_nml(path) if _suffix(path) == ".nml" else archive.load_zip(path.resolve(), folder)
        annotation = cls._of(contents)
        annotation.annotation_id = annotation.annotation_id or address.id
        annotation._server = address.base
        return annotation

    def upload(self) -> str:
        """Upload the annotation to the server of the `webknossos_context`.

        Volume layers without chunks go without data. The organization becomes that of the user where there is none.

        Returns
        -------
        str
            Link to the new annotation.

        Raises
        ------
        WrongUse
            Two volume layers of one name, which servers refuse (also an AssertionError).
        ServerError, UnexpectedAnswer
            No token (also a RuntimeError), or the server or the connection fails.
        InvalidInput, FormatError, UnreadableFile, OutputError
            As `save`.
        """
        from voxtract.webknossos.client import Client

        names = list(self.get_volume_layer_names())
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise WrongUse(
                f"annotation {self.name!r}: two volume layers are called {twice[0]!r}; give one another name"
            )
        layers: dict[int, Stored] = {}
        for layer in self._volume_layers:
            if layer.data is not None:
                with layer.open() as volume:
                    if not volume.is_empty:
                        layers[layer.id] = layer.data
        folder = ScratchFolder()
        path = folder.path / "annotation.zip"
        with Client() as server:
            if self.organization_id is None and server.has_token:
                self.organization_id = server.organization()
            self._save_zip(path, layers)
            return server.upload(path, name=self.name)

    def get_remote_annotation_dataset(self) -> RemoteDataset:
        """Stream the layers of the dataset, and the volume layers with fallback and mapping, from the server.

        Raises
        ------
        InvalidInput
            The annotation has no `annotation_id`: it is not on a server yet (also a ValueError).
        ServerError, UnexpectedAnswer
            The server or the connection fails.
        """
        from voxtract.webknossos.client import remote_annotation_dataset

        if self.annotation_id is None:
            raise InvalidInput(f"annotation {self.name!r} has no annotation_id; upload it first, or download it")
        return remote_annotation_dataset(self.annotation_id, self._server)

    def get_remote_base_dataset(
        self, sharing_token: str | None = None, webknossos_url: str | None = None
    ) -> RemoteDataset:
        """Stream the dataset alone from the server.

        Parameters
        ----------
        sharing_token : str, optional
            Takes the place of the user's token.
        webknossos_url : str, optional
            The server; that of the link it was downloaded from, or of the `webknossos_context`, where it is not given.

        Raises
        ------
        InvalidInput
            A sharing token that is none.
        ServerError, UnexpectedAnswer
            No such dataset, or the server or the connection fails.
        """
        from voxtract.webknossos.client import remote_base_dataset

        return remote_base_dataset(
            self.dataset_name,
            self.organization_id,
            dataset_id=self.dataset_id,
            sharing_token=sharing_token,
            webknossos_url=webknossos_url or self._server,
        )

    @classmethod
    def open_as_remote_dataset(
        cls,
        annotation_id_or_url: str,
        annotation_type: str | AnnotationType | None = None,
        webknossos_url: str | None = None,
    ) -> RemoteDataset:
        """Download an annotation without voxels and stream it; see `download` and `get_remote_annotation_dataset`."""
        annotation = cls.download(annotation_id_or_url, annotation_type, webknossos_url, skip_volume_data=True)
        return annotation.get_remote_annotation_dataset()

    def __eq__(self, other: object) -> bool:
        return self._facts() == other._facts() if isinstance(other, Annotation) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        trees = sum(1 for _ in self.skeleton.flattened_trees())
        nodes, boxes = self.skeleton.get_total_node_count(), len(self.user_bounding_boxes)
        return (
            f"Annotation({self.name!r}, dataset {self.dataset_name!r}, {trees} trees, {nodes} nodes, {boxes} boxes, "
            f"{len(self._volume_layers)} volume layers)"
        )

    def _facts(self) -> tuple[Any, ...]:
        voxels = [layer.data and (layer.data.size, layer.data.crc) for layer in self._volume_layers]
        return self.name, self._document(), voxels, {name: (file.size, file.crc) for name, file in self._files.items()}


@contextmanager
def _new_dataset(target: Path, voxel_size: Vector) -> Iterator[Dataset]:
    """Make a dataset in a hidden folder that becomes `target` where the block ends well, and is removed where not."""
    from voxtract.webknossos.dataset import Dataset

    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise AlreadyThere(f"{target}: is there already and not empty; choose another folder or remove it")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield Dataset.create(part, voxel_size, target.name)
        if target.exists():
            target.rmdir()
        part.rename(target)
    except VoxtractError:
        raise
    except OSError as why:
        raise OutputError(f"{target}: cannot be written: {why.strerror or why}; check space and permissions") from why
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _deprecated(old: str, new: str) -> None:
    warnings.warn(f"Annotation.{old} is deprecated; use {new}", DeprecationWarning, stacklevel=3)


def _suffix(path: Path) -> str | None:
    suffix = path.suffix.lower()
    return suffix if suffix in (".nml", ".zip") else None


def _file_name(name: str) -> str:
    """A name for a file: without what leads elsewhere or is not allowed on some system."""
    return _NOT_IN_NAMES.sub("_", name)


def _called(name: str | None, number: int | None) -> str:
    return " ".join([*([repr(name)] if name is not None else []), *([f"(id {number})"] if number is not None else [])])


def _is_dtype(value: object) -> bool:
    """Whether a value is meant as a dtype, not as a fallback layer."""
    if isinstance(value, str):
        return _DTYPE_NAME.fullmatch(value) is not None
    return isinstance(value, type | np.dtype)


def _moved_up(value: object, number: int | None) -> int | None:
    """The id of a new layer, where the dtype before it was left out."""
    if value is None:
        return number
    if not isinstance(value, int | np.integer):
        raise WrongUse(f"{value!r}: the id of a volume layer is a whole number")
    return int(value)


def _fallback_name(fallback: str | Layer | int | None) -> str | None:
    if fallback is None or isinstance(fallback, str):
        return fallback
    category, name = getattr(fallback, "category", None), getattr(fallback, "name", None)
    if str(getattr(category, "value", category)) != "segmentation" or not isinstance(name, str):
        raise WrongUse(f"fallback_layer {fallback!r} is no segmentation layer; give one, or its name")
    return name
