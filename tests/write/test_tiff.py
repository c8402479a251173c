"""TIFF slices as tifffile, Pillow and OpenCV see them."""

import io
import sys
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from voxtract.compute.normalize import DTYPES, KEPT_DTYPES
from voxtract.errors import InvalidInput
from voxtract.write import image_format
from voxtract.write.tiff import COMPRESSIONS


def picture(dtype: str, height: int = 23, width: int = 31) -> NDArray[Any]:
    """Both ends of the range and everything between; floats with NaN and infinity."""
    random = np.random.default_rng(0)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        image = random.normal(0, 1000, (height, width)).astype(kind)
        image[0, :3] = np.nan, np.inf, -np.inf
    else:
        ends = np.iinfo(kind)
        image = random.integers(ends.min, ends.max, (height, width), kind, endpoint=True)
        image[0, :2] = ends.min, ends.max
    return image


def written(
    path: Path, image: NDArray[Any], spacing: tuple[float, float] = (0.5, 2.0), compression: str | None = None
) -> Path:
    path.write_bytes(b"".join(map(bytes, image_format("tiff", compression).encode(image, spacing))))
    return path


def tags_of(path: Path) -> dict[str, Any]:
    with tifffile.TiffFile(path) as file:
        (page,) = file.pages
        assert isinstance(page, tifffile.TiffPage)
        return {tag.name: tag.value for tag in page.tags}


def pil(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.array(image)


def opencv(path: Path) -> NDArray[Any] | None:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return None if image is None else np.asarray(image)


@pytest.mark.parametrize("dtype", KEPT_DTYPES)
@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
@pytest.mark.parametrize("size", [(23, 31), (1, 1), (300, 1), (1, 300)])
def test_three_readers_agree(tmp_path: Path, dtype: str, compression: str | None, size: tuple[int, int]) -> None:
    image = np.ascontiguousarray(picture(dtype, 300, 300)[: size[0], : size[1]])
    path = written(tmp_path / "slice.tif", image, compression=compression)
    ours = tifffile.imread(path)
    assert ours.dtype == dtype
    np.testing.assert_array_equal(ours, image)
    np.testing.assert_array_equal(pil(path), image)  # values: Pillow hands int16 out as int32
    if compression == "zstd":
        return  # OpenCV's own wheels are built without it
    seen = opencv(path)
    assert seen is not None
    assert seen.dtype == dtype
    np.testing.assert_array_equal(seen, image)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_that_can_be_asked_for_reads_back_through_tifffile(tmp_path: Path, dtype: str) -> None:
    image = picture(dtype)
    seen = tifffile.imread(written(tmp_path / "slice.tif", image))
    assert seen.dtype == dtype
    np.testing.assert_array_equal(seen, image)


@pytest.mark.parametrize("dtype", sorted(set(DTYPES) - set(KEPT_DTYPES)))
def test_dtypes_that_are_not_kept_are_misread_by_someone(tmp_path: Path, dtype: str) -> None:
    """The day this fails, a dtype can be kept that becomes float32 now."""
    image = picture(dtype)
    path = written(tmp_path / "slice.tif", image)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            equal = np.array_equal(pil(path), image, equal_nan=image.dtype.kind == "f")
    except OSError:
        equal = False
    assert not equal


@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
def test_tags(tmp_path: Path, compression: str | None) -> None:
    path = written(tmp_path / "slice.tif", picture("int16"), (0.5, 2.0), compression)
    with tifffile.TiffFile(path) as file:
        assert not file.is_bigtiff
        assert file.byteorder == ("<" if sys.byteorder == "little" else ">")
    tags = tags_of(path)
    assert (tags["ImageWidth"], tags["ImageLength"]) == (31, 23)
    assert (tags["BitsPerSample"], tags["SamplesPerPixel"], tags["SampleFormat"]) == (16, 1, 2)
    assert tags["PhotometricInterpretation"] == 1  # MinIsBlack
    assert tags["RowsPerStrip"] == 23
    assert len(tags["StripOffsets"]) == len(tags["StripByteCounts"]) == 1
    assert tags["ResolutionUnit"] == 3  # centimetre
    assert (tags["XResolution"], tags["YResolution"]) == ((5, 1), (20, 1))  # columns are 2 mm apart, rows 0.5 mm
    assert tags["Software"] == "voxtract"
    if compression is None:
        assert tags["Compression"] == 1
        assert tags["StripOffsets"][0] % 64 == 0
        assert tags["StripByteCounts"][0] == 23 * 31 * 2
    with Image.open(path) as image:
        assert image.info["dpi"] == pytest.approx((5 * 2.54, 20 * 2.54))


@pytest.mark.parametrize("spacing", [0.683594, 1 / 3, 3e-6, 4e-5, 5.0, 0.1, 1234.5, 10 / 399.99])
def test_resolution_to_six_digits(tmp_path: Path, spacing: float) -> None:
    tags = tags_of(written(tmp_path / "slice.tif", picture("uint8"), (spacing, 1.0)))
    above, below = tags["YResolution"]
    assert above / below == pytest.approx(10 / spacing, rel=1e-6)
    assert tags["XResolution"] == (10, 1)


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (1.0, float("nan")), (float("inf"), 1.0), (1e-9, 1.0)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_unknown_spacing_gives_no_unit(tmp_path: Path, spacing: tuple[float, float], compression: str | None) -> None:
    tags = tags_of(written(tmp_path / "slice.tif", picture("uint8"), spacing, compression))
    assert (tags["XResolution"], tags["YResolution"], tags["ResolutionUnit"]) == ((1, 1), (1, 1), 1)


def test_uncompressed_pixels_are_not_copied() -> None:
    image = picture("int16")
    header, pixels = image_format("tiff").encode(image, (1.0, 1.0))
    assert np.shares_memory(np.asarray(pixels), image)
    assert len(header) % 64 == 0


@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
def test_same_image_same_bytes(compression: str | None) -> None:
    image = picture("float32")
    one, two = (b"".join(map(bytes, image_format("tiff", compression).encode(image, (0.7, 3.0)))) for _ in range(2))
    assert one == two


def test_a_slice_beyond_4_gib_is_refused_before_it_is_touched() -> None:
    image = np.lib.stride_tricks.as_strided(np.zeros(1, np.int16), (1 << 16, 1 << 15), (0, 0))
    with pytest.raises(InvalidInput, match=r"65536 x 32768 int16 is 4,294,967,296 bytes.*smaller"):
        image_format("tiff").encode(image, (1.0, 1.0))


def test_words_that_are_not_known_list_those_that_are() -> None:
    with pytest.raises(InvalidInput, match=r"compression 'jpeg' .*allowed: None, 'zlib', 'zstd', 'lzw'"):
        image_format("tiff", "jpeg")
    with pytest.raises(InvalidInput, match=r"images 'bmp' is not known; allowed: 'tiff', 'png'"):
        image_format("bmp")


def test_a_codec_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    for name in ("zstd", "lzw"):
        with pytest.raises(InvalidInput, match=rf"'{name}' needs .*imagecodecs.*pip install 'voxtract\[zstd\]'"):
            image_format("tiff", name)
    assert tifffile.imread(io.BytesIO(bytes(image_format("tiff", "zlib").encode(picture("uint8"), (1, 1))[0]))).size
