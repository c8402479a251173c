"""JSON that somebody else wrote: parsed with limits, and told apart from what was expected."""

from __future__ import annotations

import json
from typing import Any

from voxtract.errors import DamagedFile

MOST_BYTES = 1 << 24


def parse(raw: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises
    ------
    DamagedFile
        No JSON, no object, or more than `MOST_BYTES`.
    """
    if len(raw) > MOST_BYTES:
        raise DamagedFile(f"{where}: is larger than {MOST_BYTES} bytes, which no JSON file of this kind is")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as why:
        raise DamagedFile(f"{where}: is no JSON ({why}); export it again") from why
    if not isinstance(value, dict):
        raise DamagedFile(f"{where}: is a JSON {type(value).__name__}, but an object was expected; export it again")
    return value


def entry(value: Any, *names: str | int) -> Any:
    """Look up ``value[name][name]...``; None where a step is missing."""
    for name in names:
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and isinstance(name, int) and name < len(value):
            value = value[name]
        else:
            return None
    return value


def whole_numbers(value: Any, count: int) -> tuple[int, ...] | None:
    """Return a list of `count` whole numbers; None where it is anything else."""
    if not isinstance(value, list) or len(value) != count:
        return None
    if not all(type(n) is int or (type(n) is float and n.is_integer()) for n in value):
        return None
    return tuple(map(int, value))
