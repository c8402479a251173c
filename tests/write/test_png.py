"""PNG slices as Pillow and OpenCV see them."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from voxtract.errors import InvalidInput
from voxtract.write import image_format


def picture(dtype: Any) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (23, 31), dtype, endpoint=True)


def encoded(image: NDArray[Any], spacing: tuple[float, float] = (1.0, 1.0)) -> bytes:
    return b"".join(map(bytes, image_format("png").encode(image, spacing)))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_two_readers_agree(dtype: str) -> None:
    image = picture(dtype)
    data = encoded(image)
    with Image.open(io.BytesIO(data)) as opened:
        assert (opened.format, opened.mode) == ("PNG", "L" if dtype == "uint8" else "I;16")
        np.testing.assert_array_equal(np.array(opened), image)
    seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert seen is not None
    assert seen.dtype == dtype
    np.testing.assert_array_equal(seen, image)
    assert encoded(image) == data


def test_resolution_follows_the_spacing() -> None:
    with Image.open(io.BytesIO(encoded(picture("uint8"), (0.5, 2.0)))) as opened:
        assert opened.info["dpi"] == pytest.approx((12.7, 50.8))  # columns are 2 mm apart, rows 0.5 mm
    with Image.open(io.BytesIO(encoded(picture("uint8"), (0.0, 2.0)))) as opened:
        assert "dpi" not in opened.info


@pytest.mark.parametrize("dtype", ["int16", "float32", "int32", "int8"])
def test_other_dtypes_say_what_to_pass(dtype: str) -> None:
    with pytest.raises(InvalidInput, match=rf"slices are {dtype}; write TIFF, or pass dtype='uint8'.*normalization"):
        image_format("png").encode(np.zeros((2, 2), dtype), (1.0, 1.0))


def test_there_is_no_compression_to_choose() -> None:
    with pytest.raises(InvalidInput, match="'zlib' does not go with PNG"):
        image_format("png", "zlib")
    assert image_format("png").suffix == ".png"
