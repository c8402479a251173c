"""Zarr arrays and OME-Zarr images, made by zarr-python and by hand, read as volumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import voxtract
from tests.read.contract import ReaderContract, Truth
from voxtract.errors import DamagedFile, InvalidInput, NotFound
from voxtract.geometry import Grid
from voxtract.model import VolumeFile
from voxtract.read import open_source
from voxtract.read.nifti import NiftiFile
from voxtract.read.zarr import ZarrFile
from voxtract.storage import Remote, place

zarr = pytest.importorskip("zarr", reason="the extra 'zarr' is not installed")

SHAPE = (9, 7, 5)  # x, y, z
MICRO = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]


def voxels(dtype: Any = np.int16) -> NDArray[Any]:
    return np.random.default_rng(4).integers(0, 200, SHAPE).astype(dtype)


def stored(data: NDArray[Any]) -> NDArray[Any]:
    """As OME-Zarr has it: z, y, x."""
    return np.ascontiguousarray(data.T)


def ome(
    path: Path,
    data: NDArray[Any],
    *,
    version: int = 3,
    axes: Any = MICRO,
    scale: Any = (4.0, 2.0, 1.0),
    shift: Any = (40.0, 20.0, 10.0),
    **words: Any,
) -> Path:
    """An OME-Zarr image of two resolutions, by what the specification says (0.4 or 0.5)."""
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    words = {"chunks": (2, 4, 4), **words} if data.ndim == 3 else words
    group.create_array("full", shape=data.shape, dtype=data.dtype, **words)[...] = data
    group.create_array("half", shape=data[..., ::2].shape, dtype=data.dtype)[...] = data[..., ::2]
    transforms = [{"type": "scale", "scale": list(scale)}]
    transforms += [{"type": "translation", "translation": list(shift)}] if shift is not None else []
    levels = [
        {"path": "full", "coordinateTransformations": transforms},
        {"path": "half", "coordinateTransformations": [{"type": "scale", "scale": [8.0] * data.ndim}]},
    ]
    told = {"multiscales": [{"axes": axes, "datasets": levels, "version": "0.4"}]}
    group.attrs.update(told if version == 2 else {"ome": {"version": "0.5", **told}})
    return path


def complaint(file: VolumeFile, kind: type[Exception] = InvalidInput) -> str:
    with pytest.raises(kind) as caught:
        file.read()
    assert str(caught.value).startswith(f"{file.where}: ")
    return str(caught.value)


class ZarrContract(ReaderContract):
    version = 3

    @pytest.fixture
    def truth(self) -> Truth:
        affine = np.diag([1e-3, 2e-3, 4e-3, 1.0])
        affine[:3, 3] = [1e-2, 2e-2, 4e-2]
        return Truth(voxels(), affine)

    @pytest.fixture
    def file(self, truth: Truth, tmp_path: Path) -> ZarrFile:
        return ZarrFile(ome(tmp_path / "a.ome.zarr", stored(truth.stored), version=self.version))

    @pytest.fixture
    def voxels_lost(self, truth: Truth, tmp_path: Path) -> ZarrFile:
        path = ome(tmp_path / "a.ome.zarr", stored(truth.stored), version=self.version)
        chunks = [p for p in (path / "full").rglob("*") if p.is_file() and not p.name.startswith((".z", "zarr"))]
        for chunk in chunks:
            chunk.write_bytes(chunk.read_bytes()[:7])
        return ZarrFile(path)

    @pytest.fixture
    def missing(self, tmp_path: Path) -> ZarrFile:
        return ZarrFile(tmp_path / "gone.zarr")


class TestOmeZarrInZarr3(ZarrContract):
    pass


class TestOmeZarrInZarr2(ZarrContract):
    version = 2


class TestAtAUrl(ZarrContract):
    @pytest.fixture
    def file(self, truth: Truth, tmp_path: Path) -> ZarrFile:
        return ZarrFile(self.sent(ome(tmp_path / "a.ome.zarr", stored(truth.stored))))

    @pytest.fixture
    def voxels_lost(self, truth: Truth, tmp_path: Path) -> ZarrFile:
        path = ome(tmp_path / "b.ome.zarr", stored(truth.stored))
        for chunk in (path / "full" / "c").rglob("*"):
            if chunk.is_file():
                chunk.write_bytes(b"nothing")
        return ZarrFile(self.sent(path))

    @pytest.fixture
    def missing(self) -> ZarrFile:
        return ZarrFile(Remote("memory://gone.zarr"))

    def sent(self, path: Path) -> Remote:
        pytest.importorskip("fsspec", reason="the extra 'cloud' is not installed")
        there = Remote(f"memory://zarr/{path.parent.name}/{path.name}")
        for one in path.rglob("*"):
            if one.is_file():
                (there / one.relative_to(path).as_posix()).write(one.read_bytes())
        return there


@pytest.mark.parametrize("planes", [1, 2, 3, 4, 5, 99])
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_slabs_join_to_the_volume_and_each_chunk_is_decoded_once(
    tmp_path: Path, planes: int, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ZarrFile(ome(tmp_path / "a.zarr", stored(voxels()), chunks=(depth, 4, 4)))
    assert file.header().depth == depth
    ranges = []
    real = ZarrFile._voxels

    def seen(self: ZarrFile, layout: Any, first: int, stop: int) -> Any:
        ranges.append((first, stop))
        return real(self, layout, first, stop)

    monkeypatch.setattr(ZarrFile, "_voxels", seen)
    slabs = list(file.slabs(planes))
    assert all(slab.shape[2] <= planes for slab in slabs)
    np.testing.assert_array_equal(np.concatenate(slabs, axis=2), voxels())
    assert all(first % depth == 0 for first, _ in ranges)
    assert [first for first, _ in ranges[1:]] == [stop for _, stop in ranges[:-1]]
    assert max(stop - first for first, stop in ranges) <= max(planes, depth)


def test_an_array_made_by_hand(tmp_path: Path) -> None:
    """Zarr 2 as its specification has it: a JSON file, and a file of raw bytes for each chunk."""
    data = stored(voxels(np.uint16))
    path = tmp_path / "raw.zarr"
    path.mkdir()
    meta = {
        "zarr_format": 2, "shape": [5, 7, 9], "chunks": [3, 7, 9], "dtype": ">u2", "order": "C",
        "compressor": None, "filters": None, "fill_value": 0,
    }  # fmt: skip
    (path / ".zarray").write_text(json.dumps(meta))
    (path / "0.0.0").write_bytes(data[:3].astype(">u2").tobytes())
    (path / "1.0.0").write_bytes(np.concatenate([data[3:], np.zeros((1, 7, 9))]).astype(">u2").tobytes())
    volume = ZarrFile(path).read()
    np.testing.assert_array_equal(volume.data, voxels(np.uint16))
    assert volume.data.dtype == np.dtype("=u2")
    assert volume.data.dtype.isnative


def test_a_bare_array_says_what_was_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(5, 7, 9), dtype="u1")
    array[...] = stored(voxels(np.uint8))
    header = ZarrFile(tmp_path / "a.zarr").header()
    assert header.grid.shape == SHAPE
    np.testing.assert_array_equal(header.grid.affine, np.eye(4))
    assert "does not name its axes; taken as z, y, x" in caplog.text
    assert "taken as 1 mm" in caplog.text


@pytest.mark.parametrize("version", [2, 3])
def test_named_axes_of_a_bare_array_are_followed(tmp_path: Path, version: int) -> None:
    data = voxels()
    names = ("y", "x", "z")
    words: Any = {"dimension_names": names} if version == 3 else {"attributes": {"_ARRAY_DIMENSIONS": list(names)}}
    array = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=(7, 9, 5), chunks=(7, 9, 2), dtype="i2", zarr_format=version, **words
    )
    array[...] = data.transpose(1, 0, 2)
    file = ZarrFile(tmp_path / "a.zarr")
    read = file.read().data
    assert read.flags.f_contiguous
    np.testing.assert_array_equal(read, data)
    np.testing.assert_array_equal(np.concatenate(list(file.slabs(3)), axis=2), data)


def test_time_and_channels_are_counted_as_frames(tmp_path: Path) -> None:
    frames = np.stack([np.stack([stored(voxels()) + 10 * t + c for c in range(3)]) for t in range(2)])
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, *MICRO]
    path = ome(tmp_path / "a.zarr", frames, axes=axes, scale=(1, 1, 4, 2, 1), shift=None)
    assert "has 6 volumes (t 2 x c 3), but one is wanted; choose volume_index=0 to 5" in complaint(ZarrFile(path))
    np.testing.assert_array_equal(ZarrFile(path, 4).read().data, voxels() + 11)
    assert "allowed: 0 to 5" in complaint(ZarrFile(path, 6))
    one = ome(tmp_path / "b.zarr", frames[:1, :1], axes=axes, scale=(1, 1, 4, 2, 1), shift=None)
    np.testing.assert_array_equal(ZarrFile(one).read().data, voxels())


@pytest.mark.parametrize(
    ("unit", "factor"), [("nanometer", 1e-6), ("millimeter", 1.0), ("meter", 1e3), ("angstrom", 1e-7), (None, 1.0)]
)
def test_units_become_millimetres(
    tmp_path: Path, unit: str | None, factor: float, caplog: pytest.LogCaptureFixture
) -> None:
    axes = [{"name": n, "type": "space"} | ({} if unit is None else {"unit": unit}) for n in "zyx"]
    header = ZarrFile(ome(tmp_path / "a.zarr", stored(voxels()), axes=axes)).header()
    np.testing.assert_allclose(header.grid.affine[:3, 3], np.array([10, 20, 40]) * factor)
    np.testing.assert_allclose(header.grid.spacing_mm, np.array([1, 2, 4]) * factor)
    assert ("does not say the unit" in caplog.text) == (unit is None)


def test_transformations_of_the_image_come_after_those_of_the_resolution(tmp_path: Path) -> None:
    path = ome(tmp_path / "a.zarr", stored(voxels()))
    group = zarr.open_group(str(path), mode="r+")
    told = dict(group.attrs)["ome"]
    told["multiscales"][0]["coordinateTransformations"] = [{"type": "scale", "scale": [2.0, 3.0, 5.0]}]
    group.attrs.update({"ome": told})
    affine = ZarrFile(path).header().grid.affine
    np.testing.assert_allclose(np.diag(affine)[:3], [5e-3, 6e-3, 8e-3])
    np.testing.assert_allclose(affine[:3, 3], [5e-2, 6e-2, 8e-2])


@pytest.mark.parametrize(
    ("dtype", "taken"), [("bool", "u1"), ("float16", "f4"), ("float64", "f8"), ("uint64", "u8"), (">i4", "i4")]
)
def test_dtypes(tmp_path: Path, dtype: str, taken: str) -> None:
    data = (voxels() % 2).astype(dtype)
    file = ZarrFile(ome(tmp_path / "a.zarr", stored(data)))
    assert file.header().dtype == file.read().data.dtype == np.dtype(taken)
    np.testing.assert_array_equal(file.read().data, data)


class TestWhatCannotBeRead:
    def test_no_image_in_the_group(self, tmp_path: Path) -> None:
        group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
        group.create_array("raw", shape=(2, 2, 2), dtype="u1")
        assert "group without an OME-Zarr image; give an array or image in it (it holds raw)" in complaint(
            ZarrFile(tmp_path / "a.zarr")
        )

    def test_axes_without_z(self, tmp_path: Path) -> None:
        path = ome(tmp_path / "a.zarr", np.zeros((4, 4), np.uint8), axes=MICRO[1:], scale=(1, 1), shift=None)
        assert "its axes are y, x, but a volume has z, y and x" in complaint(ZarrFile(path))

    def test_another_unit(self, tmp_path: Path) -> None:
        axes = [{"name": n, "type": "space", "unit": "parsec"} for n in "zyx"]
        text = complaint(ZarrFile(ome(tmp_path / "a.zarr", stored(voxels()), axes=axes)))
        assert "its unit 'parsec' is not known; known: angstrom" in text

    def test_a_scale_of_zero(self, tmp_path: Path) -> None:
        assert "above 0" in complaint(ZarrFile(ome(tmp_path / "a.zarr", stored(voxels()), scale=(0, 1, 1))))

    def test_complex_numbers(self, tmp_path: Path) -> None:
        assert "complex64" in complaint(ZarrFile(ome(tmp_path / "a.zarr", stored(voxels()).astype(np.complex64))))

    def test_axes_that_do_not_fit_the_array(self, tmp_path: Path) -> None:
        path = ome(tmp_path / "a.zarr", stored(voxels()), axes=MICRO[:2], scale=(1, 1), shift=None)
        assert "has 3 axes, but names 2" in complaint(ZarrFile(path), DamagedFile)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"zarr_format": 9}', b'{"zarr_format": 3}'])
    def test_metadata_that_do_not_read(self, tmp_path: Path, content: bytes) -> None:
        path = ome(tmp_path / "a.zarr", stored(voxels()))
        (path / "full" / "zarr.json").write_bytes(content)
        complaint(ZarrFile(path), DamagedFile)
        (path / "zarr.json").write_bytes(content)
        complaint(ZarrFile(path), DamagedFile)

    def test_a_resolution_that_is_not_there(self, tmp_path: Path) -> None:
        path = ome(tmp_path / "a.zarr", stored(voxels()))
        (path / "full" / "zarr.json").unlink()
        complaint(ZarrFile(path), DamagedFile)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound):
            open_source(tmp_path / "a.zarr")


class TestRecognised:
    def test_by_its_name_or_by_what_lies_in_it(self, tmp_path: Path) -> None:
        for name, case_id in (("a.ome.zarr", "a"), ("b.zarr", "b"), ("folder", "folder")):
            for version in (2, 3):
                path = ome(tmp_path / str(version) / name, stored(voxels()), version=version)
                (case,) = open_source(path).cases
                assert case.id == case_id
                assert case.image == ZarrFile(path)

    def test_in_a_folder_beside_nifti(self, tmp_path: Path, write_nifti: Any) -> None:
        ome(tmp_path / "a.zarr", stored(voxels()))
        write_nifti(tmp_path / "b.nii.gz", voxels())
        source = open_source(tmp_path)
        assert [(case.id, type(case.image)) for case in source.cases] == [("a", ZarrFile), ("b", NiftiFile)]

    def test_pairs_by_name_and_by_hand(self, tmp_path: Path) -> None:
        ome(tmp_path / "a.zarr", stored(voxels()))
        ome(tmp_path / "a_seg.zarr", stored(voxels()))
        (case,) = open_source(tmp_path).cases
        assert case.image == ZarrFile(tmp_path / "a.zarr")
        assert [one.file for one in case.labels] == [ZarrFile(tmp_path / "a_seg.zarr")]
        (named,) = open_source(image=tmp_path / "a.zarr", labels=tmp_path / "a_seg.zarr").cases
        assert (named.image, named.labels[0].file) == (case.image, case.labels[0].file)

    def test_label_images_inside_an_image(self, tmp_path: Path) -> None:
        path = ome(tmp_path / "a.zarr", stored(voxels()))
        labels = (voxels() > 100).astype(np.uint8)
        ome(path / "labels" / "cells", stored(labels))
        inside = zarr.open_group(str(path / "labels"), mode="a")
        inside.attrs.update({"ome": {"version": "0.5", "labels": ["cells"]}})
        (case,) = open_source(path).cases
        assert [(one.name, one.file) for one in case.labels] == [("cells", ZarrFile(path / "labels" / "cells"))]
        np.testing.assert_array_equal(case.labels[0].file.read().data, labels)

    def test_format_by_hand(self, tmp_path: Path) -> None:
        path = ome(tmp_path / "a.nii.gz", stored(voxels()))
        (case,) = open_source(path, format="zarr").cases
        assert case.image == ZarrFile(path)


def files(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_the_same_slices_and_boxes_as_from_nifti(tmp_path: Path, write_nifti: Any) -> None:
    labels = (voxels() > 120).astype(np.uint8)
    millimetres = [{"name": n, "type": "space", "unit": "millimeter"} for n in "zyx"]
    words: Any = {"axes": millimetres, "shift": None}
    ome(tmp_path / "zarr" / "images" / "a.zarr", stored(voxels()), **words)
    ome(tmp_path / "zarr" / "labels" / "a.zarr", stored(labels), **words)
    for kind, data in (("images", voxels()), ("labels", labels)):
        write_nifti(tmp_path / "nifti" / kind / "a.nii.gz", data, np.diag([1.0, 2.0, 4.0, 1.0]))
    for views in (("axial",), ("axial", "coronal", "sagittal")):
        name = str(len(views))
        for kind in ("zarr", "nifti"):
            report = voxtract.extract(tmp_path / kind, tmp_path / name / kind, views, data_mode="box")
            assert report.exit_code == 0, str(report)
        both = files(tmp_path / name / "zarr" / "a"), files(tmp_path / name / "nifti" / "a")
        assert both[0] == both[1]
        assert len(both[0]) == {1: 2 * 5, 3: 2 * (5 + 7 + 9)}[len(views)]


def test_a_change_of_the_metadata_is_noticed(tmp_path: Path) -> None:
    path = ome(tmp_path / "a.zarr", stored(voxels()))
    voxtract.extract(path, tmp_path / "out")
    assert voxtract.extract(path, tmp_path / "out", resume=True).results[0].status == "resumed"
    ome(path, stored(voxels()), scale=(1, 1, 1))
    assert voxtract.extract(path, tmp_path / "out", resume=True).results[0].status == "done"


def test_grids_of_image_and_labels_are_compared(tmp_path: Path) -> None:
    image = ome(tmp_path / "a.zarr", stored(voxels()))
    labels = ome(tmp_path / "b.zarr", stored(voxels()), scale=(8, 2, 1))
    report = voxtract.extract(open_source(image=image, labels=labels), tmp_path / "out", progress=False)
    assert "does not lie on its image" in str(report.failed[0].error)
    assert isinstance(ZarrFile(image).header().grid, Grid)
    assert place(str(image)) == image
