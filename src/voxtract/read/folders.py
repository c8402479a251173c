"""Which volumes a folder holds, and which image belongs to which labels. Names are listed; no file is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from voxtract.errors import InvalidInput, NotFound, UnreadableFile
from voxtract.model import Case, LabelVolume, Skipped, Source
from voxtract.read.nifti import NiftiFile
from voxtract.read.zarr import ZarrFile, is_zarr
from voxtract.storage import Entry, Place, Remote, place

NIFTI = (".nii.gz", ".nii")
ZARR = (".ome.zarr", ".zarr")
# Volumes of other formats are reported as skipped; text, tables and pictures beside the volumes are not.
OTHER_VOLUMES = (
    ".hdr",
    ".img",
    ".mgh",
    ".mgz",
    ".mha",
    ".mhd",
    ".nhdr",
    ".nrrd",
    ".dcm",
    ".nii.bz2",
    ".nii.xz",
    ".nii.zst",
)
RECOGNISED = (
    "a .nii or .nii.gz file, a folder of them, a folder with images/ and labels/ (imagesTr/ and labelsTr/), or a .zarr"
)

IMAGE_FOLDERS = ("images", "imagestr", "image", "imgs", "img")
LABELS_FOLDERS = ("labels", "labelstr", "label", "masks", "mask", "segmentations", "segmentation", "segs", "seg")
TEST_FOLDERS = ("imagests", "labelsts")  # nnU-Net's

IMAGE_SUFFIXES = ("_0000",)
LABELS_SUFFIXES = ("_seg", "_label", "_labels", "_mask")
CHANNEL = re.compile(r"_\d{4}$")

Kind = Literal["image", "labels"]
Suffixes = tuple[str, ...] | None  # None: the default ones, which are taken off but not asked for


@dataclass(frozen=True, slots=True)
class Options:
    """The words of `open_source` that hold for every file."""

    recursive: bool = False
    volume_index: int | None = None
    image_suffix: Suffixes = None
    labels_suffix: Suffixes = None
    format: str | None = None

    def image_ids(self, name: str) -> list[str]:
        """Case ids that an image of this name may have, best first."""
        return _ids(name, self.image_suffix, IMAGE_SUFFIXES)

    def labels_ids(self, name: str) -> list[str]:
        """Case ids that labels of this name may have, best first."""
        return _ids(name, self.labels_suffix, LABELS_SUFFIXES)


@dataclass(frozen=True, slots=True)
class _Named:
    """A file, and its name with the folders on the way to it, without .nii.gz."""

    path: Place
    name: str
    is_zarr: bool = False

    def volume(self, index: int | None) -> NiftiFile | ZarrFile:
        """What it holds."""
        return ZarrFile(self.path, index) if self.is_zarr else NiftiFile(self.path, index)


@dataclass(slots=True)
class _Listing:
    files: list[_Named] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def skip(self, path: Place | str, reason: str) -> None:
        self.skipped.append(Skipped(str(path), reason))


def plain_folder(folder: str | os.PathLike[str] | Remote, kind: Kind, volume_index: int | None = None) -> Source:
    """List the ``*.nii.gz`` of a folder itself, sorted by name; an id is the file name without it.

    Raises
    ------
    NotFound
        No such folder, or none in it.
    UnreadableFile
        The operating system does not list it.
    """
    folder = place(folder)
    if not is_folder(folder) and folder.is_file():
        one = {"image": "extract_slices", "labels": "extract_annotations"}[kind]
        raise NotFound(f"{folder}: is a file, but a folder was expected; {one} takes a single file")
    listing = _Listing()
    for entry in _entries(folder):
        if entry.name.endswith(".nii.gz") and not _hidden(entry, listing):
            listing.files.append(_Named(place(entry.path), entry.name.removesuffix(".nii.gz")))
    if not listing.files:
        raise NotFound(f"{folder}: holds no *.nii.gz file; give the folder that the files lie in{_left(listing)}")
    return _alone(f"{folder} ({len(listing.files)} files)", listing, kind, volume_index)


def plain_file(path: str | os.PathLike[str] | Remote, kind: Kind, volume_index: int | None = None) -> Source:
    """List one file; its id is its name without ``.nii.gz`` or ``.nii``.

    Raises
    ------
    NotFound
        No such file.
    InvalidInput
        A folder, or another file name.
    """
    path = place(path)
    if is_folder(path):
        many = {"image": "extract_slices_dataset", "labels": "extract_annotations_dataset"}[kind]
        raise InvalidInput(f"{path}: is a folder, but a .nii.gz or .nii file was expected; {many} takes a folder")
    return _alone(str(path), _single(path, Options()), kind, volume_index)


def open_folder(folder: Place, options: Options) -> Source:
    """List a folder: its pair of image and labels folders if it has one, else the files in it; see `open_source`."""
    found = _layout(folder)
    if found is not None:
        images, labels = found
        source = open_pairs(images, labels, options)
        reason = f"lies beside {images.name} and {labels.name}, which are taken; open it by itself"
        beside = (e.path for e in _entries(folder) if _is_nifti(e.name) or e.name.lower() in TEST_FOLDERS)
        skipped = (*source.skipped, *(Skipped(str(path), reason) for path in beside))
        return Source(source.description, source.cases, skipped)
    listing = _listed(folder, options)
    files, labels_files = _split(listing.files, options)
    if not labels_files:
        return _alone(str(folder), listing, "image", options.volume_index, options.image_suffix)
    return _paired(str(folder), _Listing(files, listing.skipped), _Listing(labels_files), options)


def open_images(image: Place, options: Options) -> Source:
    """List a file or folder as images; the label images inside an OME-Zarr image belong to it."""
    source = _alone(str(image), _listed(image, options), "image", options.volume_index, options.image_suffix)
    if not is_volume_folder(image, options):
        return source
    (case,) = source.cases
    whole = ZarrFile(image, options.volume_index)
    labels = tuple(LabelVolume(ZarrFile(image / "labels" / name), name) for name in whole.label_names())
    return replace(source, cases=(replace(case, labels=labels),))


def open_labels(labels: Place, options: Options) -> Source:
    """List a file or folder as label volumes."""
    return _alone(str(labels), _listed(labels, options), "labels", options.volume_index, options.labels_suffix)


def open_pairs(image: Place, labels: Place, options: Options) -> Source:
    """List pairs of two files, which belong together whatever their names, or of two folders."""
    description = f"{image} with {labels}"
    images, others = _listed(image, options), _listed(labels, options)
    if any(is_folder(one) and not is_volume_folder(one, options) for one in (image, labels)):
        return _paired(description, images, others, options)
    (one,), (other,) = images.files, others.files
    shared = [i for i in options.image_ids(one.name) if i in options.labels_ids(other.name)]
    return Source(description, (_case([*shared, one.name][0], one, other, options.volume_index),))


# --- listing


def is_folder(path: Place) -> bool:
    """Whether `path` is a folder, or a link to one.

    Raises
    ------
    UnreadableFile
        The operating system does not say.
    """
    try:
        return path.is_dir()
    except OSError as fault:
        todo = "" if isinstance(path, Remote) else "; check the permissions on the way"
        raise UnreadableFile(f"{path}: cannot be looked at: {fault.strerror}{todo}") from fault


def is_volume_folder(path: Place, options: Options) -> bool:
    """Whether `path` is one volume though it is a folder; raises as `is_folder`."""
    if options.format is not None:
        return options.format == "zarr"
    if path.name.lower().endswith(ZARR):
        return True
    if not is_folder(path):
        return False
    try:
        return is_zarr(path)
    except OSError as fault:
        raise UnreadableFile(f"{path}: cannot be looked at: {fault.strerror}") from fault


def _entries(folder: Place) -> Sequence[os.DirEntry[str] | Entry]:
    try:
        if isinstance(folder, Remote):
            return folder.entries()
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError) as fault:
        found = fault.strerror if isinstance(folder, Remote) else "no such folder; check the spelling"
        raise NotFound(f"{folder}: {found}") from fault
    except OSError as fault:
        todo = "" if isinstance(folder, Remote) else "; check its permissions"
        raise UnreadableFile(f"{folder}: cannot be listed: {fault.strerror}{todo}") from fault


def _hidden(entry: os.DirEntry[str] | Entry, listing: _Listing) -> bool:
    if entry.name.startswith("."):
        what = (
            "macOS metadata (AppleDouble), no volume"
            if entry.name.startswith("._")
            else "hidden (its name begins with a dot)"
        )
        listing.skip(entry.path, what)
    return entry.name.startswith(".")


def _listed(path: Place, options: Options) -> _Listing:
    """List the volumes of a folder, or the one file."""
    if not is_folder(path) or is_volume_folder(path, options):
        return _single(path, options)
    listing = _Listing()
    _descend(path, "", options.recursive, listing)
    if not listing.files:
        deeper = "" if options.recursive else ", or recursive=True to look into its folders"
        raise NotFound(f"{path}: holds no .nii or .nii.gz file; give {RECOGNISED}{deeper}{_left(listing)}")
    return listing


def _descend(folder: Place, prefix: str, recursive: bool, listing: _Listing) -> None:
    for entry in _entries(folder):
        one_folder = entry.name.lower().endswith(ZARR)
        if one_folder or _is_nifti(entry.name):  # whatever it is: reading it says what is wrong
            if not _hidden(entry, listing):
                listing.files.append(_Named(place(entry.path), prefix + _stem(entry.name), one_folder))
        elif entry.name.lower().endswith(OTHER_VOLUMES):
            listing.skip(entry.path, "is no .nii or .nii.gz file; convert it to NIfTI")
        elif recursive and entry.is_dir() and not _hidden(entry, listing):
            if entry.is_symlink():  # may lead in a circle
                listing.skip(entry.path, "is a link to a folder; give that folder itself")
                continue
            try:
                _descend(place(entry.path), f"{prefix}{entry.name}_", recursive, listing)
            except UnreadableFile as fault:
                listing.skip(entry.path, str(fault))


def _single(path: Place, options: Options) -> _Listing:
    one_folder = is_volume_folder(path, options)
    if isinstance(path, Remote):
        if not one_folder:  # a folder need not be there by itself
            _check_there(path)
    elif not os.path.lexists(path):
        raise NotFound(f"{path}: no such file or folder; check the spelling")
    if options.format is None and not one_folder and not _is_nifti(path.name):
        raise InvalidInput(f"{path}: is not recognised; give {RECOGNISED}, or format='nifti' if the file is one")
    name = _stem(path.name)
    if name in ("", ".", ".."):
        raise InvalidInput(f"{path}: {name!r} cannot be a case id, which names a folder; rename the file")
    return _Listing([_Named(path, name, one_folder)])


def _check_there(path: Remote) -> None:
    """Raise where nothing is at a URL, or the store does not say."""
    try:
        path.info()
    except FileNotFoundError as fault:
        raise NotFound(f"{path}: {fault.strerror}") from fault
    except OSError as fault:
        raise UnreadableFile(f"{path}: cannot be looked at: {fault.strerror}") from fault


def _layout(folder: Place) -> tuple[Place, Place] | None:
    """Find the two folders with images and with labels in `folder`, if it has them."""
    names = [e.name for e in _entries(folder) if e.name.lower() in IMAGE_FOLDERS + LABELS_FOLDERS and e.is_dir()]
    images = [name for name in names if name.lower() in IMAGE_FOLDERS]
    labels = [name for name in names if name.lower() in LABELS_FOLDERS]
    if not images or not labels:
        return None
    if len(names) > 2:
        raise InvalidInput(
            f"{folder}: holds several folders of images or labels ({', '.join(names)}); "
            "say which with image= and labels="
        )
    return folder / images[0], folder / labels[0]


def _is_nifti(name: str) -> bool:
    return name.lower().endswith(NIFTI)


def _stem(name: str) -> str:
    return next((name[: -len(end)] for end in NIFTI + ZARR if name.lower().endswith(end)), name)


def _left(listing: _Listing) -> str:
    """For a message about an empty folder: what was there but of no use."""
    if not listing.skipped:
        return ""
    first = listing.skipped[0]
    return f" ({len(listing.skipped)} skipped, first {first.where}: {first.reason})"


# --- case ids and pairs


def _ids(name: str, given: Suffixes, default: tuple[str, ...]) -> list[str]:
    """List ids that fit, best first: the name, then the name without a default suffix; only without a given one."""
    suffixes = default if given is None else given
    stripped = [name.removesuffix(suffix) for suffix in suffixes if name.endswith(suffix) and name != suffix]
    return stripped if given is not None else [name, *stripped]


def _split(files: list[_Named], options: Options) -> tuple[list[_Named], list[_Named]]:
    """Of files in one folder: a name that is an image's with a labels suffix is labels, the rest are images."""
    suffixes = options.labels_suffix or LABELS_SUFFIXES
    images = {i for file in files if not file.name.endswith(suffixes) for i in options.image_ids(file.name)}
    labels = [file for file in files if images.intersection(_ids(file.name, suffixes, ()))]
    taken = {file.path for file in labels}
    return [file for file in files if file.path not in taken], labels


