"""``voxtract demo``: make the phantoms, extract them, draw the boxes over the slices, and say how fast it went."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voxtract.errors import InvalidInput
from voxtract.geometry import VIEWS, View
from voxtract.phantoms import CLASSES, DemoCase, make_data_set
from voxtract.pipeline import extract
from voxtract.report import Report
from voxtract.storage import Place, Remote
from voxtract.write.files import Staging
from voxtract.write.sheet import Tile, contact_sheet, png

HU_WINDOW = (-160.0, 240.0)  # the abdomen window that radiologists use: center 40, width 400


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo made.

    Parameters
    ----------
    data : Path
        Folder with ``images`` and ``labels``.
    report : Report
        Of the extraction.
    sheet : Path
        The contact sheet, a PNG.
    cases : (DemoCase, ...)
    """

    data: Path
    report: Report
    sheet: Path
    cases: tuple[DemoCase, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "data": str(self.data),
            "sheet": str(self.sheet),
            "cases": {case.id: case.about for case in self.cases},
            "report": self.report.to_dict(),
        }

    def __str__(self) -> str:
        wide = max(len(case.id) for case in self.cases)
        return "\n".join(
            [
                f"made    {self.data}",
                *(f"        {case.id:{wide}}  {case.about}" for case in self.cases),
                f"wrote   {self.report.output}",
                *(f"        {line}" for line in str(self.report).splitlines()),
                f"drew    {self.sheet}",
                "        open it: every box should sit on its lesion",
            ]
        )


def run_demo(output: Place, *, progress: bool | None = None) -> Demo:
    """Make a small data set below `output`, extract it in three views and draw a contact sheet.

    Parameters
    ----------
    output : Path
        Gets ``data/``, ``slices/`` and ``contact_sheet.png``; those of an earlier demo are replaced.
    progress : bool, optional
        Draw a bar on stderr; by default where that is a terminal.

    Raises
    ------
    InvalidInput
        A URL: what is made is for looking at.
    OutputError
        `output` cannot be written.
    """
    if isinstance(output, Remote):
        raise InvalidInput(f"{output}: the demo is made to be looked at; give a folder")
    data = make_data_set(output / "data")
    report = extract(
        output / "data",
        output / "slices",
        VIEWS,
        reorient="RAS",
        data_mode="box",
        extra_columns=("LABEL", "AREA"),
        overwrite=True,
        progress=progress,
    )
    done = {result.id for result in report.done}
    tiles = [_tile(output / "slices", case, view) for case in data.cases if case.id in done for view in VIEWS]
    sheet = contact_sheet(tiles, columns=6, tile_px=300, title="voxtract demo", legend=CLASSES)
    with Staging(output) as staging:
        staging.write("contact_sheet.png", png(sheet))
    return Demo(output / "data", report, output / "contact_sheet.png", data.cases)


def _tile(slices: Path, case: DemoCase, view: View) -> Tile:
    """The slice with the largest annotated area, read back from the files that were written."""
    import tifffile

    folder = slices / case.id / view
    table = max(sorted(folder.glob("*.csv")), key=lambda path: sum(row["AREA"] for row in _rows(path)))
    rows = list(_rows(table))
    with tifffile.TiffFile(table.with_suffix(".tif")) as file:
        image = file.asarray()
        tags: Any = file.pages[0].tags  # type: ignore[union-attr]
        per_cm = [tags[name].value for name in ("YResolution", "XResolution")]
    row_mm, column_mm = (10 * below / above for above, below in per_cm)
    corners = ("X_MIN", "Y_MIN", "X_MAX", "Y_MAX")
    return Tile(
        image,
        np.array([[row[name] for name in corners] for row in rows], dtype=np.int64).reshape(-1, 4),
        np.array([row["LABEL"] for row in rows], dtype=np.int64),
        f"{case.id}  {view} {int(table.stem.rsplit('_', 1)[1])}",
        (row_mm, column_mm),
        None if case.id.startswith("mr") else HU_WINDOW,
    )


def _rows(path: Path) -> Iterator[dict[str, int]]:
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            yield {name: int(value) for name, value in row.items()}
