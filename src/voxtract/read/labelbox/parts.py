"""What both generations of exports share: frame numbers, points, mask addresses, classifications."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator, Mapping
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

from voxtract.read.labelbox.values import GROUPS, Answer, Drawn, Frame, MaskRef, Place, Polyline, Report, Spot, polyline

_FRAME = re.compile(r"\s*[0-9]{1,9}\s*", re.ASCII)
_XY = itemgetter("x", "y")
_NUMBERS = frozenset((int, float))
_EMAIL = re.compile(r"[\w.+'-]+@[\w-]+(?:\.[\w-]+)+")
# Where the number of the frame stands in addresses of masks: export_v2, then v1.
_URL_FRAME = re.compile(r"/index/(\d+)(?:/|$)|/masks/feature/[^/]+/(\d+)$")


def frame_number(key: object) -> int | None:
    """Frame number of ``"6"``, ``" 6"`` or 6; None of anything else."""
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10:  # nearly all are
        return int(key)
    if isinstance(key, int) and not isinstance(key, bool) and 0 <= key < 10**9:
        return key
    return int(key) if isinstance(key, str) and _FRAME.fullmatch(key) else None


def text(value: object) -> str:
    """A text as it is, a number as text, nothing of all else."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def mapping(value: object) -> Mapping[str, Any]:
    """A JSON object as it is, an empty one of all else."""
    return value if isinstance(value, dict) else {}


def elements(value: object) -> list[Any]:
    """A JSON array as it is, an empty one of all else."""
    return value if isinstance(value, list) else []


def line_of(value: object, spot: Spot, report: Report) -> Polyline | None:
    """Points of ``[{"x": 1.5, "y": 2}, ...]``; None, and an issue, of anything else."""
    if isinstance(value, list) and len(value) > 1:
        plain = _plain_points(value)
        if plain is not None:
            return plain
    points = []
    for point in elements(value):
        x, y = mapping(point).get("x"), mapping(point).get("y")
        if not (_is_number(x) and _is_number(y)):
            report(
                spot.issue(
                    "bad-point",
                    f"the line has the point {_short(point)}, expected two finite numbers x and y; the object is left "
                    "out",
                )
            )
            return None
        points.append((float(x), float(y)))  # type: ignore[arg-type]
    if len(points) < 2:
        report(
            spot.issue("short-line", f"the line has {len(points)} points, expected 2 or more; the object is left out")
        )
        return None
    return polyline(points)


def _plain_points(value: list[Any]) -> Polyline | None:
    """The points of a sound line at once, for there are many; None where they must be looked at one by one."""
    try:
        flat = list(chain.from_iterable(map(_XY, value)))
        if not _NUMBERS.issuperset(map(type, flat)) or not math.isfinite(sum(flat)):
            return None
    except (KeyError, TypeError, OverflowError):
        return None
    points = np.frombuffer(array("d", flat)).reshape(-1, 2)
    points.setflags(write=False)
    return Polyline(points)


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


def mask_of(url: object, color: object, spot: Spot, report: Report) -> MaskRef | None:
    """The address of a mask and, for a composite one, its colour; None, and an issue, where either is wrong."""
    if not isinstance(url, str) or not url.strip():
        report(spot.issue("mask-without-url", "the mask has no address; the object is left out"))
        return None
    if f"/index/{spot.frame}/" not in url:
        found = _URL_FRAME.search(url.partition("?")[0])
        if found and int(found[1] or found[2]) != spot.frame:
            report(
                spot.issue(
                    "frame-in-url",
                    f"the address of the mask says frame {found[1] or found[2]}, the export says {spot.frame}, which "
                    "is taken",
                )
            )
    if color is None:
        return MaskRef(url.strip())
    if not (
        isinstance(color, list)
        and len(color) == 3
        and all(isinstance(c, int) and not isinstance(c, bool) and 0 <= c <= 255 for c in color)
    ):
        report(
            spot.issue(
                "bad-color",
                f"the composite mask has the colour {_short(color)}, expected three numbers 0 to 255; the object is "
                "left out",
            )
        )
        return None
    return MaskRef(url.strip(), (color[0], color[1], color[2]))


def answers_of(value: object) -> tuple[Answer, ...]:
    """Classifications of either generation; what has another form keeps its name."""
    if not value:  # as with most objects
        return ()
    return tuple(_answer(one) for one in elements(value) if isinstance(one, dict))


