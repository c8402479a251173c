"""Hypothesis strategies for label volumes of every dtype and memory layout."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import DTypeLike, NDArray

Layout = Literal["F", "C", "permuted", "flipped", "sliced", "read-only"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
LABEL_DTYPES = ("?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")


def laid_out(labels: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """The same (x, y, z) values with other strides."""
    match layout:
        case "F":
            return np.asfortranarray(labels)
        case "C":
            return np.ascontiguousarray(labels)
        case "permuted":  # y fastest, then z
            return np.ascontiguousarray(labels.transpose(0, 2, 1)).transpose(0, 2, 1)
        case "flipped":
            return np.asfortranarray(labels[::-1, :, ::-1])[::-1, :, ::-1]
        case "sliced":
            wide = np.full([2 * n + 1 for n in labels.shape], labels.dtype.type(1))
            wide[1::2, 1::2, 1::2] = labels
            return wide[1::2, 1::2, 1::2]
        case "read-only":
            copy = np.array(labels, order="F")
            copy.setflags(write=False)
            return copy


@st.composite
def masks(
    draw: st.DrawFn,
    max_side: int = 9,
    dtypes: tuple[DTypeLike, ...] = LABEL_DTYPES,
    layouts: tuple[Layout, ...] = LAYOUTS,
    min_side: int = 1,
) -> NDArray[Any]:
    """Label volumes (x, y, z) with few labels, negative ones and the widest of the dtype among them."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    shape = draw(st.tuples(*(st.integers(min_side, max_side) for _ in range(3))))
    values = [0, 1]
    if dtype.kind != "b":
        most, least = int(np.iinfo(dtype).max), int(np.iinfo(dtype).min)
        values = [0, 0, 1, 2, most, *([-1, least] if least else [])]
    labels = draw(
        arrays.arrays(
            dtype, shape, elements=st.sampled_from(values).map(dtype.type), fill=st.sampled_from([0, 1]).map(dtype.type)
        )
    )
    return laid_out(labels, draw(st.sampled_from(layouts)))
