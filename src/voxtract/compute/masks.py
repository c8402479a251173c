"""Which pixels of its slice belong to a component or label: found again in the label volume, from its box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.geometry import Plane
    from voxtract.model import Components


@dataclass(frozen=True, eq=False, slots=True)
class SliceMasks:
    """Masks of the components, or labels, of single slices; call it with the position of a row.

    Parameters
    ----------
    labels : (x, y, z) integer or bool array
        The volume in which `rows` were found; any strides.
    plane : Plane
        View in which they were found; its padding plays no part.
    rows : Components
        Each in one slice.
    connectivity : {None, 1, 2}
        As rows were found: 1 joins over edges only, 2 (the default) over corners, too.

    Examples
    --------
    >>> from voxtract.compute.components import find_components
    >>> from voxtract.geometry import Plane
    >>> labels = np.zeros((4, 5, 1), np.uint8)
    >>> labels[1, 1:4] = labels[2, 3] = labels[3, 1] = 7
    >>> masks = SliceMasks(labels, Plane("axial", (4, 5, 1)), find_components(labels, "axial"))
    >>> masks(0).astype(int).tolist()
    [[1, 1, 1], [0, 0, 1]]
    """

    labels: NDArray[Any]
    plane: Plane
    rows: Components
    connectivity: int | None = None

    def __call__(self, i: int) -> NDArray[np.bool_]:
        """Mask of row `i`, cut to its box.

        Returns
        -------
        (rows, columns) bool array of the image, so ``mask[Y - Y_MIN, X - X_MIN]``
        """
        row, column, index = self.plane.axes
        start, stop = self.rows.start[i].tolist(), self.rows.stop[i].tolist()
        image = self.labels.transpose(index, row, column)[start[index]]
        mask: NDArray[np.bool_] = image[start[row] : stop[row], start[column] : stop[column]] == self.rows.label[i]
        if np.count_nonzero(mask) == self.rows.count[i]:  # nothing else of its label there, or it is the whole label
            return mask
        return _spanning_piece(mask, 1 if self.connectivity == 1 else 2)


def _spanning_piece(mask: NDArray[np.bool_], connectivity: int) -> NDArray[np.bool_]:
    """The piece of `mask` that touches all four sides of it, as a component does with its own box.

    There is no other such piece. One that touches the left and the right side holds a path between them, one that
    touches top and bottom a path between those. In a rectangle the two paths meet in a pixel or pass each other
    within a square of 2 x 2 pixels, each over one diagonal. Either way they are one piece: with corners joined or
    without, a pixel of one diagonal shares an edge with each pixel of the other.
    """
    from scipy.ndimage import generate_binary_structure, label

    pieces, _ = label(mask, generate_binary_structure(2, connectivity))
    sides = (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1])
    (which,) = set.intersection(*(set(side.tolist()) for side in sides)) - {0}
    piece: NDArray[np.bool_] = pieces == which
    return piece
