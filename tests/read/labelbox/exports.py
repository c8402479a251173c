"""One set of annotations, in every container that Labelbox writes it in."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from voxtract.read.labelbox import Issue, LabelboxSource, Row, Tally, open_labelbox, read_rows

SHAPE = (12, 10, 8)
AFFINE = np.diag([-0.5, -0.75, 2.0, 1.0])  # columns to the left, rows to the back: as DICOM stores an axial scan

Points = list[tuple[float, float]]
Mask = NDArray[np.bool_]


@dataclass
class Thing:
    """An object on one frame: a line, or a mask (height, width)."""

    feature: str
    name: str
    line: Points | None = None
    mask: Mask | None = None


Groups = dict[str, dict[int, list[Thing]]]


def disk(size: tuple[int, int], y: float, x: float, radius: float) -> Mask:
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def drawings() -> Groups:
    """Lines and masks in three groups; the masks of two features on axial frame 3 do not overlap."""
    axial, coronal = (10, 12), (8, 12)
    return {
        "axial": {
            2: [Thing("line-a", "vessel", line=[(1.25, 1.5), (6.75, 1.5), (6.75, 7.0)])],
            3: [
                Thing("line-a", "vessel", line=[(1.25, 2.5), (9.125, 2.5)]),
                Thing("mask-a", "lesion", mask=disk(axial, 6, 3, 2)),
                Thing("mask-b", "lesion", mask=disk(axial, 6, 9, 1)),
            ],
            4: [Thing("mask-a", "lesion", mask=disk(axial, 6, 3, 1))],
        },
        "coronal": {5: [Thing("mask-c", "node", mask=disk(coronal, 4, 6, 2))]},
        "sagittal": {1: [Thing("line-s", "vessel", line=[(0.0, 0.0), (3.5, 3.5), (0.0, 3.5), (0.0, 0.0)])]},
    }


def png(pixels: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def color_of(number: int) -> tuple[int, int, int]:
    return (40 * number + 20, 255 - number, number)


@dataclass
class Export:
    """A folder with an export and its masks; masks are named relative to it."""

    folder: Path
    masks: dict[str, str] = field(default_factory=dict)

    def mask(self, group: str, frame: int, thing: Thing) -> str:
        assert thing.mask is not None
        name = f"masks/{group}/{thing.feature}/index/{frame}/mask"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(thing.mask.astype(np.uint8) * 255))
        return name

    def composite(self, group: str, frame: int, things: list[Thing]) -> tuple[str, dict[str, list[int]]]:
        first = next(thing.mask for thing in things if thing.mask is not None)
        pixels = np.zeros((*first.shape, 3), np.uint8)
        colors = {}
        for number, thing in enumerate(things):
            if thing.mask is not None:
                pixels[thing.mask] = color_of(number)
                colors[thing.feature] = list(color_of(number))
        name = f"masks/{group}/index/{frame}"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(pixels))
        return name, colors


def v2_object(thing: Thing, geometry: Mapping[str, Any]) -> dict[str, Any]:
    kind = "DICOMPolyline" if thing.line is not None else "DICOMSegmentationMask"
    return {
        "feature_id": thing.feature,
        "name": thing.name,
        "annotation_kind": kind,
        "classifications": [{"name": "sure", "value": "sure", "radio_answer": {"name": "yes", "value": "yes"}}],
        **geometry,
    }


def line_json(points: Points) -> list[dict[str, float]]:
    return [{"x": x, "y": y} for x, y in points]


def v2_annotations(export: Export, groups: Groups, *, composite: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"groups": {}, "segments": {}, "classifications": [], "key_frame_feature_map": {}}
    for group, frames in groups.items():
        written = {}
        numbers: dict[str, list[int]] = {}
        for frame, things in frames.items():
            url, colors = "", dict[str, list[int]]()
            if composite and any(thing.mask is not None for thing in things):
                url, colors = export.composite(group, frame, things)
            objects = {}
            for thing in things:
                numbers.setdefault(thing.feature, []).append(frame)
                if thing.line is not None:
                    geometry: dict[str, Any] = {"line": line_json(thing.line)}
                elif composite:
                    geometry = {"composite_mask": {"url": url, "color_rgb": colors[thing.feature]}}
                else:
                    geometry = {"mask": {"url": export.mask(group, frame, thing)}}
                objects[thing.feature] = v2_object(thing, geometry)
            written[str(frame)] = {"objects": objects, "classifications": []}
        name = group.capitalize()
        found["groups"][name] = {"name": name, "classifications": [], "frames": written}
        found["segments"][name] = {feature: [[n, n] for n in at] for feature, at in numbers.items()}
        for feature, at in numbers.items():
            found["key_frame_feature_map"].setdefault(feature, {})[name] = {str(n): True for n in at}
    return found


def v2_row(annotations: Any, **more: Any) -> dict[str, Any]:
    """A data row with one label; `more` overrides keys of data_row, label, project."""
    label = {
        "label_kind": "DICOM",
        "version": "1.0.0",
        "id": "label-1",
        "label_details": {"created_at": "2024-05-01T10:00:00.000+00:00", "created_by": "ann@hospital.example"},
        "performance_details": {"seconds_to_create": 10, "skipped": False},
        "annotations": annotations,
    }
    label.update(more.pop("label", {}))
    project = {"name": "chest", "labels": more.pop("labels", [label]), "project_details": {"workflow_status": "DONE"}}
    data_row = {
        "id": "row-1",
        "global_key": "ct-01",
        "external_id": "scan 1",
        "row_data": "https://storage.example/ct-01.dcm?sig=secret",
        "details": {"last_activity_at": "2024-06-01T00:00:00Z", "created_by": "ann@hospital.example"},
    }
    data_row.update(more.pop("data_row", {}))
    return {
        "data_row": data_row,
        "media_attributes": {"mime_type": "application/dicom"},
        "projects": more.pop("projects", {"project-1": project}),
        **more,
    }


def v1_label(export: Export, groups: Groups, how: str) -> dict[str, Any]:
    """A v1 label whose groups name files of frames: as NDJSON, as an array, or as objects one after the other."""
    written = []
    for group, frames in groups.items():
        values = []
        for frame, things in frames.items():
            objects = []
            for thing in things:
                geometry = (
                    {"line": line_json(thing.line)}
                    if thing.line is not None
                    else {"instanceURI": export.mask(group, frame, thing)}
                )
                answer = {"title": "sure", "value": "sure", "answer": {"title": "yes", "value": "yes"}}
                objects.append(
                    {
                        "featureId": thing.feature,
                        "schemaId": "s",
                        "title": thing.name,
                        "value": thing.name,
                        "color": "#ff0000",
                        "keyframe": True,
                        "classifications": [answer],
                        **geometry,
                    }
                )
            values.append({"frameNumber": frame, "classifications": [], "objects": objects, "relationships": []})
        text = {
            "ndjson": "".join(json.dumps(value) + "\n" for value in values),
            "array": json.dumps(values, indent=1),
            "concatenated": "".join(json.dumps(value, indent=2) for value in values),
        }[how]
        (export.folder / f"{group}.frames").write_text(text)
        written.append({"name": group, "objects": [], "classifications": [], "frames": f"{group}.frames"})
    return {
        "ID": "label-1",
        "DataRow ID": "row-1",
        "Labeled Data": "https://storage.example/ct-01.dcm?token=secret",
        "Label": {"objects": [], "classifications": [], "relationships": [], "groups": written},
        "Created By": "ann@hospital.example",
        "Created At": "2024-05-01T10:00:00.000Z",
        "Project Name": "chest",
        "External ID": "ct-01",
        "Agreement": -1,
        "Skipped": False,
        "DataRow Workflow Info": {"taskName": "DONE"},
    }


COMMENT = """// exported by hand, see https://docs.example/export
[
  %s, /* the first */ // and only, it's "true"
"""

CONTAINERS = (
    "v2 array",
    "v2 pretty array",
    "v2 ndjson",
    "v2 one object",
    "v2 concatenated",
    "v2 composite",
    "v2 commented",
    "v1 ndjson",
    "v1 array",
    "v1 concatenated",
)


def write(folder: Path, container: str, groups: Groups | None = None) -> Path:
    """The set of annotations in a container."""
    folder.mkdir(parents=True, exist_ok=True)
    export = Export(folder)
    groups = drawings() if groups is None else groups
    path = folder / "export.json"
    generation, _, form = container.partition(" ")
    if generation == "v1":
        path.write_text(json.dumps([v1_label(export, groups, form)]))
        return path
    value = v2_row(v2_annotations(export, groups, composite=form == "composite"))
    unlabelled = {"data_row": {"id": "row-2"}, "projects": {}}
    text = {
        "array": json.dumps([unlabelled, value]),
        "pretty array": json.dumps([value, unlabelled], indent=2),
        "ndjson": f"{json.dumps(value)}\n\n{json.dumps(unlabelled)}\n",
        "one object": json.dumps(value, indent=4),
        "concatenated": json.dumps(unlabelled, indent=2) + json.dumps(value, indent=2),
        "composite": json.dumps([value]),
        "commented": COMMENT % json.dumps(value, indent=1).replace('"version"', '// https://x "y"\n"version"'),
    }[form]
    path.write_text(text)
    return path


def write_volume(folder: Path, name: str = "ct-01", shape: tuple[int, int, int] = SHAPE, affine: Any = AFFINE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), affine), path)
    return path


def opened(tmp_path: Path, value: Any, **options: Any) -> LabelboxSource:
    """Open data rows as NDJSON in a folder that has the volume ``ct-01``."""
    path = tmp_path / "export.ndjson"
    values = value if isinstance(value, list) else [value]
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in values))
    write_volume(tmp_path / "volumes")
    return open_labelbox(path, volumes=options.pop("volumes", tmp_path / "volumes"), **options)


def parsed(tmp_path: Path, value: Any, **options: Any) -> tuple[list[Row], list[Issue], Tally]:
    """Rows and issues of data rows as NDJSON; text is taken as a line."""
    path = tmp_path / "export.ndjson"
    values = value if isinstance(value, list) else [value]
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in values))
    tally = Tally()
    rows = list(read_rows(path, tally, **options))
    return rows, tally.issues, tally


def codes(issues: Any) -> list[str]:
    return [issue.code for issue in issues]
