"""Data sets on disk: a folder with ``datasource-properties.json`` and, for each layer, one array per mag.

Layers are wkw, zarr 3 (with shards or without) or, for reading, zarr 2. Positions and sizes are in voxels of mag 1
everywhere, as in the official API; the arrays below count in voxels of their mag.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from voxtract.errors import InvalidInput, NotFound, OutputError, UnreadableFile
from voxtract.geometry import Box, Shape3
from voxtract.webknossos import json_text, properties, wkw
from voxtract.webknossos.boxes import BoundingBox
from voxtract.webknossos.errors import AlreadyThere, NoSuchLayer, WrongUse
from voxtract.webknossos.mag import Mag, MagLike
from voxtract.webknossos.mag_view import MagView
from voxtract.webknossos.segments import nonzero_box
from voxtract.webknossos.volume import box_json, from_box, parse_box, to_box
from voxtract.webknossos.zarr_array import AXES, ZarrArray

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

Format = Literal["wkw", "zarr3", "zarr"]

CHUNK: Shape3 = (32, 32, 32)
SHARD: Shape3 = (1024, 1024, 1024)


class Dataset:
    """A data set folder; see `Dataset.open` and `Dataset.create`.

    Parameters
    ----------
    path : Path
    document : dict
        What ``datasource-properties.json`` holds. Keys that this version does not know stay as they are.
    read_only : bool
        Whether changing anything, voxels included, is refused.
    """

    def __init__(self, path: Path, document: dict[str, Any], read_only: bool = False) -> None:
        self.path = path
        self.document = document
        self.read_only = read_only

    @classmethod
    def open(cls, path: Path | str, read_only: bool = False) -> Dataset:
        """Open a data set folder.

        Raises
        ------
        NotFound, UnreadableFile
            No such folder, or no ``datasource-properties.json`` in it; not readable.
        DamagedFile
            That file is no JSON object.
        """
        file = Path(path) / properties.FILE
        try:
            raw = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as why:
            raise NotFound(f"{file}: no such file, so {path} is no data set; check the path") from why
        except OSError as why:
            raise UnreadableFile(f"{file}: cannot be read: {why.strerror or why}; check permissions") from why
        return cls(Path(path), json_text.parse(raw, str(file)), read_only)

    @classmethod
    def create(cls, path: Path | str, voxel_size_nm: Sequence[float], name: str | None = None) -> Dataset:
        """Make a data set without layers.

        Parameters
        ----------
        path : path
            A folder that does not exist yet, or is empty.
        voxel_size_nm : (x, y, z)
        name : str, optional
            The folder's name where it is not given.

        Raises
        ------
        AlreadyThere
            The folder holds something (also a RuntimeError and a FileExistsError).
        InvalidInput
            The voxel size is not three positive numbers.
        OutputError
            The folder cannot be made.
        """
        path = Path(path)
        size = [float(n) for n in voxel_size_nm]
        if len(size) != 3 or not all(0 < n < float("inf") for n in size):
            raise InvalidInput(f"{path}: voxel size {tuple(voxel_size_nm)}; give three positive numbers of nanometers")
        document = {
            "id": {"name": path.name if name is None else name, "team": ""},
            "scale": {"factor": size, "unit": "nanometer"},
            "version": 1,
            "dataLayers": [],
        }
        try:
            path.mkdir(parents=True, exist_ok=True)
            filled = any(path.iterdir())
        except OSError as why:
            raise OutputError(f"{path}: cannot be made: {why.strerror or why}; check the path") from why
        if filled:
            raise AlreadyThere(f"{path}: is there already and not empty; choose another folder or remove it")
        dataset = cls(path, document)
        dataset.save()
        return dataset

    @property
    def name(self) -> str:
        """The name it is known by; the folder's where the file says none."""
        return str(json_text.entry(self.document, "id", "name") or self.path.name)

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """(x, y, z) in nanometers."""
        return properties.parse_voxel_size(self.document.get("scale"), str(self.path / properties.FILE))

    @property
    def layers(self) -> dict[str, Layer]:
        """Layers by name, in the file's order."""
        listed = self.document.get("dataLayers")
        items = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
        return {str(item.get("name")): Layer(self, item) for item in items}

    def get_layer(self, name: str) -> Layer:
        """Layer of that name.

        Raises
        ------
        NoSuchLayer
            There is none; the message lists those that are there.
        """
        layers = self.layers
        if name not in layers:
            raise NoSuchLayer(f"{self.path}: has no layer {name!r}; layers: {', '.join(layers) or 'none'}")
        return layers[name]

    def check_new_layer(self, name: str) -> None:
        """Raise unless a layer of that name can be added.

        Raises
        ------
        InvalidInput
            A name that WEBKNOSSOS does not take.
        WrongUse
            The name is taken, or the data set is open for reading only.
        AlreadyThere
            A folder of that name is there, although no layer is.
        """
        self.check_writable()
        properties.check_layer_name(name)
        if name in self.layers:
            raise WrongUse(f"{self.path}: has a layer {name!r} already; choose another name")
        if (self.path / name).exists():
            raise AlreadyThere(f"{self.path / name}: is there already, though it is no layer; move it away")

    def add_layer(
        self,
        name: str,
        category: str = "segmentation",
        *,
        dtype: DTypeLike = "uint32",
        num_channels: int = 1,
        data_format: Format = "zarr3",
        bounding_box: BoundingBox | None = None,
        largest_segment_id: int | None = None,
    ) -> Layer:
        """Add a layer without mags.

        Parameters
        ----------
        name : str
        category : "segmentation" or "color"
        dtype, num_channels
            Of the voxels.
        data_format : "zarr3" or "wkw"
        bounding_box : BoundingBox, optional
            In mag 1; it grows with what is written. Of no voxel where it is None.
        largest_segment_id : int, optional
            None: not known.

        Raises
        ------
        InvalidInput
            A name, dtype or format that no layer has.
        WrongUse, AlreadyThere
            As `check_new_layer`.
        """
        self.check_new_layer(name)
        if data_format not in ("wkw", "zarr3"):
            raise InvalidInput(f"data format {data_format!r} is not written; allowed: 'zarr3', 'wkw'")
        item: dict[str, Any] = {
            "name": name,
            "category": category,
            "boundingBox": box_json(bounding_box or BoundingBox((0, 0, 0), (0, 0, 0))),
            "elementClass": properties.element_class(np.dtype(dtype)),
            "dataFormat": data_format,
            "numChannels": num_channels,
            "mags": [],
        }
        if category == "segmentation":
            item["largestSegmentId"] = properties.id_json(largest_segment_id)
        return self.put_layer(item)

    def put_layer(self, item: dict[str, Any]) -> Layer:
        """Add a layer as the file describes it, and save."""
        listed = self.document.get("dataLayers")
        self.document["dataLayers"] = [*(listed if isinstance(listed, list) else []), item]
        self.save()
        return Layer(self, item)

    def check_writable(self) -> None:
        """Raise `WrongUse` where the data set is open for reading only."""
        if self.read_only:
            raise WrongUse(f"{self.path}: is open for reading only; open it with read_only=False to change it")

    def save(self) -> None:
        """Write ``datasource-properties.json``.

        Raises
        ------
        WrongUse
            Open for reading only.
        OutputError
            It cannot be written.
        """
        self.check_writable()
        file = self.path / properties.FILE
        part = file.with_name(f".{file.name}.{os.getpid()}.part")
        try:
            part.write_bytes(properties.dumps(self.document))
            part.replace(file)
        except OSError as why:
            part.unlink(missing_ok=True)
            raise OutputError(f"{file}: cannot be written: {why.strerror or why}; check space and permissions") from why


