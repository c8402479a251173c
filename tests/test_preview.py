"""The contact sheet of an extraction: the right slices, the boxes around what they mark, errors that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.extractions import SCENES, Scene, make_extraction
from voxtract.classes import ClassMap
from voxtract.errors import DamagedFile, InvalidInput, NotFound, UnreadableFile
from voxtract.preview import (
    Tone,
    annotated_area,
    pick_slices,
    pixel_boxes,
    preview,
    rows_of_slice,
    sampled,
    shared_out,
    spread,
)
from voxtract.read.extraction import open_extraction
from voxtract.read.images import read_image
from voxtract.storage import Place
from voxtract.write.sheet import Tile, contact_sheet

RED = (255, 0, 0)
ONE = Scene("one", (30, 40, 6), (1.0, 1.0, 2.0), ((2, (4, 10, 2), (14, 25, 4)),))


def pixels(path: Place) -> NDArray[np.uint8]:
    assert isinstance(path, Path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def extent(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    y, x = np.nonzero(mask)
    return int(x.min()), int(y.min()), int(x.max()), int(y.max())


@pytest.mark.parametrize("images", ["tiff", "png"])
@pytest.mark.parametrize("target_size", [None, (48, 64)])
def test_the_box_encloses_the_bright_brick(tmp_path: Path, images: str, target_size: Any) -> None:
    """On the sheet, what is bright and what the red line encloses are the same, whatever the format and padding."""
    out = make_extraction(
        tmp_path, [ONE], images=images, target_size=target_size, dtype="uint16" if images == "png" else "auto"
    )
    sheet = pixels(preview(out, tiles=1, tile_px=960))  # a whole number of times 40 and 64
    red = (sheet == RED).all(axis=2)
    red[:120] = False  # title and legend
    columns, rows = np.flatnonzero(red.sum(axis=0) > 100), np.flatnonzero(red.sum(axis=1) > 100)
    left, right, top, bottom = columns[0] + 2, columns[-1] - 2, rows[0] + 2, rows[-1] - 2  # inside of the lines
    scale = 960 / (40 if target_size is None else 64)
    assert (right - left + 1, bottom - top + 1) == (15 * scale, 10 * scale)
    grey = sheet[..., 1].astype(int)
    assert grey[top + 8 : bottom - 7, left + 8 : right - 7].min() > 140
    sides = grey[top : bottom + 1, left - 40 : left - 12], grey[top : bottom + 1, right + 13 : right + 41]
    assert max(side.max() for side in sides) < 140


def test_millimetres_are_the_same_both_ways(tmp_path: Path) -> None:
    """30 rows of 1 mm and 6 columns of 2 mm in the coronal view: 30 mm high, 12 mm wide."""
    out = make_extraction(tmp_path, [ONE], views=("coronal",))
    sheet = pixels(preview(out, tiles=1, tile_px=300, views=["coronal"], choose="largest"))
    mount = sheet.shape[1] - 2 * 28
    assert mount == 300
    inner = sheet[110:-60].max(axis=2) > 24
    left, _, right, _ = extent(inner)
    assert (right - left + 1) / 300 == pytest.approx(12 / 30, abs=0.03)


def test_one_in_the_file_named_and_in_the_folder_by_default(tmp_path: Path) -> None:
    out = make_extraction(tmp_path)
    assert preview(out, tile_px=60) == out / "preview.png"
    assert preview(str(out), tmp_path / "deep" / "sheet.PNG", tiles=2) == tmp_path / "deep" / "sheet.PNG"
    first = preview(out, tile_px=60).read_bytes()
    assert preview(out, tile_px=60).read_bytes() == first
    assert not list(out.glob(".voxtract-staging*"))


def test_names_of_classes_stand_beside_the_boxes(tmp_path: Path) -> None:
    """The plate under the name has the colour of the class: more red than the lines alone."""
    options: dict[str, Any] = {"tiles": 1, "tile_px": 400}
    named = pixels(preview(make_extraction(tmp_path / "a", [ONE]), **options))
    tiny = {"class_map": {2: {"name": ".", "color": "#ff0000"}}}
    bare = pixels(preview(make_extraction(tmp_path / "b", [ONE], **tiny), **options))
    assert (named == RED).all(axis=2).sum() > (bare == RED).all(axis=2).sum() + 200


def test_labels_without_a_class_map_have_colours_and_names(tmp_path: Path) -> None:
    out = make_extraction(tmp_path, class_map=None)
    sheet = pixels(preview(out, tiles=4))
    assert (sheet == (255, 176, 0)).all(axis=2).any()
    assert (sheet == (34, 199, 255)).all(axis=2).any()


def test_annotated_slices_come_first_and_all_cases_have_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_extraction(tmp_path, views=("axial", "sagittal"))
    drawn: list[str] = []

    def noted(*args: Any) -> Tile:
        drawn.append(args[3])
        return Tile(*args)

    monkeypatch.setattr("voxtract.preview.Tile", noted)
    preview(out, tiles=8, tile_px=40)
    found = [caption.split() for caption in drawn]
    scenes = {scene.id: scene for scene in SCENES}
    assert all(scenes[case].boxes(view, int(index)) for case, view, index in found)
    assert {(case, view) for case, view, _ in found} == {
        (c, v) for c in ("case-a", "case-b") for v in ("axial", "sagittal")
    }
    drawn.clear()
    preview(out, tiles=1000, tile_px=40)
    assert len(drawn) == len(set(drawn)) == sum(s.slices("axial") + s.slices("sagittal") for s in SCENES)
    drawn.clear()
    preview(out, tiles=1000, tile_px=40, cases=["case-c", "case-b", "case-c"], views=["sagittal"])
    assert [caption.split()[0] for caption in drawn] == ["case-c"] * 24 + ["case-b"] * 20


def test_the_largest_are_those_with_the_most_annotated_pixels(tmp_path: Path) -> None:
    out = make_extraction(tmp_path)
    (found,) = open_extraction(out).cases[0].findings()
    area = annotated_area(found)
    assert pick_slices(found, area, 2, 0, "largest").tolist() == [4, 5]  # all three bricks, and the first two
    assert pick_slices(found, area, 2, 1, "spread").tolist() == [3, 6, 8]  # of 2..7, and of 0, 1, 8, 9


@pytest.mark.parametrize("extent", ["slice", "volume"])
@pytest.mark.parametrize("view", ["axial", "coronal", "sagittal"])
def test_areas_and_boxes_of_each_slice_are_those_of_the_bricks(tmp_path: Path, view: str, extent: str) -> None:
    out = make_extraction(tmp_path, views=(view,), extraction_mode=extent, target_size=(40, 50))
    for scene, case in zip(SCENES, open_extraction(out).cases, strict=True):
        (found,) = case.findings()
        top, left = found.plane.pad
        area = annotated_area(found)
        for index in range(scene.slices(view)):
            rows = rows_of_slice(found, index)
            seen = [
                (int(n), *box) for n, box in zip(found.rows.label[rows], pixel_boxes(found, rows).tolist(), strict=True)
            ]
            expected = [(n, x0 + left, y0 + top, x1 + left, y1 + top) for n, x0, y0, x1, y1 in scene.boxes(view, index)]
            assert sorted(seen) == sorted(expected)
            assert area[index] == sum((x1 - x0 + 1) * (y1 - y0 + 1) for _, x0, y0, x1, y1 in expected)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    out = make_extraction(tmp_path)
    with pytest.raises(NotFound, match="holds no extraction"):
        preview(tmp_path / "data")
    with pytest.raises(InvalidInput, match=r"'case-x'.*it has 3: case-a, case-b, case-c"):
        preview(out, cases=["case-a", "case-x"])
    with pytest.raises(InvalidInput, match="none was named"):
        preview(out, cases=[])
    with pytest.raises(InvalidInput, match="has no coronal slices; it has axial"):
        preview(out, views=["coronal"])
    with pytest.raises(InvalidInput, match="allowed: 'axial', 'coronal', 'sagittal'"):
        preview(out, views=["oblique"])  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match="allowed: 'spread', 'largest'"):
        preview(out, choose="best")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"sheet\.jpg: a contact sheet is a PNG file"):
        preview(out, tmp_path / "sheet.jpg")
    for word in ("tiles", "columns", "tile_px"):
        words: dict[str, Any] = {word: 0}
        with pytest.raises(InvalidInput, match=f"{word} 0"):
            preview(out, **words)
    with pytest.raises(InvalidInput, match="no images were written"):
        preview(make_extraction(tmp_path / "bare", images=None))
    assert not list(tmp_path.rglob("*.jpg"))


def test_a_half_deleted_extraction_is_said(tmp_path: Path) -> None:
    out = make_extraction(tmp_path, [ONE])
    path = out / "one" / "axial" / "one_axial_002.tif"
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(NotFound, match=r"one_axial_002\.tif: no such image; put back what was extracted"):
        preview(out)
    path.write_bytes(whole[:300])
    with pytest.raises(DamagedFile, match=r"one_axial_002\.tif: the image is damaged"):
        preview(out)
    path.write_bytes(b"no image at all")
    with pytest.raises(DamagedFile, match=r"one_axial_002\.tif: the image is damaged"):
        preview(out)
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(path)
    with pytest.raises(DamagedFile, match="has 3 x 4 pixels, but 30 x 40 were extracted"):
        preview(out)
    assert not (out / "preview.png").exists()


@pytest.mark.parametrize("images", ["tiff", "png"])
def test_damaged_images_are_damaged_files_whatever_the_decoder_raises(tmp_path: Path, images: str) -> None:
    out = make_extraction(
        tmp_path, [ONE], images=images, dtype="uint16", compression="zlib" if images == "tiff" else None
    )
    (found,) = open_extraction(out).cases[0].findings()
    path = out / found.name(0)
    whole = path.read_bytes()
    assert read_image(path, found.plane.size).shape == (30, 40)
    assert read_image(path, found.plane.size).dtype == np.uint16
    rng = np.random.default_rng(0)
    said = []
    for turn in range(150):
        content = bytearray(whole[: rng.integers(0, len(whole))] if turn % 3 else whole)
        for place in rng.integers(0, min(300, len(content)) or 1, 3 if content else 0):
            content[place] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            assert read_image(path, found.plane.size).shape == (30, 40)
        except DamagedFile as why:
            said.append(str(why))
    assert len(said) > 90
    assert all(text.startswith(str(path)) and "extract anew" in text for text in said)
    Image.new("RGB", (40, 30)).save(path)
    with pytest.raises(DamagedFile, match="has 30 x 40 x 3 pixels, but 30 x 40 were extracted"):
        read_image(path, found.plane.size)
    path.unlink()
    path.mkdir()
    with pytest.raises(UnreadableFile, match="cannot be read: Is a directory"):
        read_image(path, found.plane.size)


# ------------------------------------------------------------------------------------------------------ small pieces


@given(available=st.lists(st.integers(0, 9), min_size=1, max_size=12), total=st.integers(0, 60))
def test_shares_are_as_even_as_they_can_be(available: list[int], total: int) -> None:
    shares = shared_out(available, total)
    assert sum(shares) == min(total, sum(available))
    assert all(0 <= share <= most for share, most in zip(shares, available, strict=True))
    poorest = min((s for s, most in zip(shares, available, strict=True) if s < most), default=None)
    if poorest is not None:  # who could take more has at most one less than anybody
        assert max(shares) <= poorest + 1


@given(length=st.integers(0, 40), count=st.integers(0, 50))
def test_spread_takes_the_middles_of_equal_parts(length: int, count: int) -> None:
    taken = spread(np.arange(length), count).tolist()
    assert len(taken) == min(length, count)
    assert taken == sorted(set(taken))
    assert (
        taken == [length - 1 - n for n in reversed(taken)]
        or max(abs(a - (length - 1 - b)) for a, b in zip(taken, reversed(taken), strict=True)) <= 1
    )
    gaps = np.diff(taken)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


@settings(deadline=None)
@given(data=st.data())
def test_a_tone_curve_never_turns_back(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["uint8", "int16", "uint16", "int32", "float32"]))
    seed, scale = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0, 1, 40]))
    image = (np.random.default_rng(seed).standard_normal((40, 30)) * scale + 100).astype(dtype)
    tone = Tone.of([image])
    line = np.sort(image.ravel())[None]
    assert (np.diff(tone.grey(line)[0].astype(int)) >= 0).all()
    assert tone.grey(line).dtype == np.uint8
    if scale == 40:
        assert np.ptp(tone.grey(line)) > 200


def test_a_tone_curve_shows_what_a_straight_one_hides() -> None:
    """Air, and two tissues 60 apart, in a CT: a window over all values has them 10 greys apart."""
    rng = np.random.default_rng(0)
    image = rng.choice([-1000, 40, 100, 600], p=[0.5, 0.24, 0.24, 0.02], size=(100, 100)) + rng.normal(0, 8, (100, 100))
    grey = Tone.of([image]).grey(np.array([[40.0, 100.0]]))[0].astype(int)
    assert grey[1] - grey[0] > 30


def test_what_is_no_number_is_black() -> None:
    image = np.array([[np.nan, np.inf, -np.inf, 1.0, 2.0]], np.float32)
    grey = Tone.of([image]).grey(image)[0]
    assert grey[0] == grey[2] == grey.min()
    assert grey[1] == grey[4] == grey.max()
    assert Tone.of([np.full((2, 2), np.nan)]).grey(np.full((2, 2), np.nan)).shape == (2, 2)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 500))
def test_samples_are_few_and_from_everywhere(rows: int, columns: int, most: int) -> None:
    image = np.arange(rows * columns).reshape(rows, columns)
    values = sampled(image, most)
    assert len(set(values.tolist())) == len(values) <= max(4 * most, 1)
    assert image.size > most or len(values) == image.size


# ------------------------------------------------------------------------------------------- the sheet with its classes


def sheet_of(boxes: list[list[int]], labels: list[int], classes: dict[int, Any], **options: Any) -> NDArray[np.uint8]:
    image = np.full((40, 40), 9, np.uint8)
    tile = Tile(image, np.array(boxes).reshape(-1, 4), np.array(labels), "", window=(0, 255))
    return np.asarray(contact_sheet([tile], tile_px=400, classes=ClassMap.of(classes), **options))


def count(sheet: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((sheet == colour).all(axis=2).sum())


def test_classes_keep_their_colours_and_only_those_that_occur_are_in_the_legend() -> None:
    classes = {1: {"name": "a", "color": "#00ff00"}, 2: {"name": "b", "color": "#0000ff"}}
    sheet = sheet_of([[10, 10, 20, 20]], [2], classes)
    assert count(sheet, (0, 0, 255)) > 400
    assert count(sheet, (0, 255, 0)) == 0


def test_no_name_covers_another_box_or_leaves_the_slice() -> None:
    classes = {1: {"name": "a name that is long", "color": "#00ff00"}}
    corner = sheet_of([[0, 0, 2, 2], [37, 37, 39, 39]], [1, 1], classes)
    tile = corner[-28 - 18 - 18 - 400 : -28 - 18 - 18]
    outside = np.concatenate([corner[100:, :26], corner[100:, -26:]], axis=1)
    assert count(outside, (0, 255, 0)) == 0
    assert count(tile, (0, 255, 0)) > 1000
    wide = sheet_of([[1, 12, 38, 30]], [1], {1: {"name": "n" * 400, "color": "#00ff00"}})
    thin = sheet_of([[1, 12, 38, 30]], [1], {1: {"name": ".", "color": "#00ff00"}})
    assert count(wide[100:], (0, 255, 0)) < count(thin[100:], (0, 255, 0))  # it does not fit: no plate


def test_where_there_are_many_boxes_their_names_are_left_to_the_legend() -> None:
    places = [[x, y, x, y] for x in range(0, 40, 6) for y in range(0, 40, 6)]
    classes = {1: {"name": "abc", "color": "#00ff00"}}
    assert len(places) > 40
    many = sheet_of(places, [1] * len(places), classes)
    few = sheet_of(places[:40], [1] * 40, classes)
    assert count(few, (0, 255, 0)) > count(many, (0, 255, 0))


def test_a_long_legend_goes_on_in_the_next_line() -> None:
    names = {n: f"class number {n}" for n in range(1, 31)}
    places = [[n, n, n, n] for n in range(30)]
    long = sheet_of(places, list(range(1, 31)), names)
    short = sheet_of(places[:2], [1, 2], names)
    assert long.shape[1] == short.shape[1]
    assert (long.shape[0] - short.shape[0]) == 3 * int(18 * 1.7)  # four lines, and no more


@pytest.mark.parametrize(("color", "ink"), [("#101060", (233, 236, 241)), ("#ffee88", (16, 18, 22))])
def test_names_can_be_read_on_dark_and_on_light_colours(color: str, ink: tuple[int, int, int]) -> None:
    sheet = sheet_of([[10, 20, 30, 30]], [1], {1: {"name": "MMMMM", "color": color}})
    plate = (int(color[1:3], 16), int(color[3:5], 16), int(color[5:], 16))
    row = np.flatnonzero((sheet[100:] == plate).all(axis=2).any(axis=1))[0] + 100
    columns = np.flatnonzero((sheet[row] == plate).all(axis=1))
    text = sheet[row : row + 16, columns[0] : columns[-1] + 1]
    assert count(text, ink) > 20
