"""Data sets for PyTorch: every pixel and box against the files, the oracles and a plain data loader."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from skimage import measure

import voxtract
from tests import oracles
from tests.conftest import WriteNifti, stored
from voxtract.errors import BackendUnavailable, DamagedFile, InvalidInput, NotFound, UnreadableFile
from voxtract.geometry import VIEWS, View
from voxtract.model import LabelVolume, Source, Volume, VolumeFile
from voxtract.read.extraction import JOURNAL, findings_name
from voxtract.read.images import read_image
from voxtract.write import tiff
from voxtract.write.coco import packed

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'voxtract[torch]'")

from torch.utils.data import ConcatDataset, DataLoader  # noqa: E402

from voxtract import torch as vt  # noqa: E402
from voxtract.torch.masks import decoded  # noqa: E402
from voxtract.torch.volumes import _Cache  # noqa: E402

SHAPES = {"a": (9, 8, 5), "b": (11, 6, 4), "c": (7, 7, 6)}
SPACING = np.diag([0.8, 0.7, 2.5, 1.0])

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),  # Python 3.12 about fork
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # on a machine with one core
]

measure_label: Any = measure.label  # scikit-image has no types


def volumes(case: str) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Noise, and labels of many small and some larger components.

    Two touch, one reaches around another that it meets at a corner, slice 2 is empty.
    """
    rng = np.random.default_rng(ord(case))
    shape = SHAPES[case]
    labels = ((rng.random(shape) > 0.85) * rng.integers(1, 4, shape)).astype(np.uint8)
    labels[1:4, 2:5, 1] = 1
    labels[4, 2:5, 1] = 2
    labels[:6, :6, 0] = 0
    labels[1:5, 1:5, 0] = np.array([[1, 1, 1, 1], [0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]])
    labels[:, :, 2] = 0
    return rng.integers(-1000, 1000, shape).astype(np.int16), labels


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for case in SHAPES:
        for kind, data in zip(("images", "labels"), volumes(case), strict=True):
            nib.save(nib.Nifti1Image(data, SPACING), folder / kind / f"{case}.nii.gz")
    return folder


def extracted(source: Any, out: Path, views: Sequence[Any] = VIEWS, **words: Any) -> Path:
    report = voxtract.extract(source, out, views, progress=False, **words)
    assert report.exit_code == 0, report
    return out


