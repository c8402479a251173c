"""What this installation can do: backends and why not, versions, fast-path codecs."""

from __future__ import annotations

import os
import platform
import sys
import zlib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from voxtract.backend import cuda_state
from voxtract.crew import default_memory_limit, default_workers

PACKAGES = (
    "voxtract",
    "numpy",
    "scipy",
    "nibabel",
    "tifffile",
    "pandas",
    "isal",
    "pillow",
    "tqdm",
    "imagecodecs",
    "pyarrow",
    "torch",
)


def examine() -> dict[str, Any]:
    """Facts about the installation as JSON values.

    Returns
    -------
    dict with ``python``, ``platform``, ``cores``, ``memory_limit_mb``, ``packages`` (name to version or None),
    ``backends`` and ``codecs`` (name to ``{"available": bool, "note": str}``)
    """
    packages = {name: _version(name) for name in PACKAGES}
    has_cuda, cuda_note = cuda_state()
    return {
        "python": sys.version.split()[0],
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": default_workers(),
        "cores_of_machine": os.cpu_count(),
        "memory_limit_mb": default_memory_limit() // 10**6,
        "packages": packages,
        "backends": {
            "cpu": _can(f"NumPy {packages['numpy']}"),
            "cuda": _can(cuda_note) if has_cuda else _cannot(cuda_note),
        },
        "codecs": {
            "gzip": _gzip(),
            "tiff zlib": _can("tifffile"),
            "tiff zstd, lzw": _can(f"imagecodecs {packages['imagecodecs']}")
            if find_spec("imagecodecs")
            else _cannot("needs imagecodecs: pip install 'voxtract[zstd]'"),
        },
    }


def _gzip() -> dict[str, Any]:
    """Inflate a line with ISA-L and compare, so that a broken build is seen here and not in a run."""
    from isal import isal_zlib

    text = b"voxtract" * 100
    if isal_zlib.decompress(zlib.compress(text, wbits=31), 31) != text:
        return _cannot("ISA-L is installed but does not inflate what zlib wrote; reinstall isal")
    return _can(f"ISA-L (isal {_version('isal')})")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _can(note: str) -> dict[str, Any]:
    return {"available": True, "note": note}


def _cannot(why: str) -> dict[str, Any]:
    return {"available": False, "note": why}
