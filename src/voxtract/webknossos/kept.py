"""What a file says that this version does not know: kept beside the object it belongs to, and written back."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Unknown:
    """Attributes and child elements of one XML element that this version does not know.

    Parameters
    ----------
    attributes : dict of str
    elements : list of str
        XML text of each child element.
    """

    attributes: dict[str, str] = field(default_factory=dict)
    elements: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.attributes or self.elements)

    def copy(self) -> Unknown:
        """Copy both collections."""
        return Unknown(dict(self.attributes), list(self.elements))


Kept = dict[str, Unknown]  # by the element below the object; "" is the object's own element
