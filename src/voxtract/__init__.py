"""Annotated volumes (CT, MR, EM) into training data: slices, and the boxes and centers of their components.

Names are imported when first used, so that ``import voxtract`` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voxtract.conversion import convert
    from voxtract.errors import (
        BackendUnavailable,
        DamagedFile,
        InvalidInput,
        NotFound,
        OutputError,
        UnreadableFile,
        VoxtractError,
    )
    from voxtract.pipeline import extract
    from voxtract.read import open_source
    from voxtract.report import Report
    from voxtract.settings import Settings
    from voxtract.slices import (
        extract_annotations,
        extract_annotations_dataset,
        extract_slices,
        extract_slices_dataset,
    )

    __version__: str

_ROOMS = {
    "BackendUnavailable": "errors",
    "DamagedFile": "errors",
    "InvalidInput": "errors",
    "NotFound": "errors",
    "OutputError": "errors",
    "UnreadableFile": "errors",
    "VoxtractError": "errors",
    "Settings": "settings",
    "convert": "conversion",
    "extract": "pipeline",
    "open_source": "read",
    "Report": "report",
    "extract_annotations": "slices",
    "extract_annotations_dataset": "slices",
    "extract_slices": "slices",
    "extract_slices_dataset": "slices",
}

__all__ = [
    "BackendUnavailable",
    "DamagedFile",
    "InvalidInput",
    "NotFound",
    "OutputError",
    "Report",
    "Settings",
    "UnreadableFile",
    "VoxtractError",
    "convert",
    "extract",
    "extract_annotations",
    "extract_annotations_dataset",
    "extract_slices",
    "extract_slices_dataset",
    "open_source",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        from importlib import import_module

        value = getattr(import_module(f"voxtract.{_ROOMS[name]}"), name)
    elif name == "__version__":
        from importlib.metadata import version

        value = version("voxtract")
    else:
        raise AttributeError(f"module 'voxtract' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS, "__version__"])
