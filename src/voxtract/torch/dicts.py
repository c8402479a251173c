"""The same data in the words of MONAI."""

from __future__ import annotations

import os
from typing import Any

from voxtract.errors import InvalidInput
from voxtract.model import Case, Source
from voxtract.read import open_source
from voxtract.read.extraction import JOURNAL
from voxtract.storage import Remote, place
from voxtract.torch.slices import SliceDataset


def monai_dicts(data: SliceDataset | Source | str | os.PathLike[str] | Remote) -> list[dict[str, Any]]:
    """List images and annotations as `monai.data.Dataset` and MONAI's dictionary transforms take them.

    ==============================  =================================================================================
    given                           a dictionary for each
    ==============================  =================================================================================
    a `SliceDataset`, or the        slice: ``image``, ``boxes`` (n, 4) float32 and ``labels`` (n,) int64 as in
    folder of an extraction         `voxtract.torch`, ``case``, ``view``, ``slice``
    what `open_source` returns,     case: ``image`` and ``label``, the files of the volume and of its labels, as far
    or a path for it                as it has them, and ``case``
    ==============================  =================================================================================

    Files are paths for ``LoadImaged``. MONAI has no reader that claims ``.tif``; Pillow's reads it when it is named,
    and turns the axes of an image to (X, Y), which is the order of MONAI's boxes::

        data = monai.data.Dataset(monai_dicts("out/training"), LoadImaged("image", reader="PILReader"))
        data[0]["image"][x1:x2, y1:y2]

    Volumes are read by its NibabelReader as (x, y, z).

    Raises
    ------
    InvalidInput
        A case that is one frame of several, of which MONAI would read all.
    VoxtractError
        As `SliceDataset` or :func:`voxtract.open_source`.
    """
    if isinstance(data, str | os.PathLike | Remote):
        data = SliceDataset(data) if (place(data) / JOURNAL).exists() else open_source(data)
    if isinstance(data, SliceDataset):
        if isinstance(data.root, Remote):
            raise InvalidInput(f"{data.root}: MONAI reads files only; copy the folder to a disk, or take SliceDataset")
        return [_of_slice(data, number) for number in range(len(data))]
    return [_of_case(case) for case in data.cases]


def _of_slice(data: SliceDataset, number: int) -> dict[str, Any]:
    origin, target = data.origin(number), data.target(number)
    return {
        "image": str(data.file(number)),
        "boxes": target["boxes"].numpy(),
        "labels": target["labels"].numpy(),
        "case": origin.case_id,
        "view": origin.view,
        "slice": origin.index,
    }


def _of_case(case: Case) -> dict[str, Any]:
    labels = case.labels[0].file if case.labels else None
    if len(case.labels) > 1:
        raise InvalidInput(
            f"{case.id}: has {len(case.labels)} label volumes, but MONAI's dictionaries hold one; convert it first"
        )
    files = {key: file for key, file in (("image", case.image), ("label", labels)) if file is not None}
    for file in files.values():
        if file.volume_index is not None:
            raise InvalidInput(
                f"{file.where}: volume_index={file.volume_index} takes one frame, but MONAI reads all; "
                "write the frame to a file of its own first"
            )
    return {**{key: file.where for key, file in files.items()}, "case": case.id}
