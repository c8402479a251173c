"""What a volume or a source is: the facts behind ``voxtract inspect``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from voxtract.errors import VoxtractError
from voxtract.model import Case, ChunkedFile, Header, Source, Volume, VolumeFile

Read = Literal["headers", "labels", "all"]

MANY_LABELS = 1000  # more distinct values than this are an image, not labels


@dataclass(frozen=True, slots=True)
class Description:
    """One volume.

    Parameters
    ----------
    case, role, where : str
        Case id, ``"image"`` or ``"labels"``, and the file.
    shape : (x, y, z)
    spacing_mm : (x, y, z)
    orientation : str
        Direction in which each axis grows, as in ``"RAS"``.
    dtype : str
        As stored.
    slope, intercept : float
        Value = stored * slope + intercept.
    range : (lowest, highest), optional
        Of the values, where they were read; None for a volume without finite values.
    labels : label value to voxels
        Positive values of a volume that can hold labels, where it was read.
    error : str, optional
        Why the rest is missing.
    """

    case: str
    role: Literal["image", "labels"]
    where: str
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    orientation: str = ""
    dtype: str = ""
    slope: float = 1.0
    intercept: float = 0.0
    range: tuple[float, float] | None = None
    labels: Mapping[int, int] = field(default_factory=dict)
    error: str | None = None


def describe(source: Source, *, read: Read = "labels") -> Iterator[Description]:
    """Describe each volume of `source`, in its order.

    Parameters
    ----------
    source : Source
    read : {"headers", "labels", "all"}
        Whose voxels to read too, for range and labels: of none, of label volumes, of all.

    Yields
    ------
    Description
        One that has an `error` for a file that cannot be read; the others follow.
    """
    for case in source.cases:
        for role, file in _files(case):
            yield _describe(case, role, file, values=read == "all" or read == role)


def _files(case: Case) -> Iterator[tuple[Literal["image", "labels"], VolumeFile]]:
    if case.image is not None:
        yield "image", case.image
    for volume in case.labels:
        yield "labels", volume.file


def _describe(case: Case, role: Literal["image", "labels"], file: VolumeFile, *, values: bool) -> Description:
    try:
        if not values:
            return Description(case.id, role, file.where, **_head(file.header()))
        if isinstance(file, ChunkedFile):
            counts = _counted(file)
            return Description(case.id, role, file.where, **_head(file.header()), labels=counts)
        volume = file.read()
    except VoxtractError as error:
        return Description(case.id, role, file.where, error=str(error))
    return Description(
        case.id,
        role,
        file.where,
        **_head(volume.header),
        range=_range(volume),
        labels=_labels(volume, MANY_LABELS if role == "image" else np.inf),
    )


def _counted(file: ChunkedFile) -> dict[int, int]:
    """Voxels per positive value, chunk by chunk."""
    counts: dict[int, int] = {}
    for layer in file.layers():
        for _, chunk in layer:
            for value, count in zip(*np.unique(chunk, return_counts=True), strict=True):
                if value > 0:
                    counts[int(value)] = counts.get(int(value), 0) + int(count)
    return dict(sorted(counts.items()))


def _head(header: Header) -> dict[str, Any]:
    return {
        "shape": header.grid.shape,
        "spacing_mm": header.grid.spacing_mm,
        "orientation": header.grid.orientation,
        "dtype": header.dtype.name,
        "slope": header.slope,
        "intercept": header.intercept,
    }


def _range(volume: Volume) -> tuple[float, float] | None:
    data = volume.data
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        data = data[np.isfinite(data)]
    if not data.size:
        return None
    ends = sorted(float(end) * volume.header.slope + volume.header.intercept for end in (data.min(), data.max()))
    return ends[0], ends[1]


def _labels(volume: Volume, most: float) -> dict[int, int]:
    """Voxels per positive value, where all values are integral and few."""
    if volume.data.dtype.kind in "iu" and int(volume.data.max()) - int(volume.data.min()) > most:
        return {}
    values, counts = np.unique(volume.data, return_counts=True)
    if len(values) > most:
        return {}
    scaled = values * volume.header.slope + volume.header.intercept if volume.header.is_scaled else values
    if scaled.dtype.kind == "f" and not (np.isfinite(scaled) & (scaled == np.rint(scaled))).all():
        return {}
    return {int(value): int(count) for value, count in zip(scaled, counts, strict=True) if value > 0}
