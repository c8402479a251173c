"""Everything that shapes the outputs of a run, in one value, checked before anything is read."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from voxtract.compute.normalize import Normalization, check_dtype, check_normalization
from voxtract.errors import InvalidInput, check_choice
from voxtract.geometry import View, check_codes, check_view
from voxtract.write import image_format
from voxtract.write.tables import Columns

if TYPE_CHECKING:
    from voxtract.model import Components

# folders below the output folder that a case's files go to
_FOLDERS = {"case": "{case}/{view}", "view": "{view}", "flat": "."}


class ImageOptions(TypedDict, total=False):
    """Keywords about slice images; `Settings` describes them."""

    compression: Literal["zlib", "zstd", "lzw"] | None
    dtype: str
    normalization: Normalization
    reorient: str | None


class AnnotationOptions(TypedDict, total=False):
    """Keywords about annotations; `Settings` describes them."""

    components: Literal["slice", "volume"] | None
    center: Literal["box", "mass"]
    extra_columns: Sequence[str]
    objects: Literal["components", "labels"]
    connectivity: int | None
    min_size: int
    classes: Sequence[int] | None
    threshold: float | None
    skip_empty: bool
    index_width: int
    reorient: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to make of each case.

    Parameters
    ----------
    views : sequence of {"axial", "coronal", "sagittal"}
        Axes that are cut: z, y or x of the voxel array.
    images : {"tiff", "png"}, optional
        Format of the slice images; None writes none.
    annotations : {"csv"}, optional
        Format of the annotations; None writes none.
    saving_mode : {"case", "view", "flat"}
        Folder of a case's files below the output: ``<case>/<view>``, ``<view>`` or none.
    target_size : (height, width), optional
        Pixels of the image; the slice is padded on all sides, an odd pixel goes to the bottom or right.
    pad_value : float
        Value of the padding, in output units.
    dtype : str
        ``"auto"`` keeps the stored dtype where values are stored unscaled and TIFF readers open it, else float32.
        Any other dtype is forced: rounded and saturated, never wrapped around.
    normalization : {"min-max", "z-score", "percentile"} or (center, width), optional
        Over the whole volume, to float32.
    compression : {"zlib", "zstd", "lzw"}, optional
        Of TIFF images.
    reorient : str, optional
        Axis codes such as ``"RAS"``: permute and flip the axes first, so that ``axial`` is truly axial.
    extraction_mode : {"slice", "volume"}
        Annotations of each slice in a file of its own, or of the whole volume in one.
    components : {"slice", "volume"}, optional
        Where components are found; by default as `extraction_mode` says.
    data_mode : {"center", "box", "radius"}
        Columns ``X,Y,Z``, ``X_MIN,Y_MIN,Z_MIN,X_MAX,Y_MAX,Z_MAX`` (inclusive) or ``X,Y,Z,RADIUS_X,RADIUS_Y,RADIUS_Z``.
    center : {"box", "mass"}
        Middle of the box, or mean voxel position.
    extra_columns : sequence of str
        Columns to append, e.g. ``("LABEL", "AREA")``.
    objects : {"components", "labels"}
        A row per connected component, or per label value however many pieces it has.
    connectivity : int, optional
        1 joins over faces only; by default diagonal neighbours touch too (8 in 2D, 26 in 3D).
    min_size : int
        Fewer pixels (voxels in 3D) than this are left out.
    classes : sequence of int, optional
        Label values to take; by default all above 0.
    threshold : float, optional
        Makes a mask of any volume: values above it are label 1.
    skip_empty : bool
        Write no file for a slice without annotations.
    index_width : int
        Digits of the slice index in annotation file names, zero-padded.
    allow_affine_mismatch : bool
        Accept labels whose affine differs from their image's.

    Raises
    ------
    InvalidInput
        A word that is not known (the message lists the allowed ones), or two that contradict each other.
    """

    views: Sequence[View] = ("axial",)
    images: Literal["tiff", "png"] | None = "tiff"
    annotations: Literal["csv"] | None = "csv"
    saving_mode: Literal["case", "view", "flat"] = "case"
    target_size: tuple[int, int] | None = None
    pad_value: float = 0.0
    dtype: str = "auto"
    normalization: Normalization = None
    compression: Literal["zlib", "zstd", "lzw"] | None = None
    reorient: str | None = None
    extraction_mode: Literal["slice", "volume"] = "slice"
    components: Literal["slice", "volume"] | None = None
    data_mode: Literal["center", "box", "radius"] = "center"
    center: Literal["box", "mass"] = "box"
    extra_columns: Sequence[str] = ()
    objects: Literal["components", "labels"] = "components"
    connectivity: int | None = None
    min_size: int = 1
    classes: Sequence[int] | None = None
    threshold: float | None = None
    skip_empty: bool = False
    index_width: int = 3
    allow_affine_mismatch: bool = False

    def __post_init__(self) -> None:
        self._make_plain()
        for view in self.views:
            check_view(view)
        if not self.views or len(set(self.views)) != len(self.views):
            raise InvalidInput(f"views {list(self.views)}: give one or more views, each once")
        check_choice("images", self.images, (None, "tiff", "png"))
        check_choice("annotations", self.annotations, (None, "csv"))
        check_choice("saving_mode", self.saving_mode, tuple(_FOLDERS))
        check_choice("extraction_mode", self.extraction_mode, ("slice", "volume"))
        check_choice("components", self.components, (None, "slice", "volume"))
        check_choice("objects", self.objects, ("components", "labels"))
        check_choice("connectivity", self.connectivity, (None, 1, 2) if self.extent == "slice" else (None, 1, 2, 3))
        self._check_contradictions()
        if self.images is not None:
            image_format(self.images, self.compression)
        if self.target_size is not None and (len(self.target_size) != 2 or min(self.target_size) < 1):
            raise InvalidInput(f"target_size {self.target_size} must be (height, width), both at least 1")
        if self.min_size < 1:
            raise InvalidInput(f"min_size {self.min_size} must be at least 1 voxel")
        if self.index_width < 0:
            raise InvalidInput(f"index_width {self.index_width} must be 0 (not padded) or a number of digits")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise InvalidInput(f"threshold {self.threshold} must be a finite number")
        if self.reorient is not None:
            check_codes(self.reorient)
        check_normalization(self.normalization)
        _ = self.columns

    def _make_plain(self) -> None:
        """Turn NumPy's numbers, arrays and dtypes into plain values, which a journal can hold and compare."""
        for name in ("views", "extra_columns"):
            if isinstance(getattr(self, name), str):
                raise InvalidInput(
                    f"{name} {getattr(self, name)!r} is one word; give a sequence: ({getattr(self, name)!r},)"
                )
        forced = check_dtype(self.dtype)
        make: dict[str, Callable[[Any], Any]] = {
            "views": tuple,
            "extra_columns": tuple,
            "dtype": lambda _: "auto" if forced is None else forced.name,
            "target_size": lambda size: tuple(map(operator.index, size)),
            "classes": lambda labels: tuple(map(operator.index, labels)),
            "connectivity": operator.index,
            "min_size": operator.index,
            "index_width": operator.index,
            "pad_value": _number,
            "threshold": _number,
            "normalization": lambda how: how if isinstance(how, str) else tuple(map(_number, how)),
            "reorient": lambda codes: codes.upper(),
        }
        for name, plain in make.items():
            value = getattr(self, name)
            if value is None:
                continue
            try:
                object.__setattr__(self, name, plain(value))
            except (TypeError, AttributeError) as why:
                raise InvalidInput(f"{name} {value!r} is of the wrong type; see the docstring of Settings") from why

    def _check_contradictions(self) -> None:
        if self.extent == "volume" and self.extraction_mode == "slice":
            raise InvalidInput(
                "components='volume' needs extraction_mode='volume': a 3D component belongs to no single slice"
            )
        one_table = self.annotations is not None and self.extraction_mode == "volume"
        if one_table and self.saving_mode == "flat" and len(self.views) > 1:
            raise InvalidInput(
                "saving_mode='flat' with extraction_mode='volume' has one <case>.csv for all views; "
                "take one view, or saving_mode='case' or 'view'"
            )
        if self.normalization == "z-score" and self.dtype not in ("auto", "float16", "float32", "float64"):
            raise InvalidInput(
                f"dtype {self.dtype!r} with normalization 'z-score' would round all contrast away; "
                "take dtype 'float32', or 'min-max', 'percentile' or a window (center, width)"
            )

    @property
    def extent(self) -> Literal["slice", "volume"]:
        """Whether components are found in each slice or in the volume."""
        return self.components or self.extraction_mode

    @property
    def columns(self) -> Columns:
        """Columns of the annotation tables."""
        return Columns(self.data_mode, self.center, tuple(self.extra_columns))

    def keep(self, found: Components) -> Components:
        """Rows of `found` that `classes` and `min_size` let through."""
        keep = found.count >= self.min_size
        if self.classes is not None:
            ends = np.iinfo(found.label.dtype)  # a list that mixes widths would go through float64
            wanted = [label for label in self.classes if ends.min <= label <= ends.max]
            keep &= np.isin(found.label, np.array(wanted, found.label.dtype))
        return found if keep.all() else found.select(keep)

    def folder(self, case_id: str, view: View) -> str:
        """Folder of a case's files, relative to the output folder."""
        return _FOLDERS[self.saving_mode].format(case=case_id, view=view)

    def to_dict(self) -> dict[str, Any]:
        """All settings by name."""
        return dataclasses.asdict(self)


def _number(value: Any) -> float:
    if isinstance(value, str):
        raise TypeError(value)
    return float(value)
