"""Slow, obvious truth that the fast code is compared with: plain Python, voxel by voxel."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from numpy.typing import NDArray

# (row axis, column axis, slice axis), written out once more on purpose
AXES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}

Voxel = tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """One component: half-open box in voxels, label, voxel count, sum of the coordinates."""

    start: Voxel
    stop: Voxel
    label: int
    count: int
    total: Voxel


def components(
    labels: NDArray[Any],
    view: str,
    extent: str = "slice",
    connectivity: int | None = None,
    objects: str = "components",
) -> list[Found]:
    """Flood fill in raster order (slice, row, column of the view); the first voxel met orders the rows."""
    row, column, index = AXES[view]
    value: dict[Voxel, int] = {
        (x, y, z): int(labels[x, y, z]) for x, y, z in product(*(range(n) for n in labels.shape)) if labels[x, y, z] > 0
    }
    raster = sorted(value, key=lambda voxel: (voxel[index], voxel[row], voxel[column]))
    if objects == "labels":
        groups: dict[tuple[int, int], list[Voxel]] = {}
        for voxel in raster:
            groups.setdefault((voxel[index] if extent == "slice" else -1, value[voxel]), []).append(voxel)
        return [_found(group, value) for group in groups.values()]
    steps = [
        step
        for step in product((-1, 0, 1), repeat=3)
        if 0 < sum(map(abs, step)) <= (connectivity or 3) and (extent == "volume" or step[index] == 0)
    ]
    out: list[Found] = []
    seen: set[Voxel] = set()
    for seed in raster:
        if seed in seen:
            continue
        seen.add(seed)
        group = [seed]
        for voxel in group:
            for step in steps:
                neighbour = tuple(a + b for a, b in zip(voxel, step, strict=True))
                if value.get(neighbour) == value[seed] and neighbour not in seen:
                    seen.add(neighbour)
                    group.append(neighbour)
        out.append(_found(group, value))
    return out


def _found(group: list[Voxel], value: dict[Voxel, int]) -> Found:
    along = list(zip(*group, strict=True))
    return Found(
        start=tuple(min(a) for a in along),
        stop=tuple(max(a) + 1 for a in along),
        label=value[group[0]],
        count=len(group),
        total=tuple(sum(a) for a in along),
    )
