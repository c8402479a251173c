"""What belongs beside results: facts without secrets, issues as they are met, the key of the environment."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.read.labelbox.exports import Export, codes, drawings, opened, v2_annotations, v2_row
from voxtract.errors import InvalidInput
from voxtract.read.labelbox import LabelboxSource, Options
from voxtract.read.labelbox.painting import GroupLabels
from voxtract.read.labelbox.told import LINE_COLUMNS


def row(tmp_path: Path, **more: Any) -> Any:
    return v2_row(v2_annotations(Export(tmp_path), drawings()), **more)


def facts(source: LabelboxSource) -> Any:
    files = dict(source.files())
    return json.loads(files["labelbox.json"])


def test_addresses_stand_without_their_queries_wherever_they_are(tmp_path: Path) -> None:
    signed = "https://user:word@storage.example/a.png?sig=SECRET#SECRET"
    source = opened(
        tmp_path,
        row(
            tmp_path,
            attachments=[{"type": "IMAGE", "value": signed}],
            metadata_fields=[{"schema_name": "link", "value": [signed, 7, None, True]}],
        ),
    )
    text = dict(source.files())["labelbox.json"]
    assert "SECRET" not in text
    assert "word@" not in text
    told = facts(source)["cases"]["ct-01"]["details"]
    assert told["attachments"] == [{"type": "IMAGE", "value": "https://storage.example/a.png"}]
    assert told["metadata_fields"][0]["value"] == ["https://storage.example/a.png", 7, None, True]


def test_answers_are_told_with_where_they_were_given(tmp_path: Path) -> None:
    value = row(tmp_path)
    annotations = value["projects"]["project-1"]["labels"][0]["annotations"]
    one = {
        "name": "quality",
        "checklist_answers": [
            {"name": "noise", "classifications": [{"name": "why", "text_answer": {"content": "old"}}]}
        ],
    }
    annotations["classifications"] = [one]
    annotations["groups"]["Axial"]["frames"]["2"]["classifications"] = [one]
    told = facts(opened(tmp_path, value))["cases"]["ct-01"]["classifications"]
    answer = {
        "name": "quality",
        "kind": "checklist",
        "answers": ["noise"],
        "nested": [{"name": "why", "kind": "text", "answers": ["old"]}],
    }
    assert told[0] == {"answers": [answer]}
    assert {"group": "axial", "frame": 2, "answers": [answer]} in told
    sure = {"name": "sure", "kind": "radio", "answers": ["yes"]}
    assert {"group": "coronal", "frame": 5, "feature": "mask-c", "answers": [sure]} in told


def test_issues_of_masks_are_heard_once_when_they_are_read(tmp_path: Path) -> None:
    value = row(tmp_path)
    (tmp_path / "masks" / "axial" / "mask-a" / "index" / "3" / "mask").write_bytes(b"no mask")
    source = opened(tmp_path, value)
    assert source.late_remarks() == ()
    for _ in range(2):
        for volume in source.cases[0].labels:
            volume.file.read()
    (remark,) = source.late_remarks()
    assert "no PNG" in remark.message
    assert [one["code"] for one in facts(source)["issues"]] == ["not-png"]
    settled = opened(tmp_path, value, prefetch=True)
    assert codes(settled.issues) == ["not-png"]
    settled.cases[0].labels[0].file.read()
    assert settled.late_remarks() == ()
    assert len(facts(settled)["issues"]) == 1


def test_an_image_that_cannot_be_read_leaves_out_its_lines_alone(tmp_path: Path) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no volume")
    files = dict(opened(tmp_path, row(tmp_path), volumes={"ct-01": bad}).files())
    assert list(files) == ["labelbox.json"]


def test_lines_have_every_column(tmp_path: Path) -> None:
    files = dict(opened(tmp_path, row(tmp_path), options=Options(flip_cols=("axial",))).files())
    rows = list(csv.DictReader(files["lines.csv"].splitlines()))
    assert tuple(rows[0]) == LINE_COLUMNS
    assert all(one["LENGTH_MM"] and one["CENTER_S_MM"] for one in rows)
    first = rows[0]  # columns run along the first axis, 12 voxels, which are the rows of slice images
    assert (first["DRAWN_X_MIN"], first["DRAWN_X_MAX"]) == ("1.25", "6.75")
    assert (first["Y_MIN"], first["Y_MAX"]) == ("5", "10")


@pytest.mark.parametrize(
    ("given", "variable", "expected"),
    [(None, "from-env", "from-env"), ("given", "from-env", "given"), (None, "", None), (None, None, None)],
)
def test_the_key_is_that_of_the_environment_unless_given(
    tmp_path: Path, given: str | None, variable: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LABELBOX_API_KEY", raising=False)
    if variable is not None:
        monkeypatch.setenv("LABELBOX_API_KEY", variable)
    source = opened(tmp_path, row(tmp_path), api_key=given)
    file = source.cases[0].labels[0].file
    assert isinstance(file, GroupLabels)
    assert file.painting.fetcher.api_key == expected
    assert "from-env" not in repr(source) + repr(source.cases) + dict(source.files())["labelbox.json"]


def test_a_variable_that_is_no_key_is_refused_without_being_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABELBOX_API_KEY", "two words")
    with pytest.raises(InvalidInput, match="api_key is empty or holds spaces") as caught:
        opened(tmp_path, row(tmp_path))
    assert "two words" not in str(caught.value)
