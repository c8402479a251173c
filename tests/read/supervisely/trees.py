"""Small trees of volumes, and what a test wants to know of the source they make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from voxtract.errors import VoxtractError
from voxtract.model import Case, Source
from voxtract.read.supervisely import open_supervisely

SHAPE = (4, 5, 6)
LPS = np.diag([-1.0, -2.0, 3.0, 1.0])
RAS = np.diag([1.0, 2.0, 3.0, 1.0])


def image(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-1000, 1000, shape, dtype=np.int16)


def labels(*values: int, shape: tuple[int, ...] = SHAPE, dtype: str = "u1") -> NDArray[Any]:
    """Each value in a voxel of its own."""
    data = np.zeros(shape, dtype)
    for i, value in enumerate(values):
        data[np.unravel_index(3 * i + 1, shape)] = value
    return data


def nifti(path: Path, data: NDArray[Any], affine: NDArray[np.float64] = RAS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    img = nib.Nifti1Image(data, affine, dtype=data.dtype)
    img.set_qform(affine, 1)
    nib.save(img, path)
    return path


def plant(root: Path, files: Mapping[str, NDArray[Any] | str | bytes], affine: NDArray[np.float64] = RAS) -> Path:
    """Write NIfTI files from arrays, others from text or bytes, in the order given."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, np.ndarray):
            nifti(path, content, affine)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")
    return root


def table(source: Source, root: Path) -> dict[str, tuple[str | None, dict[str, Any]]]:
    """Case id -> its image, and name -> category of its labels."""

    def way(where: str) -> str:
        return where.removeprefix(f"{root}/")

    ids = [case.id for case in source.cases]
    assert len(set(ids)) == len(ids)
    return {
        case.id: (
            None if case.image is None else way(case.image.where),
            {way(one.file.where): one.category for one in case.labels},
        )
        for case in source.cases
    }


def told(source: Source, root: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """What was skipped, and what was remarked: file -> messages."""
    skipped: dict[str, list[str]] = {}
    remarks: dict[str, list[str]] = {}
    for one in source.skipped:
        skipped.setdefault(one.where.removeprefix(f"{root}/"), []).append(one.reason)
    for other in source.remarks:
        remarks.setdefault(other.where.removeprefix(f"{root}/"), []).append(other.message)
    return skipped, remarks


def quiet(source: Source) -> Source:
    """A source of which nothing is to be told."""
    assert source.skipped == ()
    assert source.remarks == ()
    assert [one for one in source.matches if one.role == "error"] == []
    return source


def case_of(source: Source, case_id: str) -> Case:
    return next(case for case in source.cases if case.id == case_id)


def problem(source: Source, case_id: str) -> str:
    """Why the labels of a case cannot be had."""
    (broken,) = case_of(source, case_id).labels
    said = set()
    for ask in (broken.file.header, broken.file.read, lambda: list(broken.file.slabs(1))):
        with pytest.raises(VoxtractError) as caught:
            ask()
        said.add(str(caught.value))
    (message,) = said
    told = [one for one in source.matches if one.case == case_id and one.role == "error"]
    assert told
    assert all(one.where in message and one.why in message for one in told)
    return message


def refusal(error: type[VoxtractError], root: Path, **words: Any) -> str:
    with pytest.raises(error) as caught:
        open_supervisely(root, **words)
    assert caught.type is error
    assert "\n" not in str(caught.value)
    return str(caught.value)
