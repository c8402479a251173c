"""``datasource-properties.json``: what a data set folder says of its layers, read in every form and written in one."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np

from voxtract.errors import DamagedFile, InvalidInput
from voxtract.webknossos import json_text
from voxtract.webknossos.mag import Mag
from voxtract.webknossos.units import NANOMETRES

FILE = "datasource-properties.json"

_LARGEST_PLAIN = 2**53 - 1  # what JavaScript counts exactly
_NAME = re.compile(r"[A-Za-z0-9_\-$@][A-Za-z0-9_\-.$@]*")
_DTYPES = {name: np.dtype(name) for name in (f"{s}int{b}" for s in ("u", "") for b in (8, 16, 32, 64))} | {
    "float": np.dtype("f4"),
    "double": np.dtype("f8"),
    "uint24": np.dtype("u1"),  # red, green, blue
}
_CLASSES = {dtype: name for name, dtype in reversed(_DTYPES.items())}


def check_layer_name(name: str) -> str:
    """Return the name of a layer if WEBKNOSSOS takes it.

    Raises
    ------
    InvalidInput
        Other signs than letters, digits and ``_ - . $ @``, or a dot at the begin.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"layer name {name!r}; allowed are letters without accents, digits and _ - . $ @, not beginning with a dot"
        )
    return name


def element_class(dtype: np.dtype[Any]) -> str:
    """Word for a dtype.

    Raises
    ------
    InvalidInput
        A dtype that no layer has.
    """
    name = _CLASSES.get(dtype.newbyteorder("="))
    if name is None:
        raise InvalidInput(f"voxels of {dtype} cannot be a layer; allowed: {', '.join(map(str, _CLASSES))}")
    return name


def parse_dtype(layer: dict[str, Any], where: str) -> np.dtype[Any]:
    """Dtype of a layer's voxels, from its `elementClass`."""
    dtype = _DTYPES.get(str(layer.get("elementClass")))
    if dtype is None:
        raise InvalidInput(
            f"{where}: elementClass {layer.get('elementClass')!r} is not known; known are {', '.join(_DTYPES)}"
        )
    return dtype


def parse_id(value: Any, where: str) -> int | None:
    """A segment id: a number, or the form in which numbers beyond 2**53 are written; None where it is not known."""
    if isinstance(value, dict) and value.get("customJsonEncoding") == "bigint":
        value = value.get("value")
    if value is None:
        return None
    if type(value) is int or (isinstance(value, str) and re.fullmatch(r"[0-9]{1,20}", value)):
        return int(value)
    raise DamagedFile(f"{where}: largestSegmentId {value!r} is no whole number; repair it or set it to null")


def id_json(value: int | None) -> Any:
    """Write a segment id; beyond 2**53 as text, because servers would round it.

    >>> id_json(5), id_json(2**60)
    (5, {'customJsonEncoding': 'bigint', 'value': '1152921504606846976'})
    """
    if value is None or abs(value) <= _LARGEST_PLAIN:
        return value
    return {"customJsonEncoding": "bigint", "value": str(value)}


def parse_voxel_size(scale: Any, where: str) -> tuple[float, float, float]:
    """Voxel size (x, y, z) in nanometers; old files have the plain list."""
    factor, unit = (scale.get("factor"), scale.get("unit")) if isinstance(scale, dict) else (scale, None)
    unit = "nanometer" if unit is None else unit
    if not isinstance(factor, list) or len(factor) != 3 or not all(type(n) in (int, float) for n in factor):
        raise DamagedFile(f"{where}: scale {scale!r} has no three numbers; repair it")
    if unit not in NANOMETRES or not all(math.isfinite(n) for n in factor):
        raise DamagedFile(f"{where}: scale {scale!r}; known units are {', '.join(NANOMETRES)}")
    x, y, z = (float(n) * NANOMETRES[unit] for n in factor)
    return x, y, z


def parse_mags(layer: dict[str, Any], where: str) -> dict[Mag, dict[str, Any]]:
    """The mags of a layer with what is said of each, finest first; old wkw layers call them resolutions."""
    listed = layer.get("mags") or layer.get("wkwResolutions") or []
    found: dict[Mag, dict[str, Any]] = {}
    for item in listed if isinstance(listed, list) else []:
        value = json_text.entry(item, "mag") or json_text.entry(item, "resolution")
        try:
            mag = Mag(value)
        except InvalidInput as why:
            raise DamagedFile(f"{where}: {why}") from why
        found[mag] = item
    return dict(sorted(found.items()))


def dumps(document: dict[str, Any]) -> bytes:
    """Write the document as text."""
    return json.dumps(document, indent=2).encode()
