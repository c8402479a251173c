"""The outer boundary of a mask as a polygon along the edges of its pixels.

Corners of the boundary are found for the whole mask at once: a corner of the pixel grid belongs to it where one or
three of the four pixels around it are set, or two across. Taken row by row, the first and second corner are the ends
of a horizontal edge, the third and fourth of the next, and so on; the same with columns and vertical edges. What is
left is to walk: along a horizontal edge, along a vertical one, until the walk is back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Walk around a mask; holes in it are not seen.

    Parameters
    ----------
    mask : (rows, columns) bool array
        At least one pixel; pixels that share a corner are connected. Where there are several pieces, the walk goes
        from the first to each other one and back the same way, so that the ring encloses all of them.

    Returns
    -------
    (n, 2) float64: X, Y of the corners, clockwise on the screen (X to the right, Y down), from the first pixel on
        Pixel i covers i .. i + 1, so the outline of one pixel is (0, 0), (1, 0), (1, 1), (0, 1). The ring is closed
        without repeating its first corner. It visits a corner twice where pixels touch over it, but does not cross
        itself there. The even-odd and the nonzero rule fill the same.

    Examples
    --------
    >>> outline(np.array([[1, 1], [1, 0]], bool)).tolist()
    [[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [1.0, 1.0], [1.0, 2.0], [0.0, 2.0]]
    """
    first, *others = _outer_rings(mask)
    if others:  # a piece may lie in a hole of another
        first, *others = _outer_rings(_without_holes(mask))
    ways = [first]
    for ring in others:
        ways += [first[:1], ring, ring[:1]]
    return np.concatenate(ways).astype(np.float64)


def _outer_rings(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """(n, 2) corners X, Y of each piece, pieces in raster order."""
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), bool)
    padded[1:-1, 1:-1] = mask
    northwest, northeast, southwest, southeast = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    across = (northwest == southeast) & (northeast == southwest) & (northwest != northeast)
    y, x = np.nonzero((northwest ^ northeast ^ southwest ^ southeast) | across)
    twice = across[y, x]  # two edges of each direction end there: one corner for each pass of the walk
    at = np.repeat(np.arange(len(y)), 1 + twice)
    y, x, twice = y[at], x[at], twice[at]
    along_column = _partners(x, y, twice & northwest[y, x]).tolist()
    # The first corner of a ring, in raster order, has a pixel below and right of it, unless the ring is around a hole.
    begins_outer = southeast[y, x].tolist()
    corners = np.array([x, y]).T
    rings: list[NDArray[np.int64]] = []
    seen = bytearray(len(at))
    for begin in range(0, len(at), 2):  # the left end of each horizontal edge
        if seen[begin]:
            continue
        ring = []
        here = begin
        while not seen[here]:
            there = here ^ 1
            seen[here] = seen[there] = 1
            ring += [here, there]
            here = along_column[there]
        if begins_outer[begin]:
            rings.append(corners[ring])
    return rings


def _partners(x: NDArray[Any], y: NDArray[Any], swapped: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each corner the other end of its vertical edge.

    Of a corner that is there twice, the first ends the horizontal edge to its left and the second begins that to its
    right. Pixels that touch over it are connected, so the walk passes between the pixels that are not set: from the
    right to below and from the left to above where the set ones are northeast and southwest of it. Where they are
    northwest and southeast it is the other way round, and the two are `swapped` in the order of the column.
    """
    twin = np.zeros(len(x), np.int64)
    twin[1:] = (x[1:] == x[:-1]) & (y[1:] == y[:-1])
    order = np.lexsort((twin ^ swapped, y, x))
    partner = np.empty(len(x), np.int64)
    partner[order] = order.reshape(-1, 2)[:, ::-1].reshape(-1)
    return partner


def _without_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_fill_holes

    filled: NDArray[np.bool_] = binary_fill_holes(mask)
    return filled
