"""Values of a DICOM data set, decoded from its bytes by what the standard says of each attribute.

pydicom finds the elements; the values are decoded here, because only some twenty of them are needed of each file, and
because a value that breaks the rules shall be an error of ours that names the file and the attribute.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import InvalidInput

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.tag import BaseTag


@cache
def tag_of(keyword: str) -> BaseTag:
    """Number of an attribute of the standard; pydicom looks it up anew each time."""
    from pydicom.tag import Tag

    return Tag(keyword)


@dataclass(frozen=True, slots=True)
class Elements:
    """The elements of a data set, or of an item of a sequence in it, by keyword.

    Parameters
    ----------
    dataset : pydicom.dataset.Dataset
    where : str
        The file, for messages.
    """

    dataset: Dataset
    where: str

    def text(self, keyword: str) -> str:
        """A text without its padding; empty where there is none."""
        value = self._raw(keyword)
        if isinstance(value, bytes):
            return value.decode("latin-1").strip(" \0")
        return "\\".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)

    def words(self, keyword: str) -> tuple[str, ...]:
        """All values of a text."""
        text = self.text(keyword)
        return tuple(word.strip(" \0") for word in text.split("\\")) if text else ()

    def decimals(self, keyword: str) -> tuple[float, ...]:
        """Numbers that are stored as text.

        Raises
        ------
        InvalidInput
            One is no number, or not finite.
        """
        words = self.words(keyword)
        try:
            numbers = tuple(map(float, words))
        except ValueError:
            numbers = (math.nan,)
        if not all(map(math.isfinite, numbers)):
            raise InvalidInput(
                f"{self.where}: {keyword} is {self.text(keyword)!r}, but finite numbers were expected; "
                "export the file again"
            )
        return numbers

    def decimal(self, keyword: str) -> float | None:
        """The first of the numbers that are stored as text; None where there is none."""
        return next(iter(self.decimals(keyword)), None)

    def whole(self, keyword: str) -> int | None:
        """A whole number that is stored as text; None where there is none.

        Raises
        ------
        InvalidInput
            It is no whole number.
        """
        number = self.decimal(keyword)
        if number is not None and number != int(number):
            raise InvalidInput(f"{self.where}: {keyword} is {number:g}, but a whole number was expected")
        return None if number is None else int(number)

    def numbers(self, keyword: str, kind: str) -> tuple[Any, ...]:
        """Numbers that are stored as such.

        Parameters
        ----------
        keyword : str
        kind : {"u2", "i2", "u4", "f8"}
            What the standard says of the attribute.

        Raises
        ------
        InvalidInput
            Its bytes are no whole number of them.
        """
        value = self._raw(keyword)
        if not isinstance(value, bytes):
            return tuple(np.atleast_1d(np.asarray(value)).tolist())
        element: Any = self.dataset.get_item(tag_of(keyword))
        dtype = np.dtype(("<" if getattr(element, "is_little_endian", True) else ">") + kind)
        if len(value) % dtype.itemsize:
            raise InvalidInput(
                f"{self.where}: {keyword} has {len(value)} bytes, expected {dtype.itemsize} for each number; "
                "export the file again"
            )
        return tuple(np.frombuffer(value, dtype).tolist())

    def count(self, keyword: str) -> int | None:
        """A number of 16 bits; None where there is none."""
        return next(iter(self.numbers(keyword, "u2")), None)

    def items(self, keyword: str) -> Iterator[Elements]:
        """The items of a sequence."""
        found = self.dataset.get(tag_of(keyword))
        found = found.value if found is not None else None
        for item in found or ():
            yield Elements(item, self.where)

    def item(self, keyword: str) -> Elements | None:
        """The first item of a sequence; None where there is none."""
        return next(self.items(keyword), None)

    def _raw(self, keyword: str) -> Any:
        element = self.dataset.get_item(tag_of(keyword))
        return b"" if element is None or element.value is None else element.value