def _answer(one: Mapping[str, Any]) -> Answer:
    name = _name(one)
    if "text_answer" in one:
        return Answer(name, "text", (text(mapping(one["text_answer"]).get("content")),))
    if "radio_answer" in one:
        return _chosen(name, "radio", [one["radio_answer"]])
    if "checklist_answers" in one:
        return _chosen(name, "checklist", elements(one["checklist_answers"]))
    answer = one.get("answer", one.get("answers"))  # v1
    if isinstance(answer, str):
        return Answer(name, "text", (answer,))
    if isinstance(answer, dict):
        return _chosen(name, "radio", [answer])
    if isinstance(answer, list):
        return _chosen(name, "checklist", answer)
    return Answer(name, "other", ())


def _chosen(name: str, kind: Any, chosen: list[Any]) -> Answer:
    options = [one for one in chosen if isinstance(one, dict)]
    nested = tuple(deeper for one in options for deeper in answers_of(one.get("classifications")))
    return Answer(name, kind, tuple(_name(one) for one in options), nested)


def _name(one: Mapping[str, Any]) -> str:
    return text(one.get("title")) or text(one.get("name")) or text(one.get("value"))


def unique_objects(objects: Iterator[Drawn], spot: Spot, report: Report) -> tuple[Drawn, ...]:
    """Objects of a frame; a feature that is there twice is told, and its first one kept."""
    found = tuple(objects)
    if len({one.feature for one in found}) == len(found):
        return found
    kept: dict[tuple[str, str], Drawn] = {}
    for one in found:
        if kept.setdefault((one.feature, one.kind), one) is not one:
            spot.feature = one.feature
            report(spot.issue("feature-twice", "the feature is there twice on this frame; the first one is kept"))
    return tuple(kept.values())


def unique_frames(frames: Iterator[Frame], place: Place, report: Report) -> tuple[Frame, ...]:
    """Frames of a group in ascending order; a number that is there twice is told, and its first one kept."""
    kept: dict[int, Frame] = {}
    for one in frames:
        if kept.setdefault(one.number, one) is not one:
            report(place.at(frame=one.number).issue("frame-twice", "the frame is there twice; the first one is kept"))
    return tuple(kept[number] for number in sorted(kept))


def check_kinds(frames: tuple[Frame, ...], place: Place, report: Report) -> None:
    """Tell of features that are line and mask, or have two names, in one group."""
    first: dict[str, Drawn] = {}
    told: set[str] = set()
    for frame in frames:
        for one in frame.objects:
            before = first.setdefault(one.feature, one)
            same = type(before.geometry) is type(one.geometry) and before.name == one.name
            if same or one.feature in told:
                continue
            told.add(one.feature)
            here = place.at(frame=frame.number, feature=one.feature)
            if before.kind != one.kind:
                report(
                    here.issue(
                        "feature-of-two-kinds", f"the feature is a {before.kind} and a {one.kind}; they are kept apart"
                    )
                )
            else:
                report(
                    here.issue(
                        "feature-of-two-names",
                        f"the feature is called {before.name!r} and {one.name!r}; the first name is taken",
                    )
                )


def check_groups(groups: Mapping[str, tuple[Frame, ...]], place: Place, report: Report) -> None:
    """Tell of features that are in several groups."""
    first: dict[str, str] = {}
    told: set[str] = set()
    for name, frames in groups.items():
        for feature in dict.fromkeys(one.feature for frame in frames for one in frame.objects):
            other = first.setdefault(feature, name)
            if other != name and feature not in told:
                told.add(feature)
                here = place.at(group=name, feature=feature)
                report(
                    here.issue("feature-in-two-groups", f"the feature is also in group {other}; they are kept apart")
                )


def unknown_group(name: str) -> str:
    """Message about a group that no plane is known for."""
    return (
        f'the group {name!r} is none of {", ".join(GROUPS)}; say what it cuts with groups={{"{name.lower()}": "axial"}}'
    )


def without_emails(value: Any, pseudonym: Any) -> Any:
    """The same JSON value with each e-mail address in it, keys too, replaced by ``pseudonym(address)``."""
    if isinstance(value, str):
        return _EMAIL.sub(lambda match: pseudonym(match.group()), value)
    if isinstance(value, list):
        return [without_emails(one, pseudonym) for one in value]
    if isinstance(value, dict):
        return {without_emails(key, pseudonym): without_emails(one, pseudonym) for key, one in value.items()}
    return value


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
