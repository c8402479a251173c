"""Contact sheet: boxes sit around the pixels that they name, at every scale and aspect."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from voxtract.errors import InvalidInput
from voxtract.write.sheet import Tile, contact_sheet, png

WHITE = (255, 255, 255)
FIRST, SECOND, THIRD = (255, 176, 0), (34, 199, 255), (255, 84, 112)
NO_BOXES = np.zeros((0, 4), np.int64)
NO_LABELS = np.zeros(0, np.int64)


def tile(
    image: NDArray[Any],
    boxes: Any = NO_BOXES,
    labels: Any = NO_LABELS,
    spacing_mm: tuple[float, float] = (1.0, 1.0),
    window: tuple[float, float] | None = None,
    caption: str = "",
) -> Tile:
    return Tile(image, np.asarray(boxes), np.asarray(labels), caption, spacing_mm, window)


def pixels(*tiles: Tile, **options: Any) -> NDArray[np.uint8]:
    return np.asarray(contact_sheet(tiles, **options))


def extent(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """left, top, right, bottom of the set pixels, inclusive."""
    y, x = np.nonzero(mask)
    return int(x.min()), int(y.min()), int(x.max()), int(y.max())


def is_colour(sheet: NDArray[np.uint8], colour: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray((sheet == colour).all(axis=2))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_line_runs_just_outside_of_the_pixels_of_the_box(data: st.DataObject) -> None:
    height, width = data.draw(st.tuples(st.integers(8, 12), st.integers(8, 12)))
    x0, y0 = data.draw(st.tuples(st.integers(1, width - 2), st.integers(1, height - 2)))
    x1, y1 = data.draw(st.tuples(st.integers(x0, width - 2), st.integers(y0, height - 2)))
    row, column = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    image = np.full((height, width), -1, np.int16)
    image[y0 : y1 + 1, x0 : x1 + 1] = 100
    options: dict[str, Any] = {"spacing_mm": (row, column), "window": (-1, 0)}
    tile_px = max(height * row, width * column) * 8  # whole numbers: no edge is rounded
    corner_x, corner_y, *_ = extent(is_colour(pixels(tile(image * 0, **options), tile_px=tile_px), WHITE))
    sheet = pixels(tile(image, [[x0, y0, x1, y1]], [7], **options), tile_px=tile_px)
    left, top, right, bottom = extent(is_colour(sheet, FIRST))
    assert (left + 2, right - 2) == (corner_x + x0 * column * 8, corner_x + (x1 + 1) * column * 8 - 1)
    assert (top + 2, bottom - 2) == (corner_y + y0 * row * 8, corner_y + (y1 + 1) * row * 8 - 1)
    inside = sheet[top + 2 : bottom - 1, left + 2 : right - 1]
    assert not is_colour(inside, FIRST).any()
    assert inside[len(inside) // 2, inside.shape[1] // 2].min() > 200  # the block, not the black around it


def test_a_slice_with_long_pixels_is_stretched_to_millimetres() -> None:
    image = np.full((20, 10), 50, np.uint8)  # 20 x 0.8 mm = 16 mm high, 10 x 3.2 mm = 32 mm wide
    sheet = pixels(tile(image, spacing_mm=(0.8, 3.2), window=(0, 50)), tile_px=160)
    left, top, right, bottom = extent(is_colour(sheet, WHITE))
    assert (right - left + 1, bottom - top + 1) == (160, 80)


def test_the_slice_is_not_turned() -> None:
    image = np.zeros((10, 20), np.uint8)
    image[1, 17] = 255  # Y = 1, X = 17: above, right
    sheet = pixels(tile(image, window=(0, 255)), tile_px=200)
    left, top, right, bottom = extent(sheet[:-46].max(axis=2) > 100)
    assert (left, right) == pytest.approx((28 + 170, 28 + 179), abs=1)
    whole = extent(is_colour(pixels(tile(image * 0, window=(-1, 0)), tile_px=200), WHITE))
    assert (top - whole[1], bottom - whole[1]) == pytest.approx((10, 19), abs=1)


def test_colours_go_by_label_in_ascending_order_and_the_legend_counts() -> None:
    image = np.zeros((32, 32), np.int16)
    boxes = [[2, 2, 6, 6], [20, 20, 26, 26]]
    first, second = tile(image, boxes[:1], [16]), tile(image, boxes[1:], [9])
    sheet = pixels(first, second, columns=2, tile_px=64)
    assert extent(is_colour(sheet, SECOND))[2] < sheet.shape[1] // 2  # 16 on the left tile
    assert extent(is_colour(sheet, FIRST))[0] > sheet.shape[1] // 2  # 9 on the right tile
    named = pixels(first, second, columns=2, tile_px=64, legend={5: "five", 9: "nine", 16: "sixteen"})
    assert [is_colour(named, colour).any() for colour in (FIRST, SECOND, THIRD)] == [True, True, True]
    assert extent(is_colour(named, THIRD))[1] < 100


def test_labels_of_em_size_have_colours() -> None:
    subject = tile(np.zeros((8, 8)), [[1, 1, 3, 3]], np.array([2**64 - 1], np.uint64))
    assert is_colour(pixels(subject, tile_px=64), FIRST).any()


@pytest.mark.parametrize(("count", "columns", "across", "down"), [(1, 4, 1, 1), (5, 2, 2, 3), (6, 3, 3, 2)])
def test_the_grid_has_as_many_columns_as_asked(count: int, columns: int, across: int, down: int) -> None:
    tiles = [tile(np.full((4, 4), 9, np.uint8), window=(0, 9)) for _ in range(count)]
    sheet = contact_sheet(tiles, columns=columns, tile_px=100)
    one = contact_sheet(tiles[:1], tile_px=100)
    assert sheet.mode == "RGB"
    assert sheet.width - one.width == (across - 1) * (100 + 18)
    assert (sheet.height - one.height) % max(down - 1, 1) == 0
    white = (np.asarray(sheet) == 255).all(axis=2)
    assert white.sum() == count * 100 * 100


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_the_robust_window_ignores_single_extremes(dtype: type[np.generic]) -> None:
    image = np.linspace(10, 110, 10_000).reshape(100, 100).astype(dtype)
    image[0, 0] = np.array(127 if dtype == np.uint8 else 30_000).astype(dtype)
    sheet = pixels(tile(image), tile_px=100)
    grey = sheet[40:-60, 28:-28].mean(axis=2)
    assert 60 < np.median(grey) < 200


def test_a_slice_that_is_constant_or_has_no_number_is_drawn() -> None:
    for image in (np.full((5, 5), 7), np.full((5, 5), np.nan), np.array([[np.nan, np.inf], [-np.inf, 1.0]])):
        assert contact_sheet([tile(image)], tile_px=50).size[0] == 50 + 2 * 28


def test_a_long_caption_is_cut_and_the_title_is_drawn() -> None:
    long, short = tile(np.zeros((4, 4)), caption="a very long case name " * 20), tile(np.zeros((4, 4)))
    beside = pixels(long, short, columns=2, tile_px=100)
    gap = beside[28:48, 28 + 100 : 28 + 100 + 18]
    assert (gap == gap[0, 0]).all()  # nothing runs into the next tile
    titled = pixels(short, tile_px=100, title="Title")
    assert titled.shape[0] > pixels(short, tile_px=100).shape[0]
    assert titled[28:50].max() > 200


def test_a_png_holds_the_same_pixels() -> None:
    sheet = contact_sheet([tile(np.arange(64).reshape(8, 8), [[1, 1, 3, 3]], [1])], tile_px=64)
    with Image.open(io.BytesIO(png(sheet))) as again:
        assert again.format == "PNG"
        np.testing.assert_array_equal(np.asarray(again), np.asarray(sheet))


def test_wrong_tiles_say_what_is_wrong() -> None:
    image = np.zeros((4, 6))
    with pytest.raises(InvalidInput, match=r"case-7: a tile of shape \(2, 2, 2\)"):
        tile(np.zeros((2, 2, 2)), caption="case-7")
    with pytest.raises(InvalidInput, match=r"boxes of shape \(1, 4\) and 2 labels"):
        tile(image, [[0, 0, 1, 1]], [1, 2])
    for box in ([-1, 0, 1, 1], [0, 0, 6, 1], [0, 0, 1, 4], [3, 0, 2, 1]):
        with pytest.raises(InvalidInput, match="not within the slice of 4 rows and 6 columns"):
            tile(image, [box], [1])
    tile(image, [[0, 0, 5, 3]], [1])  # the whole slice is a box
    with pytest.raises(InvalidInput, match=r"window \(3, 3\)"):
        tile(image, window=(3, 3))


@pytest.mark.parametrize("options", [{"columns": 0}, {"tile_px": 0}])
def test_a_sheet_without_room_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="each must be at least 1"):
        contact_sheet([tile(np.zeros((2, 2)))], **options)
    with pytest.raises(InvalidInput, match="0 tiles"):
        contact_sheet([])