class Layer:
    """A layer of a data set.

    Parameters
    ----------
    dataset : Dataset
    document : dict
        Its part of ``datasource-properties.json``.
    """

    def __init__(self, dataset: Dataset, document: dict[str, Any]) -> None:
        self.dataset = dataset
        self.document = document

    @property
    def where(self) -> str:
        """The layer, for messages."""
        return f"{self.dataset.path}, layer {self.name!r}"

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.document.get("name"))

    @property
    def path(self) -> Path:
        """Its folder, where its mags lie if they do not say otherwise."""
        return self.dataset.path / self.name

    @property
    def category(self) -> str:
        """``"segmentation"`` or ``"color"``."""
        return str(self.document.get("category"))

    @property
    def data_format(self) -> Format:
        """``"wkw"``, ``"zarr3"`` or ``"zarr"`` (version 2).

        Raises
        ------
        InvalidInput
            Any other.
        """
        found = self.document.get("dataFormat") or ("wkw" if "wkwResolutions" in self.document else None)
        if found not in ("wkw", "zarr3", "zarr"):
            raise InvalidInput(f"{self.where}: data format {found!r} is not read; known are wkw, zarr3 and zarr")
        return cast("Format", found)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels of one channel."""
        return properties.parse_dtype(self.document, self.where)

    @property
    def num_channels(self) -> int:
        """Values of each voxel."""
        if self.document.get("elementClass") == "uint24":
            return 3
        found = self.document.get("numChannels")
        return found if type(found) is int and found > 0 else 1

    @property
    def bounding_box(self) -> BoundingBox:
        """Where it has voxels, as the file says; mag 1. Setting it writes the file."""
        box = parse_box(self.document.get("boundingBox"))
        if box is None:
            raise InvalidInput(f"{self.where}: boundingBox {self.document.get('boundingBox')!r} is none; repair it")
        return box

    @bounding_box.setter
    def bounding_box(self, box: BoundingBox) -> None:
        self._set("boundingBox", box_json(box))

    @property
    def largest_segment_id(self) -> int | None:
        """Largest voxel, as the file says; None where it is not known. Setting it writes the file."""
        return properties.parse_id(self.document.get("largestSegmentId"), self.where)

    @largest_segment_id.setter
    def largest_segment_id(self, value: int | None) -> None:
        self._set("largestSegmentId", properties.id_json(value))

    @property
    def mags(self) -> dict[Mag, MagView]:
        """Its mags, finest first."""
        return {mag: MagView(self, mag, item) for mag, item in properties.parse_mags(self.document, self.where).items()}

    def get_mag(self, mag: MagLike) -> MagView:
        """Return one mag: 1, "1", "1-1-1", (2, 2, 1), "2-2-1".

        Raises
        ------
        WrongUse
            The layer does not have it; the message lists those that are there.
        """
        mags = self.mags
        if Mag(mag) not in mags:
            raise WrongUse(f"{self.where}: has no mag {Mag(mag)}; mags: {', '.join(map(str, mags)) or 'none'}")
        return mags[Mag(mag)]

    def get_finest_mag(self) -> MagView:
        """Return the finest mag.

        Raises
        ------
        WrongUse
            There is none.
        """
        mags = list(self.mags.values())
        if not mags:
            raise WrongUse(f"{self.where}: has no mag; add one with add_mag()")
        return mags[0]

    def add_mag(self, mag: MagLike, *, chunk: Shape3 = CHUNK, shard: Shape3 | None = SHARD) -> MagView:
        """Add a mag without voxels.

        Parameters
        ----------
        mag : Mag, int, str or three ints
        chunk : (x, y, z)
            Voxels of the smallest piece that is read; of wkw the three are equal powers of two.
        shard : (x, y, z), optional
            Voxels of a file, a multiple of `chunk`; one file per chunk where it is None.

        Raises
        ------
        WrongUse
            It is there already, or the data set is open for reading only.
        InvalidInput
            Sizes that do not go together; a layer of zarr 2.
        OutputError
            It cannot be written.
        """
        self.dataset.check_writable()
        mag = Mag(mag)
        if mag in self.mags:
            raise WrongUse(f"{self.where}: has mag {mag} already")
        sides = list(zip(shard or chunk, chunk, strict=True))
        if any(small < 1 or large < small or large % small for large, small in sides):
            raise InvalidInput(f"{self.where}: shards of {shard} voxels are no multiple of chunks of {chunk}")
        if self.data_format == "zarr3":
            extent = mag.grown(to_box(self.bounding_box)).stop
            size: Shape3 = (max(1, extent[0]), max(1, extent[1]), max(1, extent[2]))
            ZarrArray.create(self.path / mag.name, self.dtype, self.num_channels, size, chunk, shard)
            return self.put_mag(mag)
        block, cube = sides[0][1], sides[0][0] // sides[0][1]
        powers = all(n & (n - 1) == 0 for n in (block, cube))
        if self.data_format != "wkw" or len(set(sides)) > 1 or not powers:
            raise InvalidInput(f"{self.where}: {self.data_format} with chunks of {chunk} in {shard} is not written")
        header = wkw.Header(self.dtype, self.num_channels, block, cube, wkw.LZ4)
        wkw.WkwArray.create(self.path / mag.name, header)
        return self.put_mag(mag)

    def put_mag(self, mag: Mag) -> MagView:
        """List a mag whose array lies in its folder, and save."""
        item: dict[str, Any] = {
            "mag": list(mag),
            "path": f"./{self.name}/{mag}",
            "axisOrder": {name: axis for axis, name in enumerate(AXES)},
        }
        view = MagView(self, mag, item)
        if self.data_format == "wkw":
            item["cubeLength"] = view.array.shard[0]
        mags = [*self.document.get("mags", []), item]
        self._set("mags", sorted(mags, key=lambda entry: tuple(Mag(entry["mag"]))))
        return view

    def tight_box(self) -> BoundingBox:
        """Smallest box around the voxels of the finest mag that are not 0; mag 1, of no voxel where there are none.

        All stored chunks are decoded, one at a time.
        """
        return from_box(nonzero_box(self.get_finest_mag()) or Box((0, 0, 0), (0, 0, 0)))

    def _set(self, key: str, value: Any) -> None:
        self.dataset.check_writable()
        self.document[key] = value
        self.dataset.save()
