"""Everything that shapes the outputs of a run, in one value, checked before anything is read."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from voxtract.classes import ClassMap
from voxtract.compute.choose import SliceChoice
from voxtract.compute.normalize import Normalization, check_dtype, check_normalization, named_window
from voxtract.compute.outlines import outline
from voxtract.errors import InvalidInput, check_choice
from voxtract.geometry import Crop, Shape3, View, check_codes, check_view
from voxtract.splits import Split
from voxtract.write import ANNOTATION_FORMATS, FILES, IMAGE_FORMATS, annotation_format, image_writer
from voxtract.write.tables import Columns

if TYPE_CHECKING:
    from voxtract.model import Case, Components, Source
    from voxtract.write.annotations import AnnotationFormat
    from voxtract.write.images import ImageWriter

# folders below the output folder that a case's files go to
_FOLDERS = {"case": "{case}/{view}", "view": "{view}", "flat": "."}
OF_SLICES = ("coco", "yolo", "voc")  # formats that know images, and boxes in them

CropWord = Literal["foreground"] | tuple[int, int, int] | tuple[Shape3, Shape3]


class DataOptions(TypedDict, total=False):
    """Keywords about which data are taken, and on which grid; `Settings` describes them."""

    slices: str
    margin: int
    spacing: float | tuple[float, float, float] | None
    resize: tuple[int, int, int] | None
    interpolation: Literal["linear", "cubic", "nearest"]
    crop: CropWord | None
    class_map: ClassMap | Mapping[Any, Any] | None
    masks: bool
    split: Mapping[str, float] | None
    split_as: Literal["folders", "lists"]
    seed: int
    stratify: bool
    folds: int | None
    sample_format: Literal["tiff", "png"]
    shard_size: int


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
    views : sequence of {"axial", "coronal", "sagittal"}, optional
        Axes that are cut: z, y or x of the voxel array. By default those that the source names for a case, else axial.
    images : {"tiff", "png"}, optional
        Format of the slice images; None writes none.
    annotations : {"csv", "coco", "yolo", "voc", "parquet"} or several of them, optional
        Formats of the annotations; None writes none.
    saving_mode : {"case", "view", "flat"}
        Folder of a case's files below the output: ``<case>/<view>``, ``<view>`` or none.
    target_size : (height, width), optional
        Pixels of the image; the slice is padded on all sides, an odd pixel goes to the bottom or right.
    pad_value : float
        Value of the padding, in output units.
    dtype : str
        ``"auto"`` keeps the stored dtype where values are stored unscaled and TIFF readers open it, else float32.
        Any other dtype is forced: rounded and saturated, never wrapped around.
    normalization : {"min-max", "z-score", "percentile"}, name of a CT window as "lung", or (center, width), optional
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
        Label values to take; by default all above 0. Of a source that names classes: the ids of these.
    threshold : float, optional
        Makes a mask of any volume: values above it are label 1.
    skip_empty : bool
        Write no file for a slice without annotations.
    index_width : int
        Digits of the slice index in annotation file names, zero-padded.
    allow_affine_mismatch : bool
        Accept labels whose affine differs from their image's.
    slices : str
        ``"all"``, ``"annotated"``, ``"every=K"``, ``"START:STOP"`` or ``"START:STOP:STEP"``, of each view.
    margin : int
        With ``slices="annotated"``: this many slices more before and after each annotated one.
    spacing : float or (x, y, z), optional
        Millimetres between voxels: image and labels are resampled to it, after `reorient`.
    resize : (x, y, z), optional
        Voxels: image and labels are resampled to them; -1 leaves an axis as it is. Not together with `spacing`.
    interpolation : {"linear", "cubic", "nearest"}
        Of images that are resampled; labels always take the value of the nearest voxel.
    crop : {"foreground"}, (x, y, z) or two of them, optional
        Last step before slices are cut: to the box of all labels above 0, to a box of this size in the middle of the
        volume (at most its size), or to the voxels from the first up to, not including, the second.
    class_map : mapping, optional
        Names of label values, see `voxtract.classes.ClassMap`; labels in no class are then an error.
    masks : bool
        Also write what is inside the boxes: run-length masks in COCO, polygons in YOLO.
    split : mapping of name to fraction, optional
        Parts of the data set, as ``{"train": 0.8, "val": 0.1, "test": 0.1}``; a case is in one part whole.
    split_as : {"folders", "lists"}
        A folder for each part, or only lists of case ids in ``splits/``.
    seed : int
        Another seed, another split.
    stratify : bool
        Spread the cases so that each class is in the parts as `split` says; the labels are read once more for it.
    folds : int, optional
        Also write lists for cross-validation, ``splits/fold_0_train.txt`` and ``splits/fold_0_val.txt`` and so on.
    sample_format : {"tiff", "png"}
        Images in the shards of ``images="webdataset"``.
    shard_size : int
        Bytes of a shard at most.

    Raises
    ------
    InvalidInput
        A word that is not known (the message lists the allowed ones), or two that contradict each other.
    """

    views: Sequence[View] | None = None
    images: Literal["tiff", "png", "webdataset", "zarr"] | None = "tiff"
    annotations: str | Sequence[str] | None = "csv"
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
    slices: str = "all"
    margin: int = 0
    spacing: float | tuple[float, float, float] | None = None
    resize: tuple[int, int, int] | None = None
    interpolation: Literal["linear", "cubic", "nearest"] = "linear"
    crop: CropWord | None = None
    class_map: ClassMap | Mapping[Any, Any] | None = None
    masks: bool = False
    split: Mapping[str, float] | None = None
    split_as: Literal["folders", "lists"] = "folders"
    seed: int = 0
    stratify: bool = False
    folds: int | None = None
    sample_format: Literal["tiff", "png"] = "tiff"
    shard_size: int = 1_000_000_000

    def __post_init__(self) -> None:
        self._make_plain()
        if self.views is not None:
            for view in self.views:
                check_view(view)
            if not self.views or len(set(self.views)) != len(self.views):
                raise InvalidInput(f"views {list(self.views)}: give one or more views, each once")
        check_choice("images", self.images, (None, *IMAGE_FORMATS))
        for name in self.annotation_names:
            check_choice("annotations", name, ANNOTATION_FORMATS)
        if len(set(self.annotation_names)) != len(self.annotation_names):
            raise InvalidInput(f"annotations {', '.join(self.annotation_names)}: name each format once")
        check_choice("saving_mode", self.saving_mode, tuple(_FOLDERS))
        check_choice("extraction_mode", self.extraction_mode, ("slice", "volume"))
        check_choice("components", self.components, (None, "slice", "volume"))
        check_choice("objects", self.objects, ("components", "labels"))
        check_choice("connectivity", self.connectivity, (None, 1, 2) if self.extent == "slice" else (None, 1, 2, 3))
        check_choice("interpolation", self.interpolation, ("linear", "cubic", "nearest"))
        check_choice("split_as", self.split_as, ("folders", "lists"))
        if self.spacing_mm is not None and min(self.spacing_mm) <= 0:
            raise InvalidInput(f"spacing {self.spacing} must be millimetres above 0")
        if self.resize is not None and any(n < 1 and n != -1 for n in self.resize):
            raise InvalidInput(f"resize {self.resize} must be voxels, at least 1, or -1 to leave an axis as it is")
        self._check_contradictions()
        if self.shard_size < 1:
            raise InvalidInput(f"shard_size {self.shard_size} must be bytes, at least 1")
        if self.images is not None:
            _ = self.image_writer
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
        _ = self.choice, self.parts, self.formats

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
            "shard_size": operator.index,
            "index_width": operator.index,
            "pad_value": _number,
            "threshold": _number,
            "normalization": _normalization,
            "reorient": lambda codes: codes.upper(),
            "annotations": _names,
            "margin": operator.index,
            "spacing": _three_numbers,
            "resize": _three_integers,
            "crop": _crop,
            "class_map": ClassMap.of,
            "split": lambda parts: {str(name): _number(share) for name, share in parts.items()},
            "seed": operator.index,
            "folds": operator.index,
        }
        for name, plain in make.items():
            value = getattr(self, name)
            if value is None and name != "annotations":
                continue
            try:
                object.__setattr__(self, name, plain(value))
            except InvalidInput:
                raise
            except (TypeError, AttributeError, IndexError, ValueError) as why:
                raise InvalidInput(f"{name} {value!r} is of the wrong type; see the docstring of Settings") from why

    def _check_contradictions(self) -> None:
        if self.extent == "volume" and self.extraction_mode == "slice":
            raise InvalidInput(
                "components='volume' needs extraction_mode='volume': a 3D component belongs to no single slice"
            )
        one_table = "csv" in self.annotation_names and self.extraction_mode == "volume"
        if one_table and self.saving_mode == "flat" and len(self.views or ()) > 1:
            raise InvalidInput(
                "saving_mode='flat' with extraction_mode='volume' has one <case>.csv for all views; "
                "take one view, or saving_mode='case' or 'view'"
            )
        if self.normalization == "z-score" and self.dtype not in ("auto", "float16", "float32", "float64"):
            raise InvalidInput(
                f"dtype {self.dtype!r} with normalization 'z-score' would round all contrast away; "
                "take dtype 'float32', or 'min-max', 'percentile' or a window (center, width)"
            )
        if self.spacing is not None and self.resize is not None:
            raise InvalidInput("spacing and resize both say how many voxels there are; give one")
        for name in set(self.annotation_names) & set(OF_SLICES):
            if self.extent == "volume":
                raise InvalidInput(
                    f"annotations {name!r} has boxes in slices, but components are found in the volume; "
                    "take components='slice', or annotations 'csv' or 'parquet'"
                )
            if self.images not in FILES:
                raise InvalidInput(
                    f"annotations {name!r} names image files, but images={self.images!r} writes none; "
                    "take images='tiff' or 'png', or other annotations"
                )
        if self.images == "webdataset" and self.extent == "volume":
            raise InvalidInput(
                "images='webdataset' has boxes in slices, but components are found in the volume; "
                "take components='slice'"
            )
        if self.masks and not {"coco", "yolo"} & set(self.annotation_names):
            raise InvalidInput("masks=True needs a format that has them: annotations 'coco' or 'yolo'")
        if self.stratify and self.split is None and self.folds is None:
            raise InvalidInput("stratify=True says how to split; give split= or folds= too")

    @property
    def extent(self) -> Literal["slice", "volume"]:
        """Whether components are found in each slice or in the volume."""
        return self.components or self.extraction_mode

    @property
    def annotation_names(self) -> tuple[str, ...]:
        """Formats of the annotations."""
        return _names(self.annotations)

    @property
    def formats(self) -> tuple[AnnotationFormat, ...]:
        """Writers of the annotations."""
        return tuple(
            annotation_format(
                name,
                columns=self.columns,
                extraction_mode=self.extraction_mode,
                skip_empty=self.skip_empty,
                index_width=self.index_width,
                class_map=self.known_classes,
                outline=outline if self.masks else None,
            )
            for name in self.annotation_names
        )

    @property
    def image_writer(self) -> ImageWriter:
        """Writer of the images; not for None."""
        return image_writer(
            self.images or "",
            self.compression,
            sample_format=self.sample_format,
            shard_size=self.shard_size,
            class_map=self.known_classes,
        )

    @property
    def known_classes(self) -> ClassMap | None:
        """The class map."""
        return None if self.class_map is None else ClassMap.of(self.class_map)

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Spacing to resample to, along x, y, z."""
        return None if self.spacing is None else _three_numbers(self.spacing)

    @property
    def choice(self) -> SliceChoice:
        """Rule for taking slices."""
        return SliceChoice.of(self.slices, self.margin)

    @property
    def parts(self) -> Split | None:
        """Parts of the data set."""
        return None if self.split is None else Split(tuple(self.split.items()), self.seed)

    @property
    def needs_labels(self) -> bool:
        """Whether the labels of a case are read."""
        wanted = bool(self.annotation_names) or self.images == "webdataset"
        return wanted or self.choice.annotated or self.crop == "foreground"

    def views_of(self, case: Case) -> tuple[View, ...]:
        """Views that are cut of a case."""
        return tuple(self.views or case.views or ("axial",))

    def needed(self, case: Case) -> Case:
        """The case without the volumes that are not asked for."""
        return replace(case, image=case.image if self.images else None, labels=case.labels if self.needs_labels else ())

    def for_source(self, source: Source) -> Settings:
        """The same with the classes that the source names, where the user has named none."""
        if self.class_map is not None or source.classes is None:
            return self
        return replace(self, class_map=source.classes)

    def crop_of(self, shape: Shape3) -> Crop:
        """The box that `crop` leaves of a volume; not for "foreground"."""
        if self.crop is None or isinstance(self.crop, str):
            raise TypeError(f"crop {self.crop!r} is no box")
        if isinstance(self.crop[0], tuple) and isinstance(self.crop[1], tuple):
            return Crop.box(self.crop[0], self.crop[1], shape)
        return Crop.centered(_three_integers(self.crop), shape)

    @property
    def columns(self) -> Columns:
        """Columns of the annotation tables."""
        return Columns(self.data_mode, self.center, tuple(self.extra_columns))

    def keep(self, found: Components) -> Components:
        """Rows of `found` that `classes` and `min_size` let through."""
        keep = found.count >= self.min_size
        if self.classes is not None:
            ends = np.iinfo(found.class_id.dtype)  # a list that mixes widths would go through float64
            wanted = [label for label in self.classes if ends.min <= label <= ends.max]
            keep &= np.isin(found.class_id, np.array(wanted, found.class_id.dtype))
        return found if keep.all() else found.select(keep)

    def folder(self, case_id: str, view: View, part: str | None = None) -> str:
        """Folder of a case's files, relative to the output folder.

        Those who read YOLO's layout find labels by the folder ``images`` in the path.
        """
        folders = ["images"] if "yolo" in self.annotation_names else []
        if part is not None and self.split_as == "folders":
            folders.append(part)
        own = _FOLDERS[self.saving_mode].format(case=case_id, view=view)
        return "/".join([*folders, own] if own != "." or not folders else folders)

    def to_dict(self) -> dict[str, Any]:
        """All settings by name, as JSON values."""
        classes = self.known_classes
        return dataclasses.asdict(self) | {"class_map": None if classes is None else classes.to_dict()}


def _normalization(value: Any) -> Normalization:
    if not isinstance(value, str):
        center, width = map(_number, value)
        value = center, width
    return named_window(value)


def _names(value: Any) -> tuple[str, ...]:
    """Names of formats, however they were given."""
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def _three_integers(values: Any) -> Shape3:
    x, y, z = map(operator.index, values)
    return x, y, z


def _three_numbers(values: Any) -> tuple[float, float, float]:
    x, y, z = map(_number, values if np.ndim(values) else (values,) * 3)
    return x, y, z


def _crop(value: Any) -> Any:
    if isinstance(value, str):
        check_choice("crop", value, ("foreground",))
        return value
    return tuple(map(_three_integers, value)) if np.ndim(value) > 1 else _three_integers(value)


def _number(value: Any) -> float:
    if isinstance(value, str):
        raise TypeError(value)
    return float(value)
