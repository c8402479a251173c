"""What an annotation file says of its volume layers: segments, their groups, and where the voxels lie."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from voxtract.webknossos.boxes import Color
from voxtract.webknossos.errors import WrongUse
from voxtract.webknossos.kept import Kept
from voxtract.webknossos.nodes import Vector
from voxtract.webknossos.skeleton import MetadataValue

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from voxtract.webknossos.editing import EditableLayer
    from voxtract.webknossos.volume import VolumeData

DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")


class Stored(Protocol):
    """Bytes of a zip with voxels (or of another file of an annotation), read when they are asked for."""

    @property
    def where(self) -> str:
        """The file, for messages."""

    @property
    def size(self) -> int:
        """Number of bytes."""

    @property
    def crc(self) -> int:
        """CRC-32 of the bytes."""

    def open(self) -> BinaryIO:
        """Open the bytes for reading from any place; the caller closes the file."""


@dataclass(slots=True)
class SegmentInformation:
    """What is said of one segment of a volume layer. It can be changed, and compares by value.

    Parameters
    ----------
    name : str, optional
    anchor_position : (x, y, z) int, optional
        A voxel of mag 1 in the segment.
    color : RGBA, optional
        Four numbers from 0 to 1.
    metadata : dict of str -> str, number, bool or list of str
    created : int, optional
        Milliseconds since 1970.
    is_visible : bool
    group_id : int, optional
        Segment group of the layer; not one of the skeleton's groups.
    additional_coordinates : dict of axis name -> int
        Of the anchor, along axes beyond x, y, z.
    kept : dict
        What the file says of the segment that this version does not know.
    """

    name: str | None = None
    anchor_position: Sequence[int] | None = None
    color: Color | None = None
    metadata: dict[str, MetadataValue] = field(default_factory=dict)
    created: int | None = None
    is_visible: bool = True
    group_id: int | None = None
    additional_coordinates: dict[str, int] = field(default_factory=dict)
    kept: Kept = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class SegmentGroup:
    """A named group of segments; `parent` is the id of the group that it is in, None at the top."""

    id: int
    name: str
    parent: int | None = None
    kept: Kept = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class VolumeLayer:
    """One volume layer of an annotation, without its voxels.

    Parameters
    ----------
    id : int
        Unique in the annotation.
    name : str
    fallback_layer : str, optional
        Segmentation layer of the dataset that shows where this layer holds nothing.
    data_format : str, optional
        "wkw" or "zarr3", as the file says it; the content decides.
    largest_segment_id : int, optional
        As the file says it; None: not known.
    segments : dict of segment id -> SegmentInformation
    segment_groups : list of SegmentGroup
        Each before the groups in it.
    mapping_name, mapping_is_locked, edited_mapping_edges_location, edited_mapping_base_mapping_name : optional
        Of the agglomerate mapping that was shown.
    location : str, optional
        Name of the zip with the voxels inside the annotation zip.
    data : Stored, optional
        That zip; None: the layer has no voxels of its own.
    dtype : numpy.dtype, optional
        Of the voxels to be, where the layer was made here.
    voxel_size : (x, y, z)
        Nanometres; of datasets made from this layer.
    kept : dict
        What the file says of the layer that this version does not know.
    """

    id: int
    name: str
    fallback_layer: str | None = None
    data_format: str | None = None
    largest_segment_id: int | None = None
    segments: dict[int, SegmentInformation] = field(default_factory=dict)
    segment_groups: list[SegmentGroup] = field(default_factory=list)
    mapping_name: str | None = None
    mapping_is_locked: bool | None = None
    edited_mapping_edges_location: str | None = None
    edited_mapping_base_mapping_name: str | None = None
    location: str | None = field(default=None, compare=False, repr=False)
    data: Stored | None = field(default=None, compare=False, repr=False)
    dtype: np.dtype[Any] | None = field(default=None, compare=False, repr=False)
    voxel_size: Vector = field(default=(1.0, 1.0, 1.0), compare=False, repr=False)
    kept: Kept = field(default_factory=dict, repr=False)

    def open(self) -> VolumeData:
        """Open the zip with the voxels; the caller closes it.

        Raises
        ------
        WrongUse
            The layer has no data (also an AssertionError).
        FormatError, DamagedFile, InvalidInput, UnreadableFile
            The zip is damaged, has changed or is gone.
        """
        from voxtract.webknossos.volume import VolumeData

        if self.data is None:
            raise WrongUse(f"volume layer {self.name!r} (id {self.id}) has no data")
        return VolumeData.open(self.data.open(), self.data.where)

    def edit(self) -> AbstractContextManager[EditableLayer]:
        """Change the voxels, as those of a layer of a temporary dataset; they are stored back at the end of the block.

        Returns
        -------
        context manager of EditableLayer
            With the mags and voxels that are there; of a layer without data, none: write with
            ``layer.add_mag(1).write(voxels, absolute_offset=...)``. Chunks that were written stay stored, and hide the
            fallback layer, also where they are 0. Other mags are not changed with the one that is written; see
            `voxtract.webknossos.downsample.rebuild_mags`.

        Raises
        ------
        WrongUse
            The layer has axes beyond x, y, z.
        FormatError, DamagedFile, InvalidInput, UnreadableFile, OutputError
            The voxels cannot be read or stored. The annotation is unchanged, as it is when the block itself fails.

        Examples
        --------
        >>> import numpy as np
        >>> from voxtract.webknossos import Annotation
        >>> annotation = Annotation("a", dataset_name="d", voxel_size=(4, 4, 35))
        >>> layer = annotation.add_volume_layer("cells", "uint16")
        >>> with layer.edit() as editable:
        ...     editable.add_mag(1).write(np.ones((2, 3, 4), "uint16"), absolute_offset=(10, 20, 30))
        >>> with layer.open() as volume:
        ...     print(volume.largest_segment_id, volume.stored_box)
        1 BoundingBox(topleft=Vec3Int(0, 0, 0), size=Vec3Int(32, 32, 64), name='Unnamed Bounding Box', is_visible=True,
                      color=None)
        """
        from voxtract.webknossos.editing import edit

        return edit(self)


def known_size(voxel_size: Vector) -> Vector:
    """Voxel size in nanometres, 1 where it is not known: datasets need one."""
    return voxel_size if min(voxel_size) > 0 else (1.0, 1.0, 1.0)


def check_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype of a volume layer.

    Raises
    ------
    WrongUse
        Not an integer type: segment ids are whole numbers.
    """
    try:
        found = np.dtype(dtype).newbyteorder("=")
    except TypeError:
        found = None
    if found is None or found.name not in DTYPES:
        raise WrongUse(f"dtype {dtype!r} of a volume layer; allowed: {', '.join(DTYPES)}")
    return found
