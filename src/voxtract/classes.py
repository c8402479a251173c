"""What label values mean: names and colours of classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Distinct on grey, and to people who confuse red and green: they differ in lightness too.
PALETTE = ("#ffb000", "#22c7ff", "#ff5470", "#7ee787", "#c792ff", "#fff275", "#ff9ad5", "#3ddbb8")


@dataclass(frozen=True, slots=True)
class Category:
    """One class.

    Parameters
    ----------
    id : int
        Its label value; for the class of all labels that have none of their own, a number no other class has.
    name : str
    color : str
        As ``"#rrggbb"``.
    """

    id: int
    name: str
    color: str


@dataclass(frozen=True, slots=True)
class ClassMap:
    """Classes of label values.

    Parameters
    ----------
    categories : (Category, ...)
        Sorted by id.
    rest : int, optional
        Id of the class of all labels that have none of their own.
    unnamed : str, optional
        Name of classes that have none of their own, with ``{}`` for the label value; each of them is then a class.

    Examples
    --------
    >>> organs = ClassMap.of({1: "liver", "7": {"name": "tumour", "color": "#ff0000"}})
    >>> [(c.id, c.name, c.color) for c in organs.categories]
    [(1, 'liver', '#ffb000'), (7, 'tumour', '#ff0000')]
    >>> organs.ids([7, 7, 1]).tolist()
    [7, 7, 1]
    >>> lesions = ClassMap.of({"*": "lesion"})             # instance masks: every label is an object of one class
    >>> lesions.ids([3, 12]).tolist(), lesions.categories[0].name
    ([1, 1], 'lesion')
    """

    categories: tuple[Category, ...]
    rest: int | None = None
    unnamed: str | None = None

    @classmethod
    def of(cls, value: Mapping[Any, Any] | ClassMap) -> ClassMap:
        """Read ``{label: name}`` or ``{label: {"name": …, "color": "#rrggbb"}}``.

        The label ``"*"`` means all others as one class, ``"#"`` names each of the others: ``{"#": "Segment_{}"}``.

        Raises
        ------
        InvalidInput
            A label that is no integer, a name that is missing or there twice, a colour of another form.
        """
        if isinstance(value, ClassMap):
            return value
        if not isinstance(value, Mapping) or not value:
            raise InvalidInput(f'class_map {value!r} names no class; write {{1: "liver", 2: "tumour"}}')
        unnamed = value.get("#")
        if unnamed is not None and (not isinstance(unnamed, str) or "{}" not in unnamed):
            raise InvalidInput(f"class_map: '#' has the name {unnamed!r}; expected a text with {{}} for the label")
        value = {key: told for key, told in value.items() if key != "#"}
        labels = {key: _label(key) for key in value}
        rest = None
        if "*" in value:
            rest = max((n for n in labels.values() if n is not None), default=0) + 1
        found = []
        for key, told in value.items():
            label = labels[key]
            found.append(_category(rest if label is None else label, told, key))  # type: ignore[arg-type]
        names = [category.name for category in found]
        if len(set(names)) != len(names) or len({category.id for category in found}) != len(found):
            raise InvalidInput(f"class_map {dict(value)!r}: every label and every name must be there once")
        return cls(tuple(sorted(found, key=lambda category: category.id)), rest, unnamed)

    @classmethod
    def of_labels(cls, labels: ArrayLike) -> ClassMap:
        """Make a class of each label value, called ``label_<value>``."""
        return cls(tuple(Category(n, f"label_{n}", color_of(n)) for n in np.unique(labels).tolist()))

    def ids(self, labels: ArrayLike) -> NDArray[np.int64]:
        """Category of each label.

        Raises
        ------
        InvalidInput
            Labels that no class has; the message lists them.
        """
        values, inverse = np.unique(np.asarray(labels), return_inverse=True)
        known = {category.id for category in self.categories if category.id != self.rest}
        unknown = [n for n in values.tolist() if n not in known]
        if unknown and self.rest is None and self.unnamed is None:
            listed = ", ".join(map(str, unknown[:10])) + (", …" if len(unknown) > 10 else "")
            raise InvalidInput(
                f"label values {listed} are in no class; the class map has {', '.join(map(str, sorted(known)))}: "
                'add them, give "*" for all others, or choose with classes='
            )
        ids = [n if n in known or self.rest is None else self.rest for n in values.tolist()]
        return np.array(ids, np.int64)[inverse.reshape(-1)]

    def covering(self, labels: ArrayLike) -> ClassMap:
        """The same with a class for each of these labels that has none of its own; for those who list all classes."""
        if self.unnamed is None:
            return self
        new = np.setdiff1d(np.asarray(labels), [category.id for category in self.categories])
        categories = (*self.categories, *self.named(new.tolist()))
        return ClassMap(tuple(sorted(categories, key=lambda category: category.id)), self.rest, self.unnamed)

    def __getitem__(self, category_id: int) -> Category:
        return self.named([category_id])[0]

    def named(self, ids: Iterable[int]) -> list[Category]:
        """Category of each id.

        Raises
        ------
        KeyError
            An id that no class has.
        """
        known = {category.id: category for category in self.categories}
        return [known[n] if n in known else self._unnamed(n) for n in ids]

    def _unnamed(self, category_id: int) -> Category:
        if self.unnamed is None:
            raise KeyError(category_id)
        return Category(category_id, self.unnamed.format(category_id), color_of(category_id))

    def to_dict(self) -> dict[str, Any]:
        """JSON values that :meth:`of` reads."""
        named = {
            "*" if category.id == self.rest else str(category.id): {"name": category.name, "color": category.color}
            for category in self.categories
        }
        return named if self.unnamed is None else {**named, "#": self.unnamed}


def color_of(label: int) -> str:
    """Colour of a class that was given none."""
    return PALETTE[(label - 1) % len(PALETTE)]


def _label(key: object) -> int | None:
    if key == "*":
        return None
    try:
        label = int(key)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        label = 0
    if not 1 <= label < 2**63 or str(label) != str(key).strip():
        raise InvalidInput(f'class_map: label {key!r} must be a whole number from 1 to 2**63 - 1, or "*" for all else')
    return int(label)


def _category(number: int, told: object, key: object) -> Category:
    color: object = color_of(number)
    name = told
    if isinstance(told, Mapping):
        name, color = told.get("name"), told.get("color", color)
        if told.keys() - {"name", "color"}:
            raise InvalidInput(f"class_map: label {key!r} has {dict(told)!r}; expected 'name' and perhaps 'color'")
    if not isinstance(name, str) or not name.strip() or "\n" in name:
        raise InvalidInput(f"class_map: label {key!r} has the name {name!r}; expected a text of one line")
    if not isinstance(color, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
        raise InvalidInput(f"class_map: label {key!r} has the colour {color!r}; expected the form '#rrggbb'")
    return Category(number, name.strip(), color.lower())
