"""Compressed pixels, in every syntax that the extra brings a decoder for: the numbers that were compressed come back.

What is compressed here is compressed by others: pydicom with pylibjpeg and pyjpegls, and imagecodecs for HTJ2K, which
pylibjpeg only reads. The files that pydicom ships are compared with pydicom's own pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.read.dicom.series import FLIP, affine_of, dataset, enhanced, placed, save, voxels, write_series
from voxtract.errors import DamagedFile
from voxtract.model import VolumeFile
from voxtract.read.dicom import open_dicom

pydicom: Any = pytest.importorskip("pydicom", reason="DICOM needs the extra dicom")
pytest.importorskip("openjpeg", reason="pylibjpeg-openjpeg decodes JPEG 2000")
pytest.importorskip("rle", reason="pylibjpeg-rle decodes RLE fast")
pytest.importorskip("jpeg_ls", reason="pyjpegls decodes JPEG-LS")

FILES = Path(pydicom.data.get_testdata_file("CT_small.dcm")).parent
RLE, JPEG_LS, J2K = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
HTJ2K = [f"1.2.840.10008.1.2.4.{n}" for n in (201, 202)]  # lossless, and lossless in an order for browsing
KINDS = [("u1", 8), ("u2", 16), ("u2", 12), ("i2", 16), ("i2", 13)]


def only(path: Path) -> VolumeFile:
    (case,) = open_dicom(path).cases
    assert case.image is not None
    return case.image


def numbers(dtype: str, bits: int) -> NDArray[Any]:
    """Smooth and noisy, with both ends of what `bits` hold."""
    stored = np.tile(voxels((9, 8, 4), dtype), (4, 5, 1))  # larger than the blocks that some codecs work on
    stored = np.asfortranarray(stored >> (8 * stored.dtype.itemsize - bits))
    stored[:20] = np.cumsum(np.ones_like(stored[:20]), axis=1)
    return stored


def encapsulated(data: Any, frames: list[bytes], syntax: str) -> Any:
    data.PixelData = pydicom.encaps.encapsulate(frames)
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax
    return data


@pytest.mark.parametrize(("dtype", "bits"), KINDS)
@pytest.mark.parametrize("syntax", [RLE, JPEG_LS, J2K])
def test_a_series_of_compressed_files(tmp_path: Path, syntax: str, dtype: str, bits: int) -> None:
    stored = numbers(dtype, bits)
    write_series(tmp_path, stored, BitsStored=bits, HighBit=bits - 1)
    for path in sorted(tmp_path.iterdir()):
        data = pydicom.dcmread(path)
        data.compress(syntax, generate_instance_uid=False)
        data.save_as(path)
        assert data.file_meta.TransferSyntaxUID == syntax
    volume = only(tmp_path).read()
    assert volume.data.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(volume.data, stored)
    np.testing.assert_allclose(FLIP @ volume.header.grid.affine, FLIP @ affine_of(), atol=1e-6)


@pytest.mark.parametrize(("dtype", "bits"), KINDS)
@pytest.mark.parametrize("syntax", HTJ2K)
@pytest.mark.parametrize("many", [True, False], ids=["one file", "a series"])
def test_high_throughput_jpeg_2000(tmp_path: Path, syntax: str, dtype: str, bits: int, many: bool) -> None:
    codec = pytest.importorskip("imagecodecs", reason="imagecodecs compresses HTJ2K")
    if not codec.HTJ2K.available:
        pytest.skip("this imagecodecs was built without HTJ2K")
    stored = numbers(dtype, bits)
    words: dict[str, Any] = {"BitsStored": bits, "HighBit": bits - 1}
    streams = [bytes(codec.htj2k_encode(np.ascontiguousarray(stored[:, :, z].T), reversible=True)) for z in range(4)]
    if many:
        order = [2, 0, 3, 1]
        save(
            encapsulated(enhanced(stored, order=order, **words), [streams[z] for z in order], syntax),
            tmp_path / "many.dcm",
            syntax,
        )
    else:
        for z, stream in enumerate(streams):
            data = placed(dataset(stored[:, :, z].T, instance=z + 1, **words), affine_of(), z)
            save(encapsulated(data, [stream], syntax), tmp_path / f"{z}.dcm", syntax)
    volume = only(tmp_path).read()
    assert volume.data.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(volume.data, stored)


@pytest.mark.parametrize("syntax", [RLE, J2K, JPEG_LS])
def test_a_damaged_stream_is_told(tmp_path: Path, syntax: str) -> None:
    write_series(tmp_path, numbers("u2", 16))
    path = tmp_path / "IM0002.dcm"
    data = pydicom.dcmread(path)
    data.compress(syntax, generate_instance_uid=False)
    (stream,) = pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1)
    encapsulated(data, [stream[: len(stream) // 2]], syntax).save_as(path)
    with pytest.raises(DamagedFile, match=r"IM0002\.dcm"):
        only(tmp_path).read()


SHIPPED = (
    *("JPEG2000.dcm", "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm", "MR_small_RLE.dcm"),
    *("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "rtdose_rle_1frame.dcm"),
)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files(name: str) -> None:
    np.testing.assert_array_equal(only(FILES / name).read().data[:, :, 0].T, pydicom.dcmread(FILES / name).pixel_array)


def test_a_shipped_file_whose_pixels_are_no_image_is_damaged() -> None:
    with pytest.raises(DamagedFile, match="its pixels do not decode"):
        only(FILES / "JPEG2000-embedded-sequence-delimiter.dcm").read()


def test_a_shipped_file_without_a_file_header_is_read_on_request(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes((FILES / "no_meta.dcm").read_bytes().removeprefix(b" "))  # it begins with a byte too many
    (case,) = open_dicom(path, force=True).cases
    assert case.image is not None
    data = pydicom.dcmread(path, force=True)
    pixels = np.frombuffer(data.PixelData, "<i2").reshape(data.Rows, data.Columns)
    np.testing.assert_array_equal(case.image.read().data[:, :, 0].T, pixels)
    assert case.image.header().intercept == -1024
