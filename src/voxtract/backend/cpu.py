"""The CPU backend: NumPy, no compiler; a thin front of `voxtract.compute`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from voxtract.compute.components import find_components
from voxtract.compute.normalize import PixelRule, Statistics
from voxtract.compute.planes import cut

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.geometry import Plane, View
    from voxtract.model import Components


@dataclass(frozen=True, slots=True)
class CPUBackend:
    """Host memory is device memory; see `voxtract.backend.Backend`."""

    name: Literal["cpu"] = "cpu"

    def to_device(self, data: NDArray[Any]) -> NDArray[Any]:
        """Return `data` itself."""
        return data

    def statistics(self, data: NDArray[Any]) -> Statistics:
        """See `voxtract.compute.normalize.Statistics`."""
        return Statistics(data)

    def cut(self, data: NDArray[Any], plane: Plane, first: int, last: int, rule: PixelRule) -> NDArray[Any]:
        """See `voxtract.compute.planes.cut`."""
        return cut(data, plane, first, last, rule)

    cut_on_device = cut

    def find_components(
        self,
        labels: NDArray[Any],
        view: View,
        *,
        extent: Literal["slice", "volume"],
        connectivity: int | None,
        objects: Literal["components", "labels"],
        mass: bool,
    ) -> Components:
        """See `voxtract.compute.components.find_components`."""
        return find_components(labels, view, extent=extent, connectivity=connectivity, objects=objects, mass=mass)


CPU = CPUBackend()
