"""What has to differ between devices, and the one place that chooses.

:func:`select` is called once per run and says why it chose. All other code is written once, over a `Backend`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, Protocol

from voxtract.errors import BackendUnavailable, check_choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.compute.normalize import PixelRule, Statistics
    from voxtract.geometry import Plane, View
    from voxtract.model import Components

log = logging.getLogger("voxtract")


class Backend(Protocol):
    """The operations that run on a device."""

    @property
    def name(self) -> Literal["cpu", "cuda"]:
        """How reports call it."""

    def to_device(self, data: NDArray[Any]) -> Any:
        """Bring voxels (x, y, z) to where the other methods want them; memory order and dtype stay."""

    def statistics(self, data: Any) -> Statistics:
        """Numbers about all stored voxels, each worked out when it is first asked for."""

    def cut(self, data: Any, plane: Plane, first: int, last: int, rule: PixelRule) -> NDArray[Any]:
        """Slices ``first <= i < last`` as (n, height, width) pixels on the host."""

    def find_components(
        self,
        labels: Any,
        view: View,
        *,
        extent: Literal["slice", "volume"],
        connectivity: int | None,
        objects: Literal["components", "labels"],
        mass: bool,
    ) -> Components:
        """Boxes, labels and voxel counts, in raster order of the view."""


def select(wanted: str = "auto") -> Backend:
    """Choose the backend.

    Parameters
    ----------
    wanted : {"auto", "cpu", "cuda"}
        ``auto`` takes the best one that this machine and installation have.

    Raises
    ------
    BackendUnavailable
        ``cuda`` was asked for and cannot be had; the message says why.
    InvalidInput
        Another word.
    """
    from voxtract.backend.cpu import CPU

    check_choice("backend", wanted, ("auto", "cpu", "cuda"))
    if wanted == "cuda":
        raise BackendUnavailable(
            f"backend 'cuda' was asked for, but {cuda_absence()}; pass backend='cpu' (--backend cpu)"
        )
    if wanted == "auto":
        log.info("running on the CPU: %s", cuda_absence())
    return CPU


def cuda_absence() -> str:
    """Why there is no CUDA backend here."""
    return "this version of voxtract has none yet"
