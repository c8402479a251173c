"""Masks of an extraction back from COCO's run lengths, slice by slice; write/coco.py describes the text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput, UnreadableFile
from voxtract.storage import Place, Remote
from voxtract.write.coco import part_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.model import Findings
    from voxtract.read.extraction import Extraction


@dataclass(frozen=True, eq=False, slots=True)
class KeptMasks:
    """Where the masks of one view of one case lie in the part that COCO's writer left.

    Parameters
    ----------
    path : Path, or Remote for a URL
    begin : (rows + 1,) int64
        Byte at which the line of each row begins; the last is the end of the file.
    size : (height, width)
    """

    path: Place
    begin: NDArray[np.int64]
    size: tuple[int, int]

    @classmethod
    def of(cls, extraction: Extraction, found: Findings) -> KeptMasks:
        """Find the line of each row.

        Raises
        ------
        DamagedFile
            The part is not there, or has not one line for each row.
        """
        name = part_name(found)
        content = extraction.part(name) if found.labelled else b""
        characters = np.frombuffer(content, np.uint8)
        lines = np.append(0, np.flatnonzero(characters == ord("\n")) + 1)[:-1]
        second = characters[np.minimum(lines + 2, len(content) - 1)]
        begin = lines[second == ord("c")]  # of {"category_id", not of {"file_name"
        if len(begin) != len(found.rows):
            raise DamagedFile(
                f"{extraction.root / name}: has {len(begin)} annotations, but {len(found.rows)} were found; "
                "extract anew with overwrite=True (--overwrite)"
            )
        return cls(extraction.root / name, np.append(begin, len(content)), found.plane.size)

    def read(self, first: int, last: int) -> NDArray[np.uint8]:
        """Masks of the rows ``first <= i < last``, which lie in one slice: (last - first, height, width), 1 inside."""
        masks = np.empty((last - first, *self.size), np.uint8)
        if first == last:
            return masks
        try:
            with self.path.open("rb") as file:
                file.seek(self.begin[first])
                lines = file.read(int(self.begin[last] - self.begin[first])).splitlines()[: last - first]
            for mask, line in zip(masks, lines, strict=True):
                mask[...] = decoded(json.loads(line)["segmentation"]["counts"], self.size)
        except (ValueError, LookupError, TypeError) as why:
            raise DamagedFile(
                f"{self.path}: the masks are damaged ({why}); extract anew with overwrite=True (--overwrite)"
            ) from why
        except OSError as why:
            todo = "" if isinstance(self.path, Remote) else "; check permissions and disk"
            raise UnreadableFile(f"{self.path}: cannot be read: {why.strerror}{todo}") from why
        return masks


def check_kept(settings: dict[str, Any], folder: Place) -> None:
    """Raise `InvalidInput` where a run with these settings has left no masks."""
    if "coco" not in settings.get("annotations", ()) or not settings.get("masks"):
        raise InvalidInput(
            f"{folder}: was extracted without masks; extract with annotations='coco', masks=True "
            "(--annotations coco --masks), or take VolumeDataset, which cuts them out of the label volumes"
        )


def decoded(text: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Turn a compressed RLE of COCO into a (height, width) mask.

    Raises
    ------
    ValueError
        The runs do not fill the image.
    """
    height, width = size
    lengths: list[int] = []
    for value in _numbers(text):
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
    if sum(lengths) != height * width:
        raise ValueError(f"runs of {sum(lengths)} pixels in an image of {height} x {width}")
    values = np.arange(len(lengths), dtype=np.uint8) & 1
    return np.repeat(values, lengths).reshape(width, height).T


def _numbers(text: str) -> Iterator[int]:
    value = shift = 0
    for character in text.encode("ascii"):
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            yield value - (1 << shift) if bits & 16 else value
            value = shift = 0
