"""The findings of a case in a form that is read back exactly: what data sets, reports and tables are made of later.

A line with the CRC-32 of all that follows it, since NumPy believes any bit. Then a line of JSON with what is known of
each plane, then for each plane two arrays in NumPy's own format (``.npy``, see numpy.lib.format): the indices of the
slices and the rows as a structured array.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Sequence

import numpy as np

from voxtract.model import Components, Findings


def encode_findings(found: Sequence[Findings]) -> bytes:
    """Turn the findings of all views of one case into the content of a file; `read.extraction` reads it."""
    head = [
        {
            "case": one.case_id,
            "view": one.plane.view,
            "shape": one.plane.shape,
            "target_size": one.plane.target_size,
            "affine": one.grid.affine.tolist(),
            "extent": one.extent,
            "stem": one.stem,
            "suffix": one.suffix,
            "labelled": one.labelled,
            "split": one.split,
            "objects": [{str(label): key for label, key in volume.items()} for volume in one.objects],
        }
        for one in found
    ]
    content = io.BytesIO()
    content.write(json.dumps(head).encode() + b"\n")
    for one in found:
        np.save(content, one.slices)
        np.save(content, _structured(one.rows))
    body = content.getvalue()
    return b"%08x\n" % zlib.crc32(body) + body


def _structured(rows: Components) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    columns = rows.columns
    dtype = np.dtype([(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    table = np.empty(len(rows), dtype)
    for name, column in columns.items():
        table[name] = column
    return table
