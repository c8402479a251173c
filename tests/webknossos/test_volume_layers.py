"""Inner zips: opened whoever wrote them, read by stored chunk, written in the official form, broken in every way."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.webknossos.volumes import (
    DTYPES,
    VARIANTS,
    Chunks,
    dense,
    labels,
    wkw_cube,
    wkw_header,
    wkw_members,
    zarr_json,
    zarr_members,
    zipped,
)
from voxtract.errors import DamagedFile, InvalidInput, NotFound, OutputError, UnreadableFile
from voxtract.geometry import Box
from voxtract.webknossos.boxes import BoundingBox
from voxtract.webknossos.mag import Mag
from voxtract.webknossos.volume import Axis, VolumeData
from voxtract.webknossos.volume_writer import store_chunks, write_volume

pytest.importorskip("numcodecs", reason="numcodecs decodes volume layers")
pytest.importorskip("lz4.block", reason="lz4 decodes wkw")

PLACES = [(5, 7, 2), (6, 7, 2), (5, 8, 2), (0, 9, 3), (104, 0, 0)]
CHUNKS: Chunks = {place: labels(n) for n, place in enumerate(PLACES)}
COARSE: Chunks = {(2, 3, 2): labels(9)}


def members(kind: str) -> dict[str, bytes]:
    mags = {"1": CHUNKS, "2-2-1": COARSE}
    return wkw_members(mags) if kind == "wkw" else zarr_members(mags, VARIANTS[kind])


@pytest.fixture(params=["wkw", *VARIANTS])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_kind_gives_the_same_chunks(kind: str) -> None:
    with VolumeData.open(zipped(members(kind)), "data_Volume.zip") as volume:
        assert volume.data_format == ("wkw" if kind == "wkw" else "zarr3")
        assert volume.dtype == np.dtype("u4")
        assert volume.dtype.isnative
        assert (volume.is_empty, volume.axes, list(volume.mags)) == (False, (), [Mag(1), Mag("2-2-1")])
        assert volume.largest_segment_id == 2**32 - 1
        store = volume.mags[Mag(1)]
        assert volume.finest is store
        found = list(store.chunks())
        order = sorted(PLACES, key=lambda place: place[::-1])
        assert [start for start, _ in found] == [tuple(32 * n for n in place) for place in order]
        assert store.positions.tolist() == [list(start) for start, _ in found]
        assert store.box == Box((0, 0, 0), (3360, 320, 128))
        for place, (_, voxels) in zip(order, found, strict=True):
            assert voxels.flags.f_contiguous
            assert voxels.dtype == np.dtype("u4")
            np.testing.assert_array_equal(voxels, CHUNKS[place])
        np.testing.assert_array_equal(next(volume.mags[Mag("2-2-1")].chunks())[1], COARSE[2, 3, 2])
        assert volume.mags[Mag("2-2-1")].box == Box((64, 96, 64), (96, 128, 96))


def test_boxes_of_the_layer(kind: str) -> None:
    volume = VolumeData.open(zipped(members(kind)))
    assert volume.stored_box == BoundingBox((0, 0, 0), (3360, 320, 128))
    if kind == "wkw":
        assert (volume.declared_box, volume.name) == (None, "")
        assert volume.bounding_box == volume.stored_box
    else:
        assert volume.name == "volumeAnnotationData"
        assert volume.bounding_box == volume.declared_box == BoundingBox((0, 0, 0), (1 << 20,) * 3)


def test_chunks_outside_of_the_declared_box_are_not_lost() -> None:
    volume = VolumeData.open(zipped(zarr_members({"1": {(1, 1, 1): labels(1)}}, box=([100, 0, 40], [10, 33, 9]))))
    assert volume.bounding_box == BoundingBox((32, 0, 32), (78, 64, 32))
    assert volume.mags[Mag(1)].read((32, 32, 32), (32, 32, 32)).any()


@pytest.mark.parametrize("box", [None, {}, {"topLeft": [0, 0]}, {"topLeft": [0, 0, "1"]}, {"topLeft": [0, 0, 1e400]}])
def test_a_declared_box_that_is_none_is_not_needed(box: Any) -> None:
    def change(content: dict[str, bytes]) -> None:
        layer = {"boundingBox": {"width": 1, "height": 1, "depth": 1, **box} if box is not None else None}
        content["datasource-properties.json"] = json.dumps({"dataLayers": [layer]}).encode()

    volume = VolumeData.open(zipped(zarr_members({"1": {(1, 1, 1): labels(1)}}), change))
    assert volume.declared_box is None
    assert volume.bounding_box == BoundingBox((32, 32, 32), (32, 32, 32))


@given(start=st.tuples(*[st.integers(-40, 330)] * 3), size=st.tuples(*[st.integers(0, 90)] * 3))
@settings(max_examples=40)
def test_reading_a_box_is_cutting_it_from_the_whole(start: Any, size: Any) -> None:
    chunks: Chunks = {place: CHUNKS[place] for place in PLACES[:4]}
    volume = VolumeData.open(zipped(zarr_members({"1": chunks})))
    found = volume.mags[Mag(1)].read(start, size)
    low = [max(0, n) for n in start]
    high = [max(a, n + m) for a, n, m in zip(low, start, size, strict=True)]
    inside = dense(chunks, tuple(low), tuple(b - a for a, b in zip(low, high, strict=True)), "u4")
    expected = np.zeros(size, "u4")
    if inside.size and expected.size:
        expected[tuple(slice(a - n, b - n) for a, b, n in zip(low, high, start, strict=True))] = inside
    assert found.dtype == expected.dtype
    assert found.flags.f_contiguous
    np.testing.assert_array_equal(found, expected)


def test_a_box_larger_than_memory_is_refused() -> None:
    volume = VolumeData.open(zipped(members("server of 2023")), "a.zip")
    with pytest.raises(InvalidInput, match=r"a\.zip: a box of 1048576 x 1048576 x 1048576 voxels .* in memory"):
        volume.mags[Mag(1)].read((0, 0, 0), volume.bounding_box.size)
    with pytest.raises(InvalidInput, match="in memory"):
        volume.mags[Mag(1)].read((0, 0, 0), (1, -1, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["wkw", "zarr3"])
def test_every_dtype(dtype: str, form: str) -> None:
    chunks: Chunks = {(1, 2, 3): labels(4, dtype)}
    name = np.dtype(dtype).name
    content = wkw_members({"1": chunks}, dtype) if form == "wkw" else zarr_members({"1": chunks}, dtype=name)
    volume = VolumeData.open(zipped(content))
    assert volume.dtype == np.dtype(dtype)
    assert volume.largest_segment_id == np.iinfo(np.dtype(dtype).type).max
    np.testing.assert_array_equal(volume.mags[Mag(1)].decode(0), chunks[1, 2, 3])


def test_axes_beyond_three() -> None:
    chunks: Chunks = {(t, u, 1, 2, z): labels(10 * t + u + z) for t in (0, 4) for u in (2, 3) for z in (1, 0)}
    volume = VolumeData.open(zipped(zarr_members({"1": chunks, "2": {(4, 2, 0, 0, 0): labels(1)}})), "a.zip")
    store = volume.mags[Mag(1)]
    assert volume.axes == (Axis("t", 0, 5), Axis("u", 2, 4))
    assert store.coordinates == [(0, 2), (0, 3), (4, 2), (4, 3)]
    assert [start for start, _ in store.at(4, 3).chunks()] == [(32, 64, 0), (32, 64, 32)]
    for place in store.coordinates:
        for (_, _, z), voxels in store.at(*place).chunks():
            np.testing.assert_array_equal(voxels, chunks[(*place, 1, 2, z // 32)])
    assert not len(store.at(1, 2))
    with pytest.raises(InvalidInput, match=r"a\.zip: chunks at 4 places along t, u; take one with at\(\)"):
        list(store.chunks())
    with pytest.raises(InvalidInput, match="one index for each axis"):
        store.at(1)
    np.testing.assert_array_equal(volume.mags[Mag(2)].read((0, 0, 0), (32, 32, 32)), labels(1))


@pytest.mark.parametrize("raw", [b"", zipped({}), zipped({"volumeAnnotationData/": b""})])
def test_no_entries_are_no_data(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    path.write_bytes(raw)
    for volume in (VolumeData.open(raw), VolumeData.open(path), VolumeData.open(io.BytesIO(raw))):
        with volume:
            assert (volume.is_empty, volume.mags, volume.dtype, volume.data_format) == (True, {}, None, None)
            assert (volume.finest, volume.largest_segment_id, volume.axes) == (None, 0, ())
            assert volume.bounding_box == volume.stored_box == BoundingBox((0, 0, 0), (0, 0, 0))


def test_headers_alone_are_an_empty_layer() -> None:
    for content in (wkw_members({"1": {}, "2-2-1": {}}), zarr_members({"1": {}, "2-2-1": {}}, box=None)):
        volume = VolumeData.open(zipped(content))
        assert volume.is_empty
        assert volume.dtype == np.dtype("u4")
        assert [str(mag) for mag in volume.mags] == ["1", "2-2-1"]
        assert volume.bounding_box == BoundingBox((0, 0, 0), (0, 0, 0))
        assert not volume.mags[Mag(1)].read((0, 0, 0), (5, 5, 5)).any()
        assert list(volume.mags[Mag(1)].chunks()) == []


def test_a_mag_without_chunks_is_not_the_finest() -> None:
    volume = VolumeData.open(zipped(wkw_members({"1": {}, "2-2-1": COARSE})))
    assert volume.finest is volume.mags[Mag("2-2-1")]
    assert volume.stored_box == BoundingBox((128, 192, 64), (64, 64, 32))


def test_what_a_computer_adds_to_a_zip_is_passed_over() -> None:
    extra = {"__MACOSX/._1": b"x", ".DS_Store": b"x", "1/.DS_Store": b"x"}
    assert len(VolumeData.open(zipped({**members("wkw"), **extra})).mags[Mag(1)]) == len(PLACES)
    groups = {"zarr.json": b"{}", "volumeAnnotationData/zarr.json": b"{}"}
    assert len(VolumeData.open(zipped({**members("server of 2023"), **groups})).mags[Mag(1)]) == len(PLACES)


def test_other_names_of_folders_and_chunks() -> None:
    content = members("server of 2023")
    moved = {name.replace("/1/", "/1-1-1/").replace("/c.0.", "/c/0/"): raw for name, raw in content.items()}
    moved = {name.replace("volumeAnnotationData/", ""): raw for name, raw in moved.items()}
    slashes = {
        name if "/c/" not in name else name.split("/c/")[0] + "/c/" + name.split("/c/")[1].replace(".", "/"): raw
        for name, raw in moved.items()
    }
    volume = VolumeData.open(zipped(slashes))
    assert list(volume.mags) == [Mag(1), Mag("2-2-1")]
    np.testing.assert_array_equal(volume.mags[Mag(1)].read((160, 224, 64), (32, 32, 32)), CHUNKS[5, 7, 2])


def test_streamed_zips_are_read() -> None:
    """Servers write sizes behind the data."""

    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise OSError("a stream")

        def tell(self) -> int:
            raise OSError("a stream")

    out = Stream()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in members("server since July 2025").items():
            archive.writestr(name, raw)
    volume = VolumeData.open(out.getvalue())
    np.testing.assert_array_equal(volume.mags[Mag(1)].read((160, 224, 64), (32, 32, 32)), CHUNKS[5, 7, 2])


def without_lists_of_codecs(content: dict[str, bytes]) -> None:
    content["volumeAnnotationData/1/zarr.json"] = json.dumps(
        {**zarr_json("uint32", VARIANTS["official library"]), "codecs": None}
    ).encode()


def put(name: str, raw: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(content: dict[str, bytes]) -> None:
        content[name] = raw

    return change


ZARR = "volumeAnnotationData/1"


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("wkw", put("1/z1/y1/note.txt", b""), "'1/z1/y1/note.txt' is neither a chunk nor a header"),
        ("wkw", put("3/z1/y1/x1.wkw", b""), "'3/z1/y1/x1.wkw' is neither a chunk nor a header"),
        ("wkw", put("../../1/z1/y1/x1.wkw", b""), "neither a chunk nor a header"),
        ("wkw", put("1/z1/y1/x9999999999.wkw", b""), "neither a chunk nor a header"),
        ("wkw", put("3/header.wkw", wkw_header("u4")), "mag '3' is none"),
        ("wkw", put("1-1-1/header.wkw", wkw_header("u4")), "are the same mag"),
        ("wkw", put("4/header.wkw", wkw_header("u2")), "mags have different voxels: .*uint32 in mag"),
        ("wkw", put("4/header.wkw", wkw_header("f4")), "one channel of integers"),
        ("wkw", put("4/header.wkw", wkw_header("u4", sides=0x15)), "cubes of 2 blocks of 32"),
        ("wkw", put("4/header.wkw", wkw_header("u4")[:9]), "4/header.wkw: begins with"),
        ("wkw", put("4/header.wkw", wkw_header("u4") + b"0"), "4/header.wkw: holds more than 16 bytes"),
        ("wkw", put("zarr.json", b"{}"), "both wkw and zarr 3"),
        ("wkw", put("1/z0/y0/x67108864.wkw", b""), "past voxel"),
        ("server of 2023", put(f"{ZARR}/0.5.7.2", b""), "are the same chunk"),
        ("server of 2023", put(f"{ZARR}/c.0.5.7", b""), "must name the channel, which is 0, x, y and z"),
        ("server of 2023", put(f"{ZARR}/c.1.5.7.2", b""), "must name the channel"),
        ("server of 2023", put(f"{ZARR}/c.0.5.7.2.1", b""), "must name the channel"),
        ("server of 2023", put("a/4/c.0.5.7.2", b""), "neither a chunk nor a header"),
        ("server of 2023", put(f"{ZARR}/.zarray", b"{}"), "zarr 2 arrays"),
        ("server of 2023", put("datasource-properties.json", b"{"), "datasource-properties.json: is no JSON"),
        ("server of 2023", put("datasource-properties.json", b" " * (1 << 25)), "holds more than 16777216 bytes"),
        ("server of 2023", without_lists_of_codecs, "lists no codecs"),
    ],
)
def test_zips_that_are_none_of_a_volume_layer(kind: str, change: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^a.zip.*{message}"):
        VolumeData.open(zipped(members(kind), change), "a.zip")


def test_the_same_name_twice() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("1/header.wkw", wkw_header("u4"))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("1/header.wkw", wkw_header("u2"))
    with pytest.raises(DamagedFile, match="two of its members have the same name"):
        VolumeData.open(buffer.getvalue())


def test_mags_with_different_axes() -> None:
    content = zarr_members({"1": CHUNKS}) | zarr_members({"2": {(0, 0, 0, 0): labels(1)}})
    with pytest.raises(DamagedFile, match="mags have different axes"):
        VolumeData.open(zipped(content))


@pytest.mark.parametrize("raw", [b"no zip", zipped(members("wkw"))[:-30], b"PK\5\6" + b"\xff" * 18])
def test_what_is_no_zip(raw: bytes) -> None:
    with pytest.raises(DamagedFile, match=r"^a\.zip: is no zip with the voxels"):
        VolumeData.open(raw, "a.zip")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        VolumeData.open(tmp_path / "none.zip")
    with pytest.raises(UnreadableFile, match="cannot be read"):
        VolumeData.open(tmp_path)


def test_truncated_anywhere_is_an_error_or_the_same_voxels() -> None:
    raw = zipped(members("wkw"))
    for size in range(0, len(raw), max(1, len(raw) // 60)):
        if size:
            with pytest.raises(DamagedFile):
                VolumeData.open(raw[:size])


def test_flipped_bytes_are_an_error_or_the_same_voxels() -> None:
    raw = zipped(members("server of 2023"))
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(raw), 80).tolist():
        broken = bytearray(raw)
        broken[place] ^= 1 << int(rng.integers(8))
        try:
            volume = VolumeData.open(bytes(broken))
            for store in volume.mags.values():
                for start, voxels in store.chunks():
                    truth = {**{(*p, 1): v for p, v in CHUNKS.items()}, **{(*p, 2): v for p, v in COARSE.items()}}
                    np.testing.assert_array_equal(voxels, truth[(*(n // 32 for n in start), store.mag[0])])
        except (InvalidInput, UnreadableFile):
            continue


def test_a_bomb_is_not_inflated() -> None:
    for name in ("1/z0/y0/x0.wkw", "1/header.wkw"):
        content = {"1/header.wkw": wkw_header("u4"), name: wkw_header("u4", offset=24) + bytes(1 << 25)}
        raw = zipped(content)
        assert len(raw) < 100_000
        tracemalloc.start()
        try:
            with pytest.raises(DamagedFile, match="holds more than"):
                VolumeData.open(raw).largest_segment_id  # noqa: B018
            assert tracemalloc.get_traced_memory()[1] < 4e6
        finally:
            tracemalloc.stop()


def test_encrypted_members_are_told() -> None:
    raw = bytearray(zipped(members("wkw")))
    place = 0
    while (place := raw.find(b"PK\1\2", place)) >= 0:
        raw[place + 8] |= 1
        place += 4
    with pytest.raises(DamagedFile, match="encrypted"):
        VolumeData.open(bytes(raw))


def test_cubes_with_another_header_are_told() -> None:
    content = wkw_members({"1": {(0, 0, 0): labels(1)}})
    content["1/z0/y0/x0.wkw"] = wkw_cube(labels(1, "u2"))
    volume = VolumeData.open(zipped(content), "a.zip")
    with pytest.raises(DamagedFile, match=r"^a\.zip/1/z0/y0/x0\.wkw: its header says"):
        volume.mags[Mag(1)].decode(0)


# -- written ----------------------------------------------------------------------------------------------------------


def written(dtype: str, mags: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    write_volume(buffer, dtype, mags, **options)
    return buffer.getvalue()


def as_chunks(chunks: Chunks) -> list[tuple[tuple[int, ...], NDArray[Any]]]:
    return [((*place[:-3], *(32 * n for n in place[-3:])), voxels) for place, voxels in chunks.items()]


def test_what_is_written_has_the_names_of_the_format() -> None:
    raw = written("u4", {Mag("2-2-1"): as_chunks(COARSE), Mag(1): as_chunks(CHUNKS)}, voxel_size_nm=(4, 4, 35))
    assert raw == written("u4", {Mag(1): as_chunks(CHUNKS), Mag("2-2-1"): as_chunks(COARSE)}, voxel_size_nm=(4, 4, 35))
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        names = {f"volumeAnnotationData/1/c.0.{x}.{y}.{z}" for x, y, z in CHUNKS}
        names |= {f"volumeAnnotationData/2-2-1/c.0.{x}.{y}.{z}" for x, y, z in COARSE}
        names |= {
            "datasource-properties.json",
            "volumeAnnotationData/1/zarr.json",
            "volumeAnnotationData/2-2-1/zarr.json",
        }
        assert set(archive.namelist()) == names
        (layer,) = json.loads(archive.read("datasource-properties.json"))["dataLayers"]
        assert layer["boundingBox"] == {"topLeft": [0, 0, 0], "width": 3360, "height": 320, "depth": 128}
        assert (layer["name"], layer["category"], layer["dataFormat"], layer["elementClass"], layer["numChannels"]) == (
            "volumeAnnotationData",
            "segmentation",
            "zarr3",
            "uint32",
            1,
        )
        assert [mag["path"] for mag in layer["mags"]] == ["./volumeAnnotationData/1", "./volumeAnnotationData/2-2-1"]
        assert json.loads(archive.read("volumeAnnotationData/2-2-1/zarr.json"))["shape"] == [1, 1696, 160, 128]
    volume = VolumeData.open(raw)
    assert volume.bounding_box == BoundingBox((0, 0, 0), (3360, 320, 128))
    for place, voxels in CHUNKS.items():
        np.testing.assert_array_equal(volume.mags[Mag(1)].read([32 * n for n in place], (32, 32, 32)), voxels)


def test_other_readers_read_what_is_written(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr reads what is written")
    chunks: Chunks = {place: CHUNKS[place] for place in PLACES[:4]}
    raw = written("u4", {Mag(1): as_chunks(chunks)})
    (tmp_path / "a.zip").write_bytes(raw)
    truth = dense(chunks, (0, 0, 0), (224, 320, 128), "u4")
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="r") as store:
        array = zarr.open_array(store, path="volumeAnnotationData/1", mode="r")
        np.testing.assert_array_equal(array[0], truth)
    tensorstore = pytest.importorskip("tensorstore", reason="a second reader of zarr")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        archive.extractall(tmp_path / "a")
    kvstore = {"driver": "file", "path": str(tmp_path / "a" / "volumeAnnotationData" / "1")}
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
    np.testing.assert_array_equal(array.read().result()[0], truth)


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.order])
def test_the_zips_made_by_hand_are_what_another_reader_takes_them_for(tmp_path: Path, name: str) -> None:
    """The tests' own zips against tensorstore, which knows all but the wrong kind."""
    tensorstore = pytest.importorskip("tensorstore", reason="a second reader of zarr")
    with zipfile.ZipFile(io.BytesIO(zipped(zarr_members({"1": CHUNKS}, VARIANTS[name])))) as archive:
        archive.extractall(tmp_path)
    kvstore = {"driver": "file", "path": str(tmp_path / "volumeAnnotationData" / "1")}
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
    np.testing.assert_array_equal(array[0, 160:192, 224:256, 64:96].read().result(), CHUNKS[5, 7, 2])