@pytest.fixture(scope="module")
def extraction(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All views, with masks, padded."""
    out = tmp_path_factory.mktemp("extraction") / "out"
    return extracted(pairs, out, target_size=(12, 13), annotations=("csv", "coco"), masks=True)


def path_of(data: Any, index: int) -> Path:
    path = data.file(index)
    assert isinstance(path, Path)
    return path


def items(data: Any) -> list[Any]:
    return [data[i] for i in range(len(data))]


def assert_same(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    assert_tensors_equal(one[0], other[0])
    assert one[1].keys() == other[1].keys()
    for key, value in one[1].items():
        if key == "image_id":
            assert value == other[1][key]
        else:
            assert_tensors_equal(value, other[1][key])


def assert_tensors_equal(one: Any, other: Any) -> None:
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert torch.equal(one, other)


# --- what an item is


def test_every_pixel_is_that_of_the_written_file(extraction: Path) -> None:
    data = vt.SliceDataset(extraction)
    assert len(data) == sum(sum(shape) for shape in SHAPES.values())
    assert {data.file(i) for i in range(len(data))} == set(extraction.rglob("*.tif"))
    for i, (image, _) in enumerate(items(data)):
        origin = data.origin(i)
        stem = f"{origin.case_id}/{origin.view}/{origin.case_id}_{origin.view}_{origin.index:03d}.tif"
        assert data.file(i) == extraction / stem
        assert image.dtype == torch.float32
        assert image.is_contiguous()
        np.testing.assert_array_equal(image.numpy(), tifffile.imread(extraction / stem)[None].astype(np.float32))


@pytest.mark.parametrize("images", ["webdataset", "zarr"])
def test_shards_and_arrays_give_the_items_of_files(extraction: Path, pairs: Path, tmp_path: Path, images: str) -> None:
    out = extracted(pairs, tmp_path / "out", target_size=(12, 13), images=images, shard_size=8000)
    files = {"webdataset": "*.tar", "zarr": "c/*/0/0"}[images]
    data = vt.SliceDataset(out)
    assert {data.file(i) for i in range(len(data))} == set(out.rglob(files))
    for one, other in zip(items(data), items(vt.SliceDataset(extraction)), strict=True):
        assert_same(one, other)
    data.file(7).unlink()
    with pytest.raises(NotFound, match="no such image, one of"):
        vt.SliceDataset(out)


def test_boxes_and_masks_are_those_of_the_components(extraction: Path) -> None:
    data = vt.SliceDataset(extraction, masks=True)
    seen = 0
    for case, shape in SHAPES.items():
        labels = volumes(case)[1]
        for view in VIEWS:
            row, column, index = oracles.AXES[view]
            top, left = (12 - shape[row]) // 2, (13 - shape[column]) // 2
            truth = oracles.components(labels, view)
            for k in range(shape[index]):
                origin, (_, target) = data.origin(seen), data[seen]
                assert (origin.case_id, origin.view, origin.index) == (case, view, k)
                here = [found for found in truth if found.start[index] == k]
                expected = [
                    [f.start[column] + left, f.start[row] + top, f.stop[column] + left, f.stop[row] + top] for f in here
                ]
                assert target["boxes"].dtype == torch.float32
                assert target["boxes"].shape == (len(here), 4)
                assert target["boxes"].tolist() == expected
                assert target["labels"].dtype == torch.int64
                assert target["labels"].tolist() == [f.label for f in here]
                assert target["area"].tolist() == [f.count for f in here]
                assert target["iscrowd"].tolist() == [0] * len(here)
                assert target["iscrowd"].dtype == torch.int64
                assert target["image_id"] == seen
                assert target["masks"].dtype == torch.uint8
                assert target["masks"].shape == (len(here), 12, 13)
                padded = np.zeros((12, 13), np.uint8)
                image = labels.transpose(index, row, column)[k]
                padded[top : top + shape[row], left : left + shape[column]] = image
                pieces = {
                    (int(value), piece.tobytes())
                    for value in np.unique(image[image > 0])
                    for numbers in [measure_label(padded == value, connectivity=2)]
                    for number in range(1, numbers.max() + 1)
                    for piece in [(numbers == number).astype(np.uint8)]
                }
                masks = target["masks"].numpy()
                assert {
                    (f.label, np.ascontiguousarray(m).tobytes()) for f, m in zip(here, masks, strict=True)
                } == pieces
                for mask, (x1, y1, x2, y2) in zip(masks, target["boxes"].int().tolist(), strict=True):
                    assert mask.sum() == mask[y1:y2, x1:x2].sum()
                    assert mask[[y1, y2 - 1], x1:x2].any(axis=1).all()
                    assert mask[y1:y2, [x1, x2 - 1]].any(axis=0).all()
                seen += 1
    assert seen == len(data)


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"target_size": (12, 14), "pad_value": -1000.0},
        {"normalization": "percentile", "pad_value": 0.25},
        {"normalization": "z-score", "target_size": (12, 14)},
        {"normalization": (40, 400), "dtype": "uint8"},
        {"normalization": "lung"},
        {"dtype": "uint16"},
        {"dtype": "int32", "slices": "every=2"},
        {"dtype": "float64", "slices": "1:-1"},
        {"reorient": "LPI"},
        {"reorient": "PSR", "target_size": (12, 14), "connectivity": 1},
        {"connectivity": 1},
        {"objects": "labels"},
        {"classes": (1, 3), "min_size": 2},
        {"class_map": {2: "two", "*": "other"}},
        {"threshold": 1.5},
        {"crop": (5, 6, 3)},
        {"crop": ((1, 0, 1), (6, 5, 4)), "reorient": "RAS", "normalization": "min-max"},
        {"spacing": 1.1},
        {"resize": (6, -1, 9), "interpolation": "cubic", "crop": (5, 5, 5)},
    ],
)
def test_straight_from_volumes_is_the_same_as_through_files(pairs: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    views: tuple[View, ...] = ("sagittal", "axial")
    out = extracted(pairs, tmp_path / "out", views, annotations=("csv", "coco"), masks=True, **words)
    data = vt.VolumeDataset(pairs, views=views, masks=True, **words)
    files = vt.SliceDataset(out, masks=True)
    assert len(data) == len(files) > 0
    for i in range(len(data)):
        assert data.origin(i) == files.origin(i)
        assert_same(data[i], files[i])
    if "class_map" in words:
        assert data.classes == files.classes
        assert {int(n) for _, target in items(data) for n in target["labels"]} == {2, 3}
    else:
        assert {c.id for c in files.classes.categories} == {int(n) for _, t in items(data) for n in t["labels"]}


@pytest.mark.parametrize("view", VIEWS)
def test_straight_from_volumes_is_the_same_as_one_file_extracted(pairs: Path, tmp_path: Path, view: Any) -> None:
    path = pairs / "images" / "b.nii.gz"
    names = voxtract.extract_slices(path, tmp_path, view, (12, 12), pad_value=7)
    data = vt.VolumeDataset(path, views=(view,), target_size=(12, 12), pad_value=7.0)
    assert len(data) == len(names)
    for (image, target), name in zip(items(data), names, strict=True):
        np.testing.assert_array_equal(image[0].numpy(), tifffile.imread(name).astype(np.float32))
        assert target["boxes"].shape == (0, 4)  # nobody has labelled it


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "uint32", "float16", "float64", "int32"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_all_stored_dtypes_come_as_float32(pairs: Path, tmp_path: Path, dtype: str, compression: Any) -> None:
    source = voxtract.open_source(image=pairs / "images")
    out = extracted(source, tmp_path / "out", ("axial",), dtype=dtype, compression=compression, annotations=None)
    for i, (image, _) in enumerate(items(data := vt.SliceDataset(out))):
        written = tifffile.imread(path_of(data, i))
        assert written.dtype == dtype
        np.testing.assert_array_equal(image[0].numpy(), written.astype(np.float32))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_png(pairs: Path, tmp_path: Path, dtype: str) -> None:
    out = extracted(pairs, tmp_path / "out", images="png", dtype=dtype, normalization="min-max")
    for i, (image, _) in enumerate(items(data := vt.SliceDataset(out))):
        written = np.asarray(Image.open(path_of(data, i)))
        assert written.max() > 200
        np.testing.assert_array_equal(image[0].numpy(), written.astype(np.float32))


def test_slices_without_annotations(extraction: Path) -> None:
    everything, annotated = vt.SliceDataset(extraction), vt.SliceDataset(extraction, empty=False)
    kept = [i for i in range(len(everything)) if len(everything.target(i)["boxes"])]
    assert 0 < len(kept) < len(everything)
    assert [annotated.origin(i) for i in range(len(annotated))] == [everything.origin(i) for i in kept]
    for i, k in enumerate(kept):
        other = everything[k]
        assert_same(annotated[i], (other[0], other[1] | {"image_id": i}))
    empty = next(target for _, target in items(vt.SliceDataset(extraction, masks=True)) if not len(target["boxes"]))
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape == (0, 12, 13)


def test_views_and_parts_of_the_data_set(pairs: Path, tmp_path: Path) -> None:
    words: dict[str, Any] = {"split": {"train": 0.6, "val": 0.4}}
    for split_as in ("folders", "lists"):
        out = extracted(pairs, tmp_path / split_as, ("axial", "coronal"), split_as=split_as, **words)
        parts = {name: vt.SliceDataset(out, split=name, views=("coronal",)) for name in ("train", "val")}
        cases = {name: {data.origin(i).case_id for i in range(len(data))} for name, data in parts.items()}
        assert cases["train"] | cases["val"] == set(SHAPES)
        assert not cases["train"] & cases["val"]
        for name, data in parts.items():
            assert cases[name]
            assert len(data) == sum(SHAPES[case][1] for case in cases[name])
            assert {data.origin(i).view for i in range(len(data))} == {"coronal"}
            assert len(items(data)) == len(data)
        assert len(vt.SliceDataset(out)) == sum(shape[1] + shape[2] for shape in SHAPES.values())
    with pytest.raises(InvalidInput, match="split 'test' is not known; allowed: 'train', 'val'"):
        vt.SliceDataset(out, split="test")


def test_positions_count_as_in_a_list(extraction: Path, pairs: Path) -> None:
    for data in (vt.SliceDataset(extraction), vt.VolumeDataset(pairs, views=VIEWS)):
        last = len(data) - 1
        assert_same(data[-1], data[last])
        assert data[-1][1]["image_id"] == last
        assert data.origin(-1) == data.origin(last)
        for outside in (len(data), -len(data) - 1):
            with pytest.raises(IndexError):
                data[outside]
        assert len(list(iter(data))) == len(data)  # a sequence without __iter__ ends by IndexError


def test_targets_are_their_own(extraction: Path) -> None:
    data = vt.SliceDataset(extraction, empty=False)
    changed = data.target(0)
    for key in ("boxes", "labels", "area", "iscrowd"):
        before = changed[key].clone()
        changed[key] += 1
        assert_tensors_equal(data.target(0)[key], before)


def swap(image: Any, target: Any) -> tuple[Any, Any]:
    return image.flip(-1), {"boxes": target["boxes"][:, [2, 1, 0, 3]]}


def test_a_transform_makes_the_item(extraction: Path, pairs: Path) -> None:
    for make in (
        lambda f: vt.SliceDataset(extraction, transform=f, views=("axial",)),
        lambda f: vt.VolumeDataset(pairs, transform=f, target_size=(12, 13)),
    ):
        plain, changed = make(None)[1], make(swap)[1]
        assert_tensors_equal(changed[0], plain[0].flip(-1))
        assert list(changed[1]) == ["boxes"]


def test_labels_that_int64_does_not_hold_need_classes(tmp_path: Path, write_nifti: WriteNifti) -> None:
    labels = np.zeros((5, 4, 3), np.uint64)
    labels[1, 2, 1] = 2**63 + 5
    labels[4, 3, 1] = 9
    write_nifti(tmp_path / "in/images/a.nii.gz", np.zeros((5, 4, 3), np.uint8))
    (tmp_path / "in/labels").mkdir()
    nib.save(nib.Nifti1Image(labels, np.eye(4), dtype=np.uint64), tmp_path / "in/labels/a.nii.gz")
    with pytest.raises(InvalidInput, match=r"labels/a\.nii\.gz: label 9223372036854775813 .*class_map="):
        vt.VolumeDataset(tmp_path / "in")[1]
    with pytest.raises(InvalidInput, match="a, axial: label 9223372036854775813"):
        vt.SliceDataset(extracted(tmp_path / "in", tmp_path / "one"))
    words: dict[str, Any] = {"class_map": {"*": "object"}}
    for data in (
        vt.VolumeDataset(tmp_path / "in", **words),
        vt.SliceDataset(extracted(tmp_path / "in", tmp_path / "two", ("axial",), **words)),
    ):
        assert data.target(1)["labels"].tolist() if isinstance(data, vt.SliceDataset) else True
        assert data[1][1]["labels"].tolist() == [1, 1]


def test_cases_without_labels_have_no_boxes(pairs: Path, tmp_path: Path) -> None:
    source = voxtract.open_source(image=pairs / "images")
    volume = vt.VolumeDataset(source, masks=True)[0][1]
    assert volume["masks"].shape == (0, 9, 8)
    out = extracted(source, tmp_path / "out", annotations="coco", masks=True)
    data = vt.SliceDataset(out, masks=True)
    assert all(target["boxes"].shape == (0, 4) and len(target["masks"]) == 0 for _, target in items(data))
    assert data.classes.categories == ()
    with pytest.raises(InvalidInput, match="no slice has annotations"):
        vt.SliceDataset(out, empty=False)


@given(st.lists(st.lists(st.integers(0, 3000), min_size=1, max_size=9).map(lambda n: [*n, 1]), min_size=1, max_size=5))
def test_run_lengths_are_read_back(masks: list[list[int]]) -> None:
    ends = np.cumsum([len(lengths) for lengths in masks])
    texts = packed(np.concatenate(masks).astype(np.int64), ends)
    for text, lengths in zip(texts, masks, strict=True):
        flat = [value % 2 for value, length in enumerate(lengths) for _ in range(length)]
        np.testing.assert_array_equal(decoded(text, (len(flat), 1))[:, 0], flat)
        if len(flat) % 2 == 0:  # column by column
            image = decoded(text, (len(flat) // 2, 2))
            assert [*image[:, 0].tolist(), *image[:, 1].tolist()] == flat


# --- tensors


def test_a_tensor_shares_the_memory_of_an_array() -> None:
    for dtype in ("uint8", "int16", "uint16", "int32", "float32", "float64"):
        array = np.arange(12, dtype=dtype).reshape(3, 4)
        tensor = vt.to_tensor(array)
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert str(tensor.dtype) == f"torch.{dtype}"
        array[1, 2] = 77
        assert tensor[1, 2].item() == 77
        assert vt.to_tensor(array[:, 1:3]).data_ptr() == array[:, 1:3].ctypes.data


class Foreign:
    """An array of another library: nothing but DLPack."""

    def __init__(self, tensor: Any):
        self.tensor = tensor

    def __dlpack__(self, **words: Any) -> Any:
        return self.tensor.__dlpack__(**words)

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


def test_a_tensor_shares_the_memory_of_what_speaks_dlpack() -> None:
    owner = torch.arange(6.0).reshape(2, 3)
    tensor = vt.to_tensor(Foreign(owner))
    assert tensor.data_ptr() == owner.data_ptr()
    owner[1, 1] = -5
    assert tensor[1, 1].item() == -5
    assert_tensors_equal(tensor, owner)


@pytest.mark.gpu
def test_an_array_on_the_gpu_becomes_a_tensor_there() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    array = cupy.arange(12, dtype=cupy.int16).reshape(3, 4)
    tensor = vt.to_tensor(array)
    assert tensor.is_cuda
    assert tensor.data_ptr() == array.data.ptr
    np.testing.assert_array_equal(tensor.cpu().numpy(), cupy.asnumpy(array))


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a[::-1],
        lambda a: a[:, ::-2],
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
        lambda a: np.array(5, a.dtype),
    ],
)
def test_what_torch_cannot_share_is_copied(make: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    array = make(np.arange(12, dtype=np.int16).reshape(3, 4))
    tensor = vt.to_tensor(array)
    assert tensor.dtype == torch.int16
    np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("value", [[1, 2], "x", None, np.array(["a"]), np.array([object()]), np.zeros(2, "i4,i4")])
def test_what_is_no_array_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"torch cannot hold it|is no array"):
        vt.to_tensor(value)


def test_collate_makes_lists() -> None:
    batch = [(torch.zeros(1, 2, 3), {"boxes": 1}), (torch.ones(1, 4, 5), {"boxes": 2})]
    images, targets = vt.collate(batch)
    assert [tuple(image.shape) for image in images] == [(1, 2, 3), (1, 4, 5)]
    assert targets == [{"boxes": 1}, {"boxes": 2}]


# --- loaders and workers


def loaded(data: Any, **words: Any) -> list[tuple[Any, Any]]:
    """All items of a loader; `image_id` tells which is which."""
    return [
        item
        for images, targets in DataLoader(data, collate_fn=vt.collate, **words)
        for item in zip(images, targets, strict=True)
    ]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_serve_the_same_items(extraction: Path, pairs: Path, start: str) -> None:
    """Both data sets in one loader, since spawned workers take seconds to import torch."""
    files = vt.SliceDataset(extraction, masks=True, transform=swapped)
    straight = vt.VolumeDataset(pairs, views=VIEWS, target_size=(12, 13), masks=True, transform=swapped)
    assert len(straight[3]) == 2  # a cache that is in use already
    data = ConcatDataset([files, straight])
    served = loaded(data, batch_size=5, num_workers=2, multiprocessing_context=start)
    assert len(served) == len(data) == 2 * len(files)
    for one, other in zip(served, items(data), strict=True):
        assert_same(one, other)


def swapped(image: Any, target: Any) -> tuple[Any, Any]:
    return image.flip(-1), target


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_the_sampler_serves_every_slice_and_keeps_volumes_with_their_worker(
    pairs: Path, workers: int, shuffle: bool
) -> None:
    data = vt.VolumeDataset(pairs, views=VIEWS, transform=with_process)
    sampler = vt.VolumeSampler(data, 4, num_workers=workers, shuffle=shuffle)
    served = loaded(data, batch_sampler=sampler, num_workers=workers)
    assert sorted(target["image_id"] for _, target in served) == list(range(len(data)))
    for image, target in served:
        assert_tensors_equal(image, data[target["image_id"]][0])
    visits = {(target["process"], data.origin(target["image_id"]).case_id) for _, target in served}
    assert len({process for process, _ in visits}) == max(1, workers)
    assert len(visits) <= len(SHAPES) + max(1, workers) - 1


def with_process(image: Any, target: Any) -> tuple[Any, Any]:
    return image, target | {"process": os.getpid()}


def test_a_fault_in_a_worker_says_which_file(pairs: Path, tmp_path: Path, write_nifti: WriteNifti) -> None:
    path = write_nifti(tmp_path / "bad.nii.gz", volumes("a")[0])
    content = path.read_bytes()
    data = vt.VolumeDataset(path)
    path.write_bytes(content[: len(content) // 2])
    message = ""
    try:
        loaded(data, num_workers=1)
    except DamagedFile as why:
        message = str(why)
        why.__traceback__ = None  # it holds the loader; left to the garbage collector, that waits 5 s for its worker
    assert "bad.nii.gz" in message


def test_torchvision_trains_on_an_item(extraction: Path) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    data = vt.SliceDataset(extraction, masks=True, views=("axial",))
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4, min_size=32, max_size=64).train()
    images, targets = vt.collate([data[0], data[2]])  # the second has no box
    losses = model([(image / 1000).expand(3, -1, -1) for image in images], targets)
    assert all(torch.isfinite(loss) for loss in losses.values())


# --- the cache


@dataclass(frozen=True)
class Counting:
    """A volume file that counts how often it is decoded."""

    file: VolumeFile
    reads: Counter[str]

    @property
    def where(self) -> str:
        return self.file.where

    @property
    def volume_index(self) -> int | None:
        return self.file.volume_index

    @property
    def paths(self) -> Any:
        return self.file.paths

    def header(self) -> Any:
        return self.file.header()

    def read(self) -> Volume:
        self.reads[Path(self.where).parent.name + "/" + Path(self.where).name] += 1
        return self.file.read()

    def slabs(self, planes: int) -> Any:
        return self.file.slabs(planes)


@pytest.fixture
def counted(pairs: Path) -> tuple[Source, Counter[str]]:
    reads: Counter[str] = Counter()
    cases = [
        replace(case, image=Counting(case.image, reads), labels=(LabelVolume(Counting(case.labels[0].file, reads)),))
        for case in voxtract.open_source(pairs).cases
        if case.image is not None and case.labels
    ]
    return Source("counted", tuple(cases)), reads


@pytest.mark.parametrize("cache_bytes", [0, 600, 2000, 1 << 20])
@pytest.mark.parametrize("masks", [False, True])
def test_the_cache_keeps_within_its_bound(counted: tuple[Source, Counter[str]], cache_bytes: int, masks: bool) -> None:
    source, reads = counted
    data = vt.VolumeDataset(source, cache_bytes=cache_bytes, masks=masks)
    assert not reads  # headers alone
    cache = data._cache
    rng = np.random.default_rng(0)
    for i in rng.integers(0, len(data), 60).tolist():
        data[i]
        held = cache._values.values()
        arrays = [array for one in held for array in (one.image, *_label_arrays(one))]
        assert len(held) == 1 or cache.nbytes <= cache_bytes
        assert sum(array.nbytes for array in arrays) <= cache.nbytes
        assert all(_owner(array).nbytes <= array.nbytes + 352 for array in arrays)  # nothing else is kept alive
    if cache_bytes == 1 << 20:
        assert set(reads.values()) == {1}
        assert len(reads) == 2 * len(SHAPES)
    if cache_bytes == 0:
        assert max(reads.values()) > 5


def _label_arrays(held: Any) -> list[NDArray[Any]]:
    return [array for one in list(held.found.values())[:1] if one.masks is not None for array in one.masks.labels]


def _owner(array: Any) -> Any:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def test_what_is_cropped_off_is_not_kept(pairs: Path) -> None:
    data = vt.VolumeDataset(pairs, crop=(3, 3, 3), masks=True, reorient="LPI")
    data[0]
    (held,) = data._cache._values.values()
    for array in (held.image, *_label_arrays(held)):
        assert array.shape == (3, 3, 3)
        assert _owner(array).size == 27


@pytest.mark.parametrize("window", [1, 2])
def test_an_epoch_decodes_each_volume_once(counted: tuple[Source, Counter[str]], window: int) -> None:
    source, reads = counted
    unbounded = vt.VolumeDataset(source, views=VIEWS)
    assert len(items(unbounded)) == len(unbounded)
    data = vt.VolumeDataset(source, views=VIEWS, cache_bytes=unbounded._cache.nbytes - 1)  # all but one
    for epoch in range(3):
        reads.clear()
        for batch in vt.VolumeSampler(data, 4, window=window):
            for i in batch:
                data[i]
        assert max(reads.values()) == 1
        assert len(reads) == 2 * len(SHAPES) or epoch  # later ones find some that are still kept


@given(
    st.integers(0, 50),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 30)), max_size=40),
)
def test_the_cache_drops_what_was_used_longest_ago(limit: int, asked: list[tuple[int, int]]) -> None:
    sizes: dict[int, int] = {}
    cache: _Cache[Any] = _Cache(limit)
    model: list[int] = []
    for key, size in asked:
        made: list[int] = []
        sizes.setdefault(key, size)

        def make(key: int = key, made: list[int] = made) -> Any:
            made.append(key)
            return Sized(sizes[key], key)

        value = cache.get(key, make)
        assert value.key == key
        assert bool(made) == (key not in model)
        model = [k for k in model if k != key] + [key]
        while len(model) > 1 and sum(sizes[k] for k in model) > limit:
            model.pop(0)
        assert cache.nbytes == sum(sizes[k] for k in model)


@dataclass(frozen=True)
class Sized:
    nbytes: int
    key: int


def test_pickled_data_sets_are_small_and_serve_the_same(extraction: Path, pairs: Path) -> None:
    straight = vt.VolumeDataset(pairs, views=VIEWS, masks=True)
    fresh = len(pickle.dumps(straight))
    for data in (vt.SliceDataset(extraction, masks=True), straight):
        expected = items(data)
        copy = pickle.loads(pickle.dumps(data))
        assert len(copy) == len(expected)
        for one, other in zip(items(copy), expected, strict=True):
            assert_same(one, other)
    assert straight._cache.nbytes > 0
    assert len(pickle.dumps(straight)) == fresh


# --- the sampler


@dataclass(frozen=True)
class Sizes:
    """As much of a VolumeDataset as the sampler looks at."""

    counts: tuple[int, ...]
    cache_bytes: int = 1 << 30

    @property
    def volume_starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *self.counts])[:-1]

    @property
    def volume_bytes(self) -> list[int]:
        return [100 * count for count in self.counts]

    def __len__(self) -> int:
        return sum(self.counts)


def sampler_of(counts: Sequence[int], batch_size: int, **words: Any) -> vt.VolumeSampler:
    return vt.VolumeSampler(cast("Any", Sizes(tuple(counts))), batch_size, **words)


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=9).filter(any),
    batch_size=st.integers(1, 7),
    num_workers=st.integers(0, 4),
    window=st.integers(1, 4),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
)
def test_every_slice_is_in_one_batch_and_volumes_stay_together(
    counts: list[int], batch_size: int, num_workers: int, window: int, shuffle: bool, drop_last: bool
) -> None:
    sampler = sampler_of(
        counts, batch_size, num_workers=num_workers, window=window, shuffle=shuffle, drop_last=drop_last
    )
    batches = list(sampler)
    assert len(batches) == len(sampler)
    served = [i for batch in batches for i in batch]
    total = sum(counts)
    assert len(served) == len(set(served)) == (total - total % batch_size if drop_last else total)
    assert set(served) <= set(range(total))
    assert sum(len(batch) != batch_size for batch in batches) <= (0 if drop_last else 1)
    owner = np.repeat(np.arange(len(counts)), counts)
    workers = max(1, num_workers)
    visits = 0
    for worker in range(workers):  # a DataLoader deals batches out in turn
        dealt = [owner[i] for batch in batches[worker::workers] for i in batch]
        visits += len(set(dealt))
        for volume in set(dealt):  # all its slices come within its window
            places = [place for place, of in enumerate(dealt) if of == volume]
            between = {dealt[place] for place in range(places[0], places[-1] + 1)}
            assert len(between) <= (window if shuffle else 1)
    assert visits <= sum(n > 0 for n in counts) + (workers - 1) * (window if shuffle else 1)


def test_without_shuffle_and_workers_the_order_is_that_of_the_data_set() -> None:
    assert [i for batch in sampler_of((3, 4), 2, shuffle=False) for i in batch] == list(range(7))


def test_shuffles_differ_and_can_be_repeated() -> None:
    def epochs(seed: int) -> list[list[list[int]]]:
        sampler = sampler_of((9, 9, 9, 9), 4, window=2, generator=torch.Generator().manual_seed(seed))
        return [list(sampler), list(sampler)]

    first, second = epochs(1)
    assert first != second
    assert epochs(1) == [first, second]
    assert epochs(2) != [first, second]
    torch.manual_seed(3)
    one = list(sampler_of((30,), 4))
    torch.manual_seed(3)
    assert list(sampler_of((30,), 4)) == one
    firsts = {next(iter(sampler_of((3,) * 9, 3)))[0] // 3 for _ in range(40)}
    assert len(firsts) > 3  # volumes are shuffled too
    mixed = [i // 9 for i in next(iter(sampler_of((9, 9), 9, window=2)))]
    assert set(mixed) == {0, 1}
    assert next(iter(sampler_of((30,), 30))) != list(range(30))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
        ({"num_workers": -1}, "num_workers -1 must be at least 0"),
        ({"window": 0}, "window 0 must be at least 1"),
    ],
)
def test_numbers_that_make_no_batches_are_refused(words: dict[str, int], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        sampler_of((3, 4), **{"batch_size": 2, **words})


def test_a_window_that_the_cache_does_not_hold_is_refused() -> None:
    data = cast("Any", Sizes((3, 5, 4), cache_bytes=800))
    assert len(vt.VolumeSampler(data, 2, window=1)) == 6
    with pytest.raises(InvalidInput, match=r"window=2 .*up to 900 bytes.*cache_bytes is 800.*cache_bytes=900"):
        vt.VolumeSampler(data, 2, window=2)


# --- MONAI


def test_dictionaries_of_slices(extraction: Path) -> None:
    data = vt.SliceDataset(extraction)
    for given_ in (extraction, str(extraction), data):
        dicts = vt.monai_dicts(given_)
        assert len(dicts) == len(data)
        for i, one in enumerate(dicts):
            target, origin = data.target(i), data.origin(i)
            assert one.keys() == {"image", "boxes", "labels", "case", "view", "slice"}
            assert one["image"] == str(data.file(i))
            assert one["boxes"].dtype == np.float32
            np.testing.assert_array_equal(one["boxes"], target["boxes"].numpy())
            np.testing.assert_array_equal(one["labels"], target["labels"].numpy())
            assert (one["case"], one["view"], one["slice"]) == (origin.case_id, origin.view, origin.index)


def test_dictionaries_of_volumes(pairs: Path) -> None:
    source = voxtract.open_source(pairs)
    expected = [
        {"image": f"{pairs}/images/{case}.nii.gz", "label": f"{pairs}/labels/{case}.nii.gz", "case": case}
        for case in SHAPES
    ]
    assert vt.monai_dicts(source) == vt.monai_dicts(pairs) == expected
    assert vt.monai_dicts(pairs / "images" / "a.nii.gz") == [{"image": expected[0]["image"], "case": "a"}]


def test_monai_would_read_all_frames(tmp_path: Path, write_nifti: WriteNifti) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", np.zeros((4, 5, 6, 2), np.int16))
    with pytest.raises(InvalidInput, match=r"a\.nii\.gz: volume_index=1 takes one frame, but MONAI reads all"):
        vt.monai_dicts(voxtract.open_source(path, volume_index=1))


@pytest.mark.filterwarnings("ignore")  # MONAI's own
@pytest.mark.parametrize(("images", "dtype"), [("tiff", "auto"), ("png", "uint8")])
def test_monai_loads_the_slices(pairs: Path, tmp_path: Path, images: str, dtype: str) -> None:
    pytest.importorskip("monai", reason="MONAI is not installed")
    from monai.data import Dataset as MonaiDataset
    from monai.transforms import LoadImaged

    out = extracted(pairs, tmp_path / "out", ("axial", "sagittal"), images=images, dtype=dtype)
    plain = vt.SliceDataset(out, empty=False)
    data = MonaiDataset(vt.monai_dicts(plain), LoadImaged("image", reader="PILReader"))
    for i in range(len(plain)):
        image, target = plain[i]
        np.testing.assert_array_equal(np.asarray(data[i]["image"]), image[0].numpy().T)
        for box, (x1, y1, x2, y2) in zip(data[i]["boxes"].astype(int), target["boxes"].int().tolist(), strict=True):
            inside = np.asarray(data[i]["image"])[box[0] : box[2], box[1] : box[3]]
            np.testing.assert_array_equal(inside.T, image[0, y1:y2, x1:x2].numpy())


@pytest.mark.filterwarnings("ignore")  # MONAI's own
def test_monai_loads_the_volumes(pairs: Path) -> None:
    pytest.importorskip("monai", reason="MONAI is not installed")
    from monai.data import Dataset as MonaiDataset
    from monai.transforms import LoadImaged

    for item in MonaiDataset(vt.monai_dicts(pairs), LoadImaged(["image", "label"])):
        for key, folder in (("image", "images"), ("label", "labels")):
            expected = stored(pairs / folder / f"{item['case']}.nii.gz")
            np.testing.assert_array_equal(np.asarray(item[key]), expected.astype(np.float32))


# --- faults


@pytest.fixture
def own(pairs: Path, tmp_path: Path) -> Path:
    """An extraction to spoil."""
    return extracted(pairs, tmp_path / "own", ("axial",), annotations="coco", masks=True)


def test_a_folder_that_holds_no_extraction(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(NotFound, match=f"{folder.name}: holds no extraction"):
            vt.SliceDataset(folder)


def test_missing_images_are_named_at_once(own: Path) -> None:
    gone = [own / "b/axial/b_axial_001.tif", own / "b/axial/b_axial_003.tif"]
    for path in gone:
        path.unlink()
    with pytest.raises(NotFound, match=r"b_axial_001\.tif: no such image, one of 2 missing of 15; .*--overwrite"):
        vt.SliceDataset(own)
    for path in (own / "c/axial").iterdir():
        path.unlink()
    (own / "c/axial").rmdir()
    with pytest.raises(NotFound, match="one of 8 missing of 15"):
        vt.SliceDataset(own)


def test_an_image_that_goes_missing_later_is_named(own: Path) -> None:
    data = vt.SliceDataset(own)
    data.file(3).unlink()
    with pytest.raises(NotFound, match=r"a_axial_003\.tif: no such image; .*--overwrite"):
        data[3]
    assert len(data[4]) == 2


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "cut short, or has grown"),
        (lambda p: p.write_bytes(p.read_bytes() + b"x"), "cut short, or has grown"),
        (lambda p: p.write_bytes(b""), "not a TIFF file"),
        (lambda p: p.write_bytes(b"no image at all"), "not a TIFF file"),
        (lambda p: tifffile.imwrite(p, np.zeros((8, 9), np.int16)), "8 x 9 pixels, but 9 x 8 were extracted"),
        (lambda p: tifffile.imwrite(p, np.zeros((9, 8, 3), np.uint8)), "9 x 8 x 3 pixels"),
    ],
)
def test_a_damaged_image_is_named(own: Path, spoil: Callable[[Path], Any], says: str) -> None:
    data = vt.SliceDataset(own)
    spoil(path_of(data, 2))
    with pytest.raises(DamagedFile, match=rf"a_axial_002\.tif: the image is damaged .*{says}.*--overwrite"):
        data[2]


def test_an_image_that_was_written_again_by_others_is_read(own: Path) -> None:
    data = vt.SliceDataset(own)
    before = items(data)
    for i, options in enumerate(
        [{}, {"compression": "zlib"}, {"byteorder": ">"}, {"rowsperstrip": 2}, {"tile": (16, 16)}, {"bigtiff": True}]
    ):
        tifffile.imwrite(path_of(data, i), tifffile.imread(path_of(data, i)), **cast("Any", options))
    for one, other in zip(items(data), before, strict=True):
        assert_same(one, other)


def test_pixels_of_the_other_byte_order_are_turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.arange(72, dtype=np.int16).reshape(9, 8)
    monkeypatch.setattr(sys, "byteorder", {"little": "big", "big": "little"}[sys.byteorder])
    head = tiff._header.__wrapped__(9, 8, image.dtype, (1.0, 1.0))
    monkeypatch.undo()
    path = tmp_path / "other.tif"
    path.write_bytes(head + image.byteswap().tobytes())
    np.testing.assert_array_equal(tifffile.imread(path), image)
    read = read_image(path, (9, 8))
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, image)


@settings(deadline=None, max_examples=200)
@example(change=(78, 4), end=None)  # the pixels begin elsewhere
@given(change=st.tuples(st.integers(0, 399), st.integers(0, 255)), end=st.integers(0, 400) | st.none())
def test_a_damaged_tiff_is_refused_or_read_as_others_do(
    change: tuple[int, int], end: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.tif"
    image = np.arange(72, dtype=np.int16).reshape(9, 8)
    content = bytearray(b"".join(map(bytes, tiff.Tiff().encode(image, (1.0, 1.0)))))
    content[change[0]] = change[1]
    path.write_bytes(content[:end])
    with contextlib.suppress(DamagedFile):
        read = read_image(path, (9, 8))
        with tifffile.TiffFile(path) as file:
            other = file.pages[0].asarray()
        assert read.dtype == other.dtype
        np.testing.assert_array_equal(read, other)


def test_damaged_png(pairs: Path, tmp_path: Path) -> None:
    words: dict[str, Any] = {"images": "png", "dtype": "uint8", "normalization": "min-max"}
    data = vt.SliceDataset(extracted(pairs, tmp_path / "out", **words))
    content = data.file(0).read_bytes()
    for spoiled in (b"", b"nothing", content[: len(content) // 2], content[:50] + b"\0\0\0" + content[53:]):
        path_of(data, 0).write_bytes(spoiled)
        with pytest.raises(DamagedFile, match=r"a_axial_000\.png: the image is damaged"):
            data[0]
    for other in (Image.new("L", (9, 9)), Image.new("RGB", (8, 9))):
        other.save(path_of(data, 0))
        with pytest.raises(DamagedFile, match="pixels, but 9 x 8 were extracted"):
            data[0]


def test_what_is_unreadable_is_named(own: Path) -> None:
    data = vt.SliceDataset(own)
    data.file(1).unlink()
    path_of(data, 1).mkdir()
    with pytest.raises(UnreadableFile, match=r"a_axial_001\.tif: cannot be read"):
        data[1]


def test_findings_that_are_gone(own: Path) -> None:
    (own / findings_name("b")).unlink()
    with pytest.raises(DamagedFile, match=r"b\.rows: is missing"):
        vt.SliceDataset(own)


def test_no_case_is_complete(own: Path) -> None:
    journal = own / JOURNAL
    journal.write_bytes(journal.read_bytes().split(b"\n")[0] + b"\n")
    with pytest.raises(NotFound, match=r"holds no complete case.*--resume"):
        vt.SliceDataset(own)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"views": ("coronal",)}, "view 'coronal' is not known; allowed: 'axial'"),
        ({"views": ("top",)}, "view 'top' is not known; allowed: 'axial', 'coronal', 'sagittal'"),
        ({"views": "axial"}, r"views 'axial' is one word; give a sequence: \('axial',\)"),
        ({"split": "train"}, "was extracted without split=.*'train'"),
    ],
)
def test_words_that_the_extraction_does_not_know(own: Path, words: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        vt.SliceDataset(own, **words)


def test_extractions_that_have_not_what_is_needed(pairs: Path, tmp_path: Path) -> None:
    out = extracted(pairs, tmp_path / "one", images=None)
    with pytest.raises(InvalidInput, match=r"one: was extracted without images; extract with images='tiff'"):
        vt.SliceDataset(out)
    out = extracted(pairs, tmp_path / "two", extraction_mode="volume")
    with pytest.raises(InvalidInput, match=r"two: holds components of volumes.*components='slice'"):
        vt.SliceDataset(out)
    yolo = {"annotations": "yolo", "masks": True, "class_map": {"*": "lesion"}}
    for number, words in enumerate([{}, {"annotations": "coco"}, yolo]):
        out = extracted(pairs, tmp_path / f"without masks {number}", **cast("Any", words))
        with pytest.raises(InvalidInput, match=r"without masks.*annotations='coco', masks=True"):
            vt.SliceDataset(out, masks=True)
        assert len(vt.SliceDataset(out))


def test_slices_of_volumes_in_one_table_serve(pairs: Path, tmp_path: Path) -> None:
    out = extracted(pairs, tmp_path / "out", extraction_mode="volume", components="slice")
    assert len(items(vt.SliceDataset(out))) == sum(sum(shape) for shape in SHAPES.values())


def test_damaged_masks(own: Path) -> None:
    part = own / ".voxtract/coco/a_axial.jsonl"
    content = part.read_text()
    data = vt.SliceDataset(own, masks=True)
    first = next(i for i in range(5) if len(data.target(i)["boxes"]))
    for old, new in (('"counts":"', '"counts":"0'), ('"counts"', '"count"'), ('"counts":"', '"counts":7')):
        part.write_text(content.replace(old, new))
        with pytest.raises(DamagedFile, match=r"a_axial\.jsonl"):
            vt.SliceDataset(own, masks=True)[first]
    part.write_text("".join(content.splitlines(keepends=True)[:-1]))
    with pytest.raises(DamagedFile, match=r"a_axial\.jsonl: has \d+ annotations, but \d+ were found"):
        vt.SliceDataset(own, masks=True)
    part.unlink()
    with pytest.raises(UnreadableFile, match=r"a_axial\.jsonl: cannot be read"):
        data[first]
    with pytest.raises(DamagedFile, match=r"a_axial\.jsonl: cannot be read"):
        vt.SliceDataset(own, masks=True)
    assert len(vt.SliceDataset(own)[first]) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"view": ("axial",)}, "view: not known to VolumeDataset; allowed: target_size, "),
        ({"data_mode": "box"}, "data_mode: not known"),
        ({"views": ("top",)}, "view 'top' is not known"),
        ({"target_size": (4, 4)}, r"a\.nii\.gz: axial slices are 9 x 8 .*larger than the target size 4 x 4"),
        ({"slices": "annotated"}, "slices='annotated' is known only when all volumes have been decoded.*SliceDataset"),
        ({"crop": "foreground"}, "crop='foreground' is known only when"),
        ({"slices": "90:99"}, "slices='90:99' takes no slice of any case"),
        ({"cache_bytes": -1}, "cache_bytes -1 must be 0"),
        ({"normalization": "max"}, "normalization 'max' is not known"),
    ],
)
def test_words_that_volumes_refuse(pairs: Path, words: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        vt.VolumeDataset(pairs, **words)


def test_volumes_that_make_no_data_set(pairs: Path, tmp_path: Path, write_nifti: WriteNifti) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        vt.VolumeDataset(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="a: has labels but no image"):
        vt.VolumeDataset(voxtract.open_source(labels=pairs / "labels"))
    write_nifti(tmp_path / "in/images/a.nii.gz", np.zeros((4, 5, 6), np.uint8))
    write_nifti(tmp_path / "in/labels/a.nii.gz", np.zeros((4, 5, 7), np.uint8))
    with pytest.raises(InvalidInput, match="shape 4 x 5 x 6 against 4 x 5 x 7"):
        vt.VolumeDataset(tmp_path / "in")
    write_nifti(tmp_path / "in/labels/a.nii.gz", np.full((4, 5, 6), 1.5, np.float32))
    with pytest.raises(InvalidInput, match=r"labels/a\.nii\.gz: voxel .* is no integer"):
        vt.VolumeDataset(tmp_path / "in")[0]
    write_nifti(tmp_path / "in/labels/a.nii.gz", np.full((4, 5, 6), 3, np.uint8))
    with pytest.raises(InvalidInput, match=r"labels/a\.nii\.gz: label values 3 are in no class"):
        vt.VolumeDataset(tmp_path / "in", class_map={1: "liver"})[0]


def test_files_that_belong_to_no_case_are_told(
    pairs: Path, tmp_path: Path, write_nifti: WriteNifti, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("images/a", "labels/a", "images/alone"):
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", np.zeros((4, 5, 6), np.uint8))
    assert len(vt.VolumeDataset(tmp_path / "in")) == 6
    assert "alone.nii.gz" in caplog.text


def test_without_torch_the_message_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; import voxtract.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("voxtract.errors.InvalidInput: voxtract.torch needs PyTorch")
    assert "pip install 'voxtract[torch]'" in last


# --- on a device


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A pretended device: the kernels run on the host, under the launch code of the product."""
    from tests.backend import fake_cupy
    from tests.backend.host_device import COMPILER
    from voxtract.backend import cuda, launch

    if COMPILER is None:
        pytest.skip("g++ is not on the PATH")
    yield fake_cupy.install(monkeypatch, fake_cupy.Machine())
    for cached in (cuda.backend, launch.compiled, launch._loaded):
        cached.cache_clear()


@pytest.mark.parametrize("words", [{}, {"normalization": (40, 400)}, {"reorient": "LPI", "crop": (3, 3, 3)}])
@pytest.mark.usefixtures("machine")
def test_volumes_on_a_device_give_the_same_items(pairs: Path, words: dict[str, Any]) -> None:
    here = vt.VolumeDataset(pairs, views=VIEWS, masks=True, backend="cpu", **words)
    there = vt.VolumeDataset(pairs, views=VIEWS, masks=True, backend="cuda", **words)
    assert len(here) == len(there)
    for i in range(0, len(here), 3):
        (image, target), (other, found) = here[i], there[i]
        assert torch.equal(image, other)
        assert image.dtype == other.dtype == torch.float32
        assert target.keys() == found.keys()
        assert all(torch.equal(torch.as_tensor(target[k]), torch.as_tensor(found[k])) for k in target)
    assert not isinstance(next(iter(there._cache._values.values())).image, np.ndarray)  # kept on the device


@pytest.mark.usefixtures("machine")
def test_a_tensor_is_the_memory_that_was_cut(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from voxtract.backend.cuda import CUDABackend

    made: list[Any] = []
    cut = CUDABackend.cut_on_device

    def seen(*args: Any) -> Any:
        made.append(cut(*args))
        return made[-1]

    monkeypatch.setattr(CUDABackend, "cut_on_device", seen)
    image, _ = vt.VolumeDataset(pairs, normalization=(40, 400), backend="cuda")[0]
    assert image.data_ptr() == made[0].host.ctypes.data


def test_a_device_that_is_not_there(pairs: Path) -> None:
    with pytest.raises(BackendUnavailable, match="'cuda' was asked for"):
        vt.VolumeDataset(pairs, backend="cuda")
