"""Payloads against the models of Labelbox's own SDK, the last one that knew DICOM: a tool check, not a dependency.

``pip install labelbox==6.1.0`` into an environment of its own runs it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # the SDK's own

REASON = "Labelbox's SDK 6.1.0 is not a dependency; later ones do not know DICOM"
ndjson: Any = pytest.importorskip("labelbox.data.serialization.ndjson.objects", reason=REASON, exc_type=ImportError)
if not hasattr(ndjson, "NDDicomSegments"):
    pytest.skip(REASON, allow_module_level=True)

from tests.read.labelbox.exports import Export, Groups, Thing, disk, drawings, parsed, v2_annotations, v2_row  # noqa: E402
from voxtract.compute.components import find_components  # noqa: E402
from voxtract.compute.masks import SliceMasks  # noqa: E402
from voxtract.geometry import Grid, Plane  # noqa: E402
from voxtract.model import Findings  # noqa: E402
from voxtract.read.labelbox import GroupPlane, Options  # noqa: E402
from voxtract.write.labelbox import DataRow, LabelboxImport, LineObject, line_payload, uuid_maker  # noqa: E402

ROW = DataRow(global_key="ct-01")


def read_by_it(payloads: list[dict[str, Any]]) -> list[Any]:
    """As the SDK takes lines apart: which of its models each one is, is its own choice."""
    from labelbox.data.serialization.ndjson.label import NDLabel  # type: ignore[import-not-found, unused-ignore]

    return [NDLabel(annotations=json.loads(json.dumps(one))).annotations for one in payloads]


def test_lines_are_read_as_they_were_exported(tmp_path: Path) -> None:
    """Export to our values to payload to the SDK's: every point, frame, group and name, nothing merged."""
    (row,), _, _ = parsed(tmp_path, v2_row(v2_annotations(Export(tmp_path), drawings())))
    payloads = []
    expected = []
    for group in row.label.groups:
        for feature in dict.fromkeys(d.feature for f in group.frames for d in f.objects if d.kind == "polyline"):
            drawn = {f.number: d for f in group.frames for d in f.objects if d.feature == feature}
            points: dict[int, Any] = {n: d.geometry.points for n, d in drawn.items()}  # type: ignore[union-attr]
            name = next(iter(drawn.values())).name
            payloads.append(line_payload(ROW, LineObject(feature, name, group.name, points), uuid_maker("random")))
            expected += [(group.name, name, n, [tuple(p) for p in at.tolist()]) for n, at in points.items()]
    read = read_by_it(payloads)
    assert {type(one).__name__ for one in read} == {"NDDicomSegments"}
    found = []
    for one in read:
        assert one.data_row.global_key == "ct-01"
        for common in one.to_common(one.name, one.schema_id):
            assert common.keyframe is True
            group = getattr(common.group_key, "value", common.group_key)
            found.append((group, common.name, common.frame, [(p.x, p.y) for p in common.value.points]))
    assert found == expected
    truth = {(g, t.name, n): t.line for g, fs in drawings().items() for n, ts in fs.items() for t in ts if t.line}
    assert {(g, name, n): points for g, name, n, points in found} == truth


def test_masks_are_read_as_they_were_exported() -> None:
    size = (10, 12)
    groups: Groups = {
        "axial": {
            3: [Thing("a", "lesion", mask=disk(size, 6, 3, 2)), Thing("b", "node", mask=disk(size, 6, 9, 1))],
            4: [Thing("a", "lesion", mask=disk(size, 6, 3, 1))],
        }
    }
    grid = Grid((12, 10, 8), np.diag([-0.5, -0.75, 2.0, 1.0]))
    voxels = np.zeros(grid.shape, np.uint8)
    for frame, things in groups["axial"].items():
        for thing in things:
            assert thing.mask is not None
            voxels[:, :, frame - 1][thing.mask.T] = {"a": 1, "b": 2}[thing.feature]
    plane = Plane("axial", grid.shape)
    rows = find_components(voxels, "axial", objects="labels")
    found = Findings("ct", plane, grid, rows, "slice", np.arange(8), "", "")
    writer = LabelboxImport(
        {"ct": ROW},
        lambda one: GroupPlane.of(one.plane.view, grid, Options(), 1),
        "mask",
        None,
        "https://masks.example/run",
    )
    files = dict(writer.case_files(found, SliceMasks(voxels, plane, rows)))
    text = next(content for name, content in files.items() if name.endswith(".ndjson"))
    assert isinstance(text, str)
    (one,) = read_by_it([json.loads(line) for line in text.splitlines()])
    assert type(one).__name__ == "NDDicomMasks"
    common = one.to_common()
    assert getattr(common.group_key, "value", common.group_key) == "axial"
    assert [frame.index for frame in common.frames] == [3, 4]
    assert [frame.instance_uri for frame in common.frames] == [
        f"https://masks.example/run/ct/axial/{n}.png" for n in (3, 4)
    ]
    import io

    from PIL import Image

    colors = {tuple(instance.color_rgb): instance.name for instance in common.instances}
    assert sorted(colors.values()) == ["label_1", "label_2"]
    for n, things in groups["axial"].items():
        content = files[f"labelbox_masks/ct/axial/{n}.png"]
        assert isinstance(content, bytes)
        pixels = np.asarray(Image.open(io.BytesIO(content)))
        for thing in things:
            (color,) = {c for c, name in colors.items() if name == {"a": "label_1", "b": "label_2"}[thing.feature]}
            np.testing.assert_array_equal((pixels == color).all(axis=2), thing.mask)


def test_boxes_are_closed_lines_to_it() -> None:
    voxels = np.zeros((12, 10, 8), np.uint8)
    voxels[2:5, 3:7, 2] = 1
    grid = Grid(voxels.shape, np.diag([-0.5, -0.75, 2.0, 1.0]))
    rows = find_components(voxels, "axial")
    found = Findings("ct", Plane("axial", grid.shape), grid, rows, "slice", np.arange(8), "", "")
    writer = LabelboxImport({"ct": ROW}, lambda one: GroupPlane.of(one.plane.view, grid, Options(), 1))
    text = next(content for name, content in writer.case_files(found, None) if name.endswith(".ndjson"))
    assert isinstance(text, str)
    (one,) = read_by_it([json.loads(line) for line in text.splitlines()])
    (common,) = one.to_common(one.name, None)
    assert common.frame == 3
    points = [(p.x, p.y) for p in common.value.points]
    assert len(points) == 5
    assert points[0] == points[-1]
    assert {(int(x), int(y)) for x, y in points} == {(2, 3), (4, 3), (4, 6), (2, 6)}
