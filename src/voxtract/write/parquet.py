"""Parquet: all components of a run in one typed table, which pandas, polars, DuckDB and Spark read."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from voxtract.classes import ClassMap
from voxtract.errors import InvalidInput
from voxtract.write.frame import COLUMNS, component_columns, row_categories

if TYPE_CHECKING:
    import pyarrow as pa

    from voxtract.model import Findings
    from voxtract.write.annotations import Finished, Masks
    from voxtract.write.files import Content

_FILE = "components.parquet"


@dataclass(frozen=True, slots=True)
class Parquet:
    """``components.parquet``: a row for each component, a row group for each case; see `AnnotationFormat`.

    Parameters
    ----------
    class_map : ClassMap, optional
        Without one, each label value is a class called ``label_<value>``.

    Raises
    ------
    InvalidInput
        The package pyarrow is not installed; the message has the install line.

    Notes
    -----
    Columns are those of `voxtract.write.frame.COLUMNS`; each has its unit and what it means in the metadata of its
    field. Text is plain strings, and what is missing is null.
    """

    class_map: ClassMap | None = None

    def __post_init__(self) -> None:
        if find_spec("pyarrow") is None:
            raise InvalidInput(
                "annotations='parquet' needs the package pyarrow, which is not installed; "
                "pip install 'voxtract[parquet]', or take annotations='csv'"
            )

    def case_files(self, found: Findings, masks: Masks | None) -> Iterator[tuple[str, Content]]:  # noqa: ARG002
        """None; but a label without a class is a fault of its case, not of the whole run.

        Raises
        ------
        InvalidInput
            A label that has no class.
        """
        row_categories(found, self.class_map)
        return iter(())

    def run_files(self, run: Finished) -> Iterator[tuple[str, Iterable[bytes]]]:
        """The table."""
        yield _FILE, self._pieces(run)

    def _pieces(self, run: Finished) -> Iterator[bytes]:
        """Content of the file, case by case."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = _schema()
        sink = _Sink()
        with pq.ParquetWriter(sink, schema) as writer:
            for _, views in groupby(run.findings(), key=lambda found: found.case_id):
                tables = [self._table(found, schema) for found in views if len(found.rows)]
                if tables:
                    table = pa.concat_tables(tables)
                    writer.write_table(table, row_group_size=len(table))
                yield sink.take()
        yield sink.take()

    def _table(self, found: Findings, schema: pa.Schema) -> pa.Table:
        import pyarrow as pa

        columns = component_columns(found, self.class_map)
        columns["CASE"] = np.array([_utf8(case) for case in columns["CASE"]], object)
        arrays = [pa.array(values, schema.field(name).type, from_pandas=True) for name, values in columns.items()]
        return pa.table(arrays, schema=schema)


class _Sink(io.RawIOBase):
    """A file that hands on what is written to it."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(self._pieces[-1])

    def take(self) -> bytes:
        """What was written since it was last asked for."""
        piece = b"".join(self._pieces)
        self._pieces.clear()
        return piece


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field(
                name,
                pa.string() if column.dtype == "category" else pa.type_for_alias(column.dtype),
                metadata={"unit": column.unit, "description": column.meaning},
            )
            for name, column in COLUMNS.items()
        ]
    )


def _utf8(case_id: str) -> str:
    """A file name as text: what is no UTF-8 in it, which Parquet could not hold, becomes a backslash and its code."""
    return case_id.encode("utf-8", "backslashreplace").decode()
