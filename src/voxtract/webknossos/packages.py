"""The optional packages that decode voxels, imported when first needed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from voxtract.errors import InvalidInput


def need(name: str, where: str) -> ModuleType:
    """Import a package of the extra `webknossos`.

    Raises
    ------
    InvalidInput
        It is not installed; the message says how to get it.
    """
    try:
        return import_module(name)
    except ImportError as why:
        raise InvalidInput(
            f"{where}: its voxels need the package {name.partition('.')[0]} ({why}); pip install 'voxtract[webknossos]'"
        ) from why