@given(
    dtype=st.sampled_from(DTYPES),
    places=st.sets(st.tuples(*[st.integers(0, 2000)] * 3), max_size=4),
    mag=st.sampled_from(["1", "2-2-1", "16"]),
    times=st.sets(st.integers(0, 9), max_size=2),
)
@settings(max_examples=20)
def test_what_is_written_comes_back(dtype: str, places: Any, mag: str, times: Any) -> None:
    places = [(t, *place) for t in sorted(times) for place in sorted(places)] if times else sorted(places)
    chunks: Chunks = {place: labels(n, dtype) for n, place in enumerate(places)}
    axes = [Axis("t", 0, 10)] if times else []
    raw = written(dtype, {Mag(mag): as_chunks(chunks)}, axes=axes)
    volume = VolumeData.open(raw)
    found = {}
    for start, voxels in store_chunks(volume.mags[Mag(mag)]):
        found[*start[:-3], *(n // 32 for n in start[-3:])] = voxels
    assert set(found) == set(chunks)
    for place, voxels in found.items():
        assert voxels.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(voxels, chunks[place])
    again = written(dtype, {Mag(mag): store_chunks(volume.mags[Mag(mag)])}, axes=axes)
    assert VolumeData.open(again).mags[Mag(mag)].positions.tolist() == volume.mags[Mag(mag)].positions.tolist()


def test_chunks_of_zeros_are_written_and_a_declared_box_is_kept() -> None:
    zeros = np.zeros((32, 32, 32), "u2")
    raw = written("u2", {Mag(1): [((64, 0, 0), zeros)]}, bounding_box=BoundingBox((0, 0, 0), (90, 40, 10)))
    volume = VolumeData.open(raw)
    assert volume.mags[Mag(1)].positions.tolist() == [[64, 0, 0]]
    assert volume.bounding_box == BoundingBox((0, 0, 0), (96, 40, 32))


def test_no_mags_and_no_chunks() -> None:
    assert VolumeData.open(written("u2", {})).mags == {}
    volume = VolumeData.open(written("u2", {Mag(1): []}))
    assert volume.is_empty
    assert volume.dtype == np.dtype("u2")


ONE = np.ones((32, 32, 32), "u4")


@pytest.mark.parametrize(
    ("dtype", "chunks", "options", "message"),
    [
        ("f4", [], {}, "voxels of float32 cannot be a volume layer"),
        ("u4", [((0, 0, 0), ONE.astype("u2"))], {}, "voxels of uint16, but 32 x 32 x 32 of uint32"),
        ("u4", [((0, 0, 0), ONE[:31])], {}, r"\(31, 32, 32\) voxels of uint32"),
        ("u4", [((0, 0, 5), ONE)], {}, "multiples of 32"),
        ("u4", [((0, 0), ONE)], {}, "x, y, z that are multiples"),
        ("u4", [((0, 0, 0, 0), ONE)], {}, "each of 0 extra axes"),
        ("u4", [((0, 0, -32), ONE)], {}, "outside of voxels 0 to 2147483648"),
        ("u4", [((0, 0, 2**31), ONE)], {}, "outside of voxels 0 to 2147483648"),
        ("u4", [((0, 0, 0), ONE), ((0, 0, 0), ONE)], {}, r"two chunks at \(0, 0, 0\)"),
        ("u4", [((7, 0, 0, 0), ONE)], {"axes": [Axis("t", 0, 7)]}, "outside of its axes"),
        ("u4", [((0, 0, 0), ONE)], {"voxel_size_nm": (1, 1, float("nan"))}, "voxel size"),
    ],
)
def test_chunks_that_cannot_be_written(dtype: str, chunks: Any, options: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        written(dtype, {Mag(1): chunks}, **options)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_volume(tmp_path / "none" / "a.zip", "u4", {})


def test_a_reader_that_fails_is_not_told_as_a_failed_write() -> None:
    content = wkw_members({"1": {(0, 0, 0): labels(1)}})
    content["1/z0/y0/x0.wkw"] = wkw_header("u4", offset=24) + struct.pack("<Q", 24)
    volume = VolumeData.open(zipped(content))
    with pytest.raises(DamagedFile):
        written("u4", {Mag(1): store_chunks(volume.mags[Mag(1)])})
