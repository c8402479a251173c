"""What has to differ between devices, and the one place that chooses.

:func:`select` is called once per run and says why it chose. All other code is written once, over a `Backend`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, Protocol

from voxtract.errors import BackendUnavailable, InvalidInput, check_choice

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

    def cut_on_device(self, data: Any, plane: Plane, first: int, last: int, rule: PixelRule) -> Any:
        """The same as an array of the device, for users that go on there: of NumPy, or one that speaks DLPack."""

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


def select(wanted: str = "auto", device: int = 0) -> Backend:
    """Choose the backend.

    Parameters
    ----------
    wanted : {"auto", "cpu", "cuda"}
        ``auto`` takes the CPU: the kernels of the CUDA backend are tested on host memory only, until somebody has run
        ``benchmarks/gpu.py`` on a device.
    device : int
        Which CUDA device, of those that ``CUDA_VISIBLE_DEVICES`` leaves, counted from 0.

    Raises
    ------
    BackendUnavailable
        ``cuda`` was asked for and cannot be had; the message says why.
    InvalidInput
        Another word, or no number of a device.
    """
    check_choice("backend", wanted, ("auto", "cpu", "cuda"))
    if not isinstance(device, int) or isinstance(device, bool) or device < 0:
        raise InvalidInput(f"device {device!r} is no number of a CUDA device; expected 0, 1, ...")
    from voxtract.backend.cpu import CPU

    if wanted != "cuda":
        if wanted == "auto":
            log.info(
                "running on the CPU: the CUDA backend has not been verified on a device yet; backend='cuda' takes it"
            )
        return CPU
    from voxtract.backend import cuda

    try:
        return cuda.backend(device)
    except BackendUnavailable as why:
        raise BackendUnavailable(
            f"backend 'cuda' was asked for, but {why}; or pass backend='cpu' (--backend cpu)"
        ) from why


def cuda_state() -> tuple[bool, str]:
    """Whether there is a CUDA backend here, and which device, or why not."""
    from voxtract.backend import cuda

    try:
        return True, cuda.backend(0).description
    except BackendUnavailable as why:
        return False, str(why)
