"""The Parquet table, as pandas, polars and DuckDB read it."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from tests.write.annotated import ALL, Annotated, Run, annotate, annotated, written
from tests.write.test_frame import BLOB, in_3d
from voxtract.classes import ClassMap
from voxtract.errors import InvalidInput
from voxtract.write.frame import COLUMNS, component_columns
from voxtract.write.parquet import Parquet

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow writes Parquet")

FILE = "components.parquet"


def rows(columns: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Rows as plain values, None for what is missing."""
    lists = [values if isinstance(values, list) else values.tolist() for values in columns.values()]
    return [tuple(None if pd.isna(value) else value for value in row) for row in zip(*lists, strict=True)]


@given(annotated("a", "train"), annotated("b"))
@settings(max_examples=30)
def test_the_table_is_that_of_the_components(first: Annotated, second: Annotated) -> None:
    content = written(Parquet(), [first, second])[FILE]
    table = pq.read_table(io.BytesIO(content))
    expected = [row for case in (first, second) for row in rows(component_columns(case.found, None))]
    assert rows(table.to_pydict()) == expected


def test_every_reader_sees_the_same(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars", reason="polars is a reader these tests compare with")
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is a reader these tests compare with")
    cases = [annotate(BLOB, case="a", split="train"), annotate(np.full((1, 1, 2), 2**64 - 1, np.uint64), case="b")]
    path = tmp_path / FILE
    path.write_bytes(written(Parquet(ALL), cases)[FILE])
    expected = [row for case in cases for row in rows(component_columns(case.found, ALL))]
    assert len(expected) == 5
    by_pandas = pd.read_parquet(path)
    numeric = {name: column.dtype for name, column in COLUMNS.items() if column.dtype != "category"}
    assert {name: str(by_pandas[name].dtype) for name in numeric} == numeric
    assert rows({name: by_pandas[name].to_numpy(object) for name in by_pandas}) == expected
    by_polars = polars.read_parquet(path)
    kinds = {"int64": polars.Int64, "uint64": polars.UInt64, "float64": polars.Float64, "category": polars.String}
    assert dict(by_polars.schema) == {name: kinds[column.dtype] for name, column in COLUMNS.items()}
    assert by_polars.rows() == expected
    assert duckdb.sql(f"select * from '{path}'").fetchall() == expected
    assert duckdb.sql(f"select CLASS, sum(COUNT) from '{path}' group by CLASS order by CLASS").fetchall() == [
        ("all the rest", 3),
        ("liver", 4),
    ]


def test_fields_say_their_unit_and_meaning() -> None:
    content = written(Parquet(), [])[FILE]
    schema = pq.read_schema(io.BytesIO(content))
    assert schema.names == list(COLUMNS)
    for name, column in COLUMNS.items():
        metadata = schema.field(name).metadata
        assert metadata[b"unit"].decode() == column.unit
        assert metadata[b"description"].decode() == column.meaning
    assert pq.read_table(io.BytesIO(content)).num_rows == 0
    full = pq.read_schema(io.BytesIO(written(Parquet(), [annotate(BLOB)])[FILE]))
    assert full.equals(schema, check_metadata=True)


def test_each_case_is_a_row_group() -> None:
    cases = [annotate(BLOB, view, case=case) for case in "abc" for view in ("axial", "sagittal")]
    cases.insert(2, annotate(np.zeros((1, 1, 1), np.uint8), case="empty"))
    file = pq.ParquetFile(io.BytesIO(written(Parquet(), cases)[FILE]))
    groups = [file.read_row_group(i).to_pydict() for i in range(file.num_row_groups)]
    assert [set(group["CASE"]) for group in groups] == [{"a"}, {"b"}, {"c"}]
    assert all(set(group["VIEW"]) == {"axial", "sagittal"} for group in groups)


def test_the_file_comes_in_pieces_no_larger_than_a_case() -> None:
    cases = [annotate(BLOB, case=str(n)).found for n in range(8)]
    ((name, pieces),) = Parquet().run_files(Run(cases, {}))
    sizes = [len(piece) for piece in pieces]
    assert name == FILE
    assert len(sizes) == 9
    assert all(sizes)


def test_components_of_the_volume_have_no_area() -> None:
    case = annotate(BLOB)
    case = replace(case, found=in_3d(case.found))
    table = pq.read_table(io.BytesIO(written(Parquet(), [case])[FILE])).to_pydict()
    assert table["SLICE"] == [-1, -1]
    assert table["AREA_MM2"] == [None, None]
    assert table["SPLIT"] == [None, None]
    assert table["VOLUME_MM3"] == [4.0, 1.0]


def test_a_name_that_is_no_text_is_spelled_out() -> None:
    case = annotate(BLOB, case="ü \udcff")
    table = pq.read_table(io.BytesIO(written(Parquet(), [case])[FILE])).to_pydict()
    assert set(table["CASE"]) == {"ü \\udcff"}


def test_the_same_run_gives_the_same_bytes() -> None:
    cases = [annotate(BLOB, case=case) for case in "ab"]
    assert written(Parquet(), cases) == written(Parquet(), cases)


def test_a_label_without_a_class_fails_its_case() -> None:
    with pytest.raises(InvalidInput, match="label values 1, 9 are in no class"):
        Parquet(ClassMap.of({2: "two"})).case_files(annotate(BLOB).found, None)


def test_without_pyarrow_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidInput, match=r"pip install 'voxtract\[parquet\]'"):
        Parquet()
