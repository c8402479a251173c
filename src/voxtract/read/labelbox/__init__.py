"""Labelbox exports of DICOM data: what they say (rows), where it lies in a volume (planes), and volumes of it (source).

Labelbox's SDK knows DICOM up to 6.1; exports remain. What the format leaves open is an option here, see `Options`: all
of them are told in the description of a source, and beside every output.
"""

from voxtract.read.labelbox.fetch import ALLOWED_HOSTS, Fetcher, FetchFailed, Limits
from voxtract.read.labelbox.planes import GroupPlane, Options
from voxtract.read.labelbox.polylines import RASTER, Measured, measure
from voxtract.read.labelbox.rows import Tally, read_rows
from voxtract.read.labelbox.select import Selection
from voxtract.read.labelbox.source import LabelboxSource, open_labelbox
from voxtract.read.labelbox.told import Line
from voxtract.read.labelbox.values import (
    Answer,
    Drawn,
    Frame,
    Group,
    Issue,
    Label,
    MaskRef,
    Place,
    Polyline,
    Row,
    polyline,
)

__all__ = [
    "ALLOWED_HOSTS",
    "RASTER",
    "Answer",
    "Drawn",
    "FetchFailed",
    "Fetcher",
    "Frame",
    "Group",
    "GroupPlane",
    "Issue",
    "Label",
    "LabelboxSource",
    "Limits",
    "Line",
    "MaskRef",
    "Measured",
    "Options",
    "Place",
    "Polyline",
    "Row",
    "Selection",
    "Tally",
    "measure",
    "open_labelbox",
    "polyline",
    "read_rows",
]