def _alone(
    description: str, listing: _Listing, kind: Kind, volume_index: int | None, suffix: Suffixes = None
) -> Source:
    """Every file a case; a suffix is taken off only if one is given, for ``_0000`` may also count cases."""
    owner: dict[str, _Named] = {}
    for file in listing.files:
        ids = _ids(file.name, suffix, ())
        if not ids:
            listing.skip(file.path, _no_suffix(suffix))
        elif ids[0] in owner:
            raise _same_id(ids[0], owner[ids[0]], file)
        else:
            owner[ids[0]] = file
    if not owner:
        raise NotFound(f"{description}: no file name ends with {_any_of(suffix or ())}; choose another suffix or none")
    files = {i: file.volume(volume_index) for i, file in owner.items()}
    cases = (Case(i, f) if kind == "image" else Case(i, labels=(LabelVolume(f),)) for i, f in files.items())
    return Source(description, tuple(cases), tuple(listing.skipped))


def _paired(description: str, images: _Listing, labels: _Listing, options: Options) -> Source:
    by_id: dict[str, list[_Named]] = {}
    for image in images.files:
        for i in options.image_ids(image.name):
            by_id.setdefault(i, []).append(image)
    pairs: dict[str, tuple[_Named, _Named]] = {}
    skipped = _Listing(skipped=images.skipped + labels.skipped)
    for file in labels.files:
        ids = options.labels_ids(file.name)
        case = next((i for i in ids if i in by_id), None)
        if case is None:
            skipped.skip(file.path, f"no image for case {_any_of(ids)}" if ids else _no_suffix(options.labels_suffix))
        elif len(by_id[case]) > 1:
            raise _same_id(case, *by_id[case][:2])
        elif case in pairs:
            raise _same_id(case, pairs[case][1], file)
        else:
            pairs[case] = by_id[case][0], file
    if not pairs:
        raise InvalidInput(
            f"{description}: no image belongs to any labels; there are {len(images.files)} images, the first "
            f"{images.files[0].path.name}, and {len(labels.files)} label volumes, the first "
            f"{labels.files[0].path.name}; name them alike, "
            "or say what follows the case id with image_suffix= and labels_suffix="
        )
    taken = {image.path for image, _ in pairs.values()}
    for image in images.files:
        if image.path not in taken:
            skipped.skip(image.path, _why_unpaired(image, pairs, options))
    ordered = sorted(pairs.items(), key=lambda pair: pair[1][0].name)
    cases = (_case(i, image, file, options.volume_index) for i, (image, file) in ordered)
    return Source(description, tuple(cases), tuple(skipped.skipped))


def _case(case: str, image: _Named, labels: _Named, volume_index: int | None) -> Case:
    return Case(case, image.volume(volume_index), (LabelVolume(labels.volume(volume_index)),))


def _why_unpaired(image: _Named, pairs: Container[str], options: Options) -> str:
    channel = CHANNEL.search(image.name)
    if channel and (case := image.name[: channel.start()]) in pairs:
        return f"another channel of case {case!r}; image_suffix={channel.group()!r} takes it instead"
    ids = options.image_ids(image.name)
    return f"no labels for case {_any_of(ids)}" if ids else _no_suffix(options.image_suffix)


def _same_id(case: str, one: _Named, other: _Named) -> InvalidInput:
    return InvalidInput(
        f"{one.path} and {other.path}: both are case {case!r}; remove or rename one, or say what follows the case id "
        "with image_suffix= or labels_suffix="
    )


def _no_suffix(suffixes: Suffixes) -> str:
    return f"its name does not end with {_any_of(suffixes or ())}"


def _any_of(words: Sequence[str]) -> str:
    return " or ".join(map(repr, words))
