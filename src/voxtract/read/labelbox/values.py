"""What an export says, as small frozen values; the same whichever generation of exports it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROUPS = ("axial", "coronal", "sagittal")


@dataclass(frozen=True, slots=True)
class Place:
    """Where in an export something stands; what is not known is empty."""

    file: str
    line: int | None = None
    path: str = ""
    data_row: str = ""
    label: str = ""
    group: str = ""
    frame: int | None = None
    feature: str = ""

    def at(
        self,
        *,
        data_row: str | None = None,
        label: str | None = None,
        group: str | None = None,
        frame: int | None = None,
        feature: str | None = None,
    ) -> Place:
        """The same place, described further."""
        return Place(
            self.file,
            self.line,
            self.path,
            self.data_row if data_row is None else data_row,
            self.label if label is None else label,
            self.group if group is None else group,
            self.frame if frame is None else frame,
            self.feature if feature is None else feature,
        )

    def issue(self, code: str, message: str) -> Issue:
        """An issue here."""
        return Issue(**{one.name: getattr(self, one.name) for one in fields(Place)}, code=code, message=message)

    @property
    def where(self) -> str:
        """File, line or path in it, and what is known of the object, for people."""
        line = "" if self.line is None else f":{self.line}"
        words = ("data_row", "label", "group", "frame", "feature")
        known = [
            f"{word.replace('_', ' ')} {value}" for word in words if (value := getattr(self, word)) not in ("", None)
        ]
        return f"{self.file}{line}{self.path}" + (f" ({', '.join(known)})" if known else "")


@dataclass(frozen=True, slots=True)
class Issue(Place):
    """Something that is wrong at a place, and what became of it; `code` is one word for programs."""

    code: str = ""
    message: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON values, one for each field."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.where}: {self.message} [{self.code}]"


Report = Callable[[Issue], None]


@dataclass(slots=True)
class Spot:
    """A frame and the feature being read on it; a `Place` is made of it only where there is something to tell.

    There are a million of them in a large export. `place` is that of the group.
    """

    place: Place
    frame: int
    feature: str = ""

    def issue(self, code: str, message: str) -> Issue:
        """An issue here."""
        return self.place.at(frame=self.frame, feature=self.feature).issue(code, message)


@dataclass(frozen=True, eq=False, slots=True)
class Polyline:
    """A curve: (n, 2) float64 points x, y in pixels of the picture as it was drawn on, read-only, n >= 2."""

    points: NDArray[np.float64]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Polyline) and np.array_equal(self.points, other.points)

    def __hash__(self) -> int:
        return hash(self.points.tobytes())

    def __reduce__(self) -> tuple[Any, ...]:
        return polyline, (self.points,)

    @property
    def is_closed(self) -> bool:
        """Whether it ends where it began."""
        return bool((self.points[0] == self.points[-1]).all())


def polyline(points: Any) -> Polyline:
    """Make a `Polyline` of (n, 2) numbers."""
    array = np.array(points, np.float64)
    array.setflags(write=False)
    return Polyline(array)


class MaskRef(NamedTuple):
    """A mask to be fetched: all of a PNG, or of a composite one the pixels of exactly this (r, g, b)."""

    url: str
    color: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A classification: the question, its answers, and the questions asked on them."""

    name: str
    kind: Literal["radio", "checklist", "text", "other"]
    answers: tuple[str, ...]
    nested: tuple[Answer, ...] = ()


class Drawn(NamedTuple):
    """One object on one frame; `key_frame` is None where the export does not say who drew it.

    There are hundreds of thousands in an export: a tuple is made in a third of the time of a frozen dataclass.
    """

    feature: str
    name: str
    geometry: Polyline | MaskRef
    key_frame: bool | None = None
    attributes: tuple[Answer, ...] = ()

    @property
    def kind(self) -> Literal["polyline", "mask"]:
        """What it was drawn as."""
        return "polyline" if isinstance(self.geometry, Polyline) else "mask"


@dataclass(frozen=True, slots=True)
class Frame:
    """What was drawn on one slice, under the number that the export gives it."""

    number: int
    objects: tuple[Drawn, ...]
    attributes: tuple[Answer, ...] = ()


Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Group:
    """One series of slices, as "axial", with its frames in ascending order.

    `segments` has the frame ranges of features, inclusive, where the export has them.
    """

    name: str
    frames: tuple[Frame, ...] = ()
    segments: tuple[tuple[str, Ranges], ...] = ()
    attributes: tuple[Answer, ...] = ()


@dataclass(frozen=True, slots=True)
class Label:
    """One annotator's work on one data row; `details` holds whatever else the export says of it."""

    id: str
    groups: tuple[Group, ...] = ()
    attributes: tuple[Answer, ...] = ()
    skipped: bool = False
    created_at: str = ""
    created_by: str = ""
    benchmark: str = ""  # the label it was compared with
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Row:
    """One label of one data row in one project; the same data row comes again with its next label.

    `details` holds whatever else the export says of data row and project.
    """

    place: Place = field(compare=False)
    id: str
    label: Label
    global_key: str = ""
    external_id: str = ""
    url: str = ""
    project_id: str = ""
    project: str = ""
    workflow_status: str = ""
    last_activity_at: str = ""
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)
