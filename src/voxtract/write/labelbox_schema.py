"""What a line of an import of DICOM annotations into Labelbox may hold, as a JSON schema of our own."""

from __future__ import annotations

from typing import Any

from voxtract.geometry import VIEWS

_FRAME: dict[str, Any] = {"type": "integer", "minimum": 0}
_POINT = {
    "type": "object",
    "properties": {"x": {"type": "number"}, "y": {"type": "number"}},
    "required": ["x", "y"],
    "additionalProperties": False,
}
_KEY_FRAME = {
    "type": "object",
    "properties": {
        "frame": _FRAME,
        "line": {"type": "array", "items": _POINT, "minItems": 2},
        "classifications": {"type": "array"},
    },
    "required": ["frame", "line"],
    "additionalProperties": False,
}
_COMMON: dict[str, Any] = {
    "uuid": {"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
    "dataRow": {
        "type": "object",
        "properties": {"id": {"type": "string", "minLength": 1}, "globalKey": {"type": "string", "minLength": 1}},
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
    },
    "groupKey": {"enum": list(VIEWS)},
    "isBenchmarkReferenceLabel": {"const": True},
}
_LINE = {
    "type": "object",
    "properties": {
        **_COMMON,
        "name": {"type": "string", "minLength": 1},
        "classifications": {"type": "array"},
        "segments": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {"keyframes": {"type": "array", "items": _KEY_FRAME, "minItems": 1}},
                "required": ["keyframes"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["uuid", "dataRow", "groupKey", "name", "segments"],
    "additionalProperties": False,
}
_BYTE = {"type": "integer", "minimum": 0, "maximum": 255}
_MASKS = {
    "type": "object",
    "properties": {
        **_COMMON,
        "masks": {
            "type": "object",
            "properties": {
                "frames": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "properties": {
                            "index": _FRAME,
                            "instanceURI": {"type": "string", "pattern": "^https?://[^/ ]+/[^ ]*$"},
                        },
                        "required": ["index", "instanceURI"],
                        "additionalProperties": False,
                    },
                },
                "instances": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "properties": {
                            "colorRGB": {
                                "type": "array",
                                "items": _BYTE,
                                "minItems": 3,
                                "maxItems": 3,
                                "not": {"const": [0, 0, 0]},
                            },
                            "name": {"type": "string", "minLength": 1},
                        },
                        "required": ["colorRGB", "name"],
                        "additionalProperties": False,
                    },
                },
            },
            "required": ["frames", "instances"],
            "additionalProperties": False,
        },
    },
    "required": ["uuid", "dataRow", "groupKey", "masks"],
    "additionalProperties": False,
}
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "One line of an import of DICOM annotations into Labelbox",
    "oneOf": [_LINE, _MASKS],
}
