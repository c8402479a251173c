"""Bad input, one fault after the other: alone an exception that names the file, among others it stops nothing."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile

from voxtract.cli import main
from voxtract.errors import VoxtractError
from voxtract.slices import extract_annotations, extract_slices

SHAPE = (6, 5, 4)


def good(dtype: Any = np.uint8, shape: tuple[int, ...] = SHAPE) -> bytes:
    """An uncompressed NIfTI-1 file."""
    data = np.arange(np.prod(shape)).reshape(shape).astype(dtype) if dtype is not None else None
    return bytes(nib.Nifti1Image(data, np.eye(4)).to_bytes())


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def patched(offset: int, layout: str, *values: Any) -> bytes:
    content = bytearray(good())
    struct.pack_into(layout, content, offset, *values)
    return packed(bytes(content))


def flipped_checksum() -> bytes:
    whole = bytearray(packed(good()))
    whole[-6] ^= 0xFF
    return bytes(whole)


Make = Callable[[Path], object]
DIM = 40  # offset of the axes in the header

# fault -> (how to make it, what the message has to say)
FAULTS: dict[str, tuple[Make, str]] = {
    "empty file": (lambda p: p.write_bytes(b""), "empty"),
    "random bytes": (lambda p: p.write_bytes(np.random.default_rng(0).bytes(4000)), "not a NIfTI file"),
    "random bytes, compressed": (lambda p: p.write_bytes(packed(b"noise" * 400)), "not a NIfTI file"),
    "cut short": (lambda p: p.write_bytes(packed(good())[:-20]), "cut short"),
    "cut in the header": (lambda p: p.write_bytes(packed(good())[:60]), "cut short|damaged"),
    "wrong checksum": (lambda p: p.write_bytes(flipped_checksum()), "damaged"),
    "header promises more": (lambda p: p.write_bytes(patched(DIM, "<4h", 3, 600, 500, 400)), "promises"),
    "header promises a little more": (lambda p: p.write_bytes(patched(DIM, "<4h", 3, 6, 5, 5)), "150 bytes|502"),
    "axis of length 0": (lambda p: p.write_bytes(patched(DIM, "<4h", 3, 6, 0, 4)), "no voxel"),
    "2D": (lambda p: p.write_bytes(packed(good(shape=(6, 5)))), "2 axes"),
    "5D": (lambda p: p.write_bytes(packed(good(shape=(3, 2, 2, 2, 2)))), "5 axes"),
    "4D": (lambda p: p.write_bytes(packed(good(shape=(3, 2, 2, 2)))), "volume_index=0 to 1"),
    "complex": (lambda p: p.write_bytes(packed(good(np.complex64))), "complex"),
    "RGB": (lambda p: p.write_bytes(patched(70, "<2h", 128, 24)), "RGB"),
    "folder": (lambda p: p.mkdir(), "is a folder"),
    "link to nothing": (lambda p: p.symlink_to("gone.nii.gz"), "does not exist"),
}
LABEL_FAULTS: dict[str, tuple[Make, str]] = {
    "fractions": (
        lambda p: nib.save(nib.Nifti1Image(np.full(SHAPE, 0.5, np.float32), np.eye(4)), p),
        r"voxel \(0, 0, 0\).*0\.5.*threshold=",
    ),
    "NaN": (lambda p: nib.save(nib.Nifti1Image(np.full(SHAPE, np.nan), np.eye(4)), p), "nan.*threshold="),
    "infinity": (lambda p: nib.save(nib.Nifti1Image(np.full(SHAPE, np.inf), np.eye(4)), p), "inf.*threshold="),
}
BOTH = [(fault, "slices") for fault in FAULTS] + [(fault, "annotations") for fault in {**FAULTS, **LABEL_FAULTS}]


@pytest.mark.parametrize(("fault", "command"), BOTH)
def test_alone_it_is_an_exception_that_says_where_and_what(fault: str, command: str, tmp_path: Path) -> None:
    make, said = {**FAULTS, **LABEL_FAULTS}[fault]
    path = tmp_path / "bäd file.nii.gz"
    make(path)
    function: Any = {"slices": extract_slices, "annotations": extract_annotations}[command]
    with pytest.raises(VoxtractError, match=f"(?s)^{path}.*({said})"):
        function(path, tmp_path / "out")
    assert [p for p in tmp_path.rglob("*") if p.is_file() and p != path] == []


@pytest.mark.parametrize(("fault", "command"), BOTH)
def test_among_others_it_is_named_and_the_rest_is_complete(
    fault: str, command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make, _ = {**FAULTS, **LABEL_FAULTS}[fault]
    (tmp_path / "in").mkdir()
    for name in ("a", "z"):
        (tmp_path / "in" / f"{name}.nii.gz").write_bytes(packed(good()))
    make(tmp_path / "in" / "bad.nii.gz")
    assert main([command, str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    out, err = capfd.readouterr()
    assert out.startswith("2 of 3 cases done")
    (line,) = err.splitlines()
    assert "bad.nii.gz" in line
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "z"]
    assert len([p for p in (tmp_path / "out").rglob("*") if p.is_file()]) == 2 * SHAPE[2]
    if command == "slices":
        written = tifffile.imread(tmp_path / "out/z/axial/z_axial_003.tif")
        np.testing.assert_array_equal(written, np.arange(120).reshape(SHAPE).astype(np.uint8)[:, :, 3])


def test_images_may_hold_nan_and_infinity(tmp_path: Path) -> None:
    data = np.ones(SHAPE, np.float32)
    data[0, 0, 0], data[1, 0, 0] = np.nan, np.inf
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii.gz")
    extract_slices(tmp_path / "a.nii.gz", tmp_path / "out")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out/a_axial_000.tif"), data[:, :, 0])


def test_negative_labels_are_background(tmp_path: Path) -> None:
    data = np.full(SHAPE, -1, np.int16)
    data[2, 2, 2] = 5
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii.gz")
    extract_annotations(tmp_path / "a.nii.gz", tmp_path / "out", saving_mode="volume", extra_columns=("LABEL",))
    assert (tmp_path / "out/a.csv").read_text() == "X,Y,Z,LABEL\n2.0,2.0,2.0,5\n"


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/a.nii.gz").write_bytes(packed(good()))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/b.nii.gz").symlink_to(tmp_path / "store/a.nii.gz")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert main(["slices", str(tmp_path / "link"), str(tmp_path / "out"), "--quiet"]) == 0
    assert len(list((tmp_path / "out/b/axial").iterdir())) == SHAPE[2]


@pytest.mark.parametrize("command", ["slices", "annotations", "extract"])
def test_folders_that_are_none(command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"no folder")
    for given in ("empty", "file", "missing"):
        assert main([command, str(tmp_path / given), str(tmp_path / "out")]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(f"voxtract: {tmp_path / given}: ")
    assert not (tmp_path / "out").exists()


def test_output_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the refusal is that of the system call, not of the permission bits."""
    import errno
    import os

    (tmp_path / "a.nii.gz").write_bytes(packed(good()))

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OSError, match=r"out.*Read-only.*choose another"):
        extract_slices(tmp_path / "a.nii.gz", tmp_path / "out")
