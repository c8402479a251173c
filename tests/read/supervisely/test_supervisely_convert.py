"""``voxtract convert`` from every layout into the others and back: the same volumes, objects, classes, colours, scores.

What a tree says is put down by hand beside its files; what is read from each output is compared with that.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

import voxtract
from tests.read.supervisely.trees import RAS, image, nifti, plant
from voxtract.classes import color_of
from voxtract.cli import main
from voxtract.geometry import View
from voxtract.model import Case, Source
from voxtract.phantoms import CLASSES, make_data_set

SHAPE = (7, 6, 5)
LPS = np.array([[-1.0, 0, 0, 10], [0, -2, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1]])  # the far corner in RAS: 4, 10, -30
IN_RAS = np.array([[1.0, 0, 0, 4], [0, 2, 0, 10], [0, 0, 3, -30], [0, 0, 0, 1]])
VIEW_OF: dict[str, View] = {"axl": "axial", "cor": "coronal", "sag": "sagittal"}
COLORS = "1 left lung 255 0 0\n2 nodule, large 0 128 255\n5 Vertebra 12 16 32 48\n"
MAPPED = {1: ("left lung", "#ff0000"), 2: ("nodule, large", "#0080ff"), 5: ("Vertebra 12", "#102030")}

Scores = frozenset[tuple[View, int, float]]
Thing = tuple[str, str, int, bytes, Scores]  # class, colour, value, mask on the RAS grid, scores of RAS slices


@dataclass(frozen=True)
class Said:
    """What is known of one case."""

    image: bytes | None
    views: tuple[View, ...] | None
    things: frozenset[Thing]


def blobs(*values: int, dtype: str = "u1") -> NDArray[Any]:
    """Two pieces of each value, stored along L, P, S; values do not touch."""
    data = np.zeros(SHAPE, dtype)
    for i, value in enumerate(values):
        data[1 + 2 * i : 3 + 2 * i - 1, 0:2, i : i + 2] = value
        data[1 + 2 * i, 4, 4 - i] = value
    return data


def ras(data: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(nib.as_closest_canonical(nib.Nifti1Image(data.astype("i8"), LPS, dtype="i8")).dataobj)


def things(name: str, color: str, data: NDArray[Any], scores: Scores = frozenset()) -> set[Thing]:
    """An object for each value."""
    voxels = ras(data)
    return {
        (name, color, value, np.packbits(voxels == value).tobytes(), scores)
        for value in np.unique(data[data > 0]).tolist()
    }


def of_case(voxels: NDArray[Any] | None, views: tuple[View, ...] | None, *found: set[Thing]) -> Said:
    return Said(None if voxels is None else ras(voxels).tobytes(), views, frozenset().union(*found))


def said_by(source: Source) -> dict[str, Said]:
    return {case.id: _said(case, source) for case in source.cases}


def _said(case: Case, source: Source) -> Said:
    found: set[Thing] = set()
    assert source.classes is not None
    for labels in case.labels:
        volume = labels.file.read()
        np.testing.assert_allclose(volume.header.grid.affine, IN_RAS, atol=1e-9)
        for value in np.unique(volume.data[volume.data > 0]).tolist():
            number = value if labels.category is None else labels.category
            category = source.classes[number if isinstance(number, int) else number[value]]
            scores: Scores = frozenset(
                (view, index, told[value])
                for view, slices in labels.scores.items()
                for index, told in slices.items()
                if value in told or told.get(value) is not None
            )
            mask = np.packbits(volume.data == value).tobytes()
            found.add((category.name, category.color, value, mask, scores))
    voxels = None
    if case.image is not None:
        volume = case.image.read()
        np.testing.assert_allclose(volume.header.grid.affine, IN_RAS, atol=1e-9)
        voxels = volume.data.astype("i8").tobytes()
    return Said(voxels, case.views, frozenset(found))


def run(*words: str | Path, code: int = 0) -> None:
    assert main([*map(str, words), "--quiet"]) == code


def convert(source: Path, out: Path, to: str, *words: str, code: int = 0) -> Path:
    run("convert", source, out, "--to", to, *words, code=code)
    return out


# --- the layouts, and what they say


def by_name(root: Path) -> dict[str, Said]:
    plant(
        root,
        {
            "CT.nii.gz": image(1, SHAPE), "CT/lung.nii.gz": blobs(1, 2), "CT/left lung.lower.nii.gz": blobs(3),
            "MR.nii.gz": image(2, SHAPE), "MR/lung.nii.gz": blobs(0, 300, dtype="u2"), "PET.nii.gz": image(3, SHAPE),
        },
        LPS,
    )  # fmt: skip
    return {
        "CT": of_case(
            image(1, SHAPE),
            None,
            things("lung", color_of(2), blobs(1, 2)),
            things("left lung.lower", color_of(1), blobs(3)),
        ),
        "MR": of_case(image(2, SHAPE), None, things("lung", color_of(2), blobs(0, 300, dtype="u2"))),
        "PET": of_case(image(3, SHAPE), None),
    }


def semantic(root: Path) -> dict[str, Said]:
    plant(
        root,
        {f"p1/{plane}_anatomic.nii.gz": image(1, SHAPE) for plane in VIEW_OF}
        | {f"p1/{plane}_inference.nii.gz": blobs(1, 2, 5) for plane in VIEW_OF}
        | {f"p1/{plane}_score.csv": "Layer,Label-1,Label-5\n1,0.8,\n3,,0.123456789\n5,0.5,1\n" for plane in VIEW_OF},
        LPS,
    )
    plant(root, {"color_map.txt": COLORS})
    found = {}
    for plane, view in VIEW_OF.items():
        scores: dict[int, Scores] = {
            1: frozenset({(view, 0, 0.8), (view, 4, 0.5)}),
            5: frozenset({(view, 2, 0.123456789), (view, 4, 1.0)}),
        }
        data = blobs(1, 2, 5)
        own = [things(*MAPPED[n], np.where(data == n, data, 0), scores.get(n, frozenset())) for n in MAPPED]
        found[f"p1_{plane}_anatomic"] = of_case(image(1, SHAPE), (view,), *own)
    return found


def instance(root: Path) -> dict[str, Said]:
    plant(
        root,
        {
            **{f"p1/{plane}_anatomic.nii.gz": image(1, SHAPE) for plane in VIEW_OF},
            **{f"p1/{plane}_inference_1.nii.gz": blobs(1, 2) for plane in VIEW_OF},
            **{f"p1/{plane}_inference_2.nii.gz": blobs(0, 0, 7) for plane in VIEW_OF},
            "p1/axl_score.csv": "Layer,Label-1\n2,0.25\n",
        },
        LPS,
    )
    plant(root, {"color_map.txt": COLORS})
    scores = {"axl": frozenset({(VIEW_OF["axl"], 1, 0.25)})}
    return {
        f"p1_{plane}_anatomic": of_case(
            image(1, SHAPE),
            (view,),
            things(*MAPPED[1], blobs(1, 2), scores.get(plane, frozenset())),
            things(*MAPPED[2], blobs(0, 0, 7)),
        )
        for plane, view in VIEW_OF.items()
    }


# --- there and back


def test_by_name_to_a_project_and_back(tmp_path: Path) -> None:
    expected = by_name(tmp_path / "in")
    project = convert(tmp_path / "in", tmp_path / "project", "supervisely", "--from", "supervisely")
    folders = convert(project, tmp_path / "folders", "supervisely-nifti", "--from", "supervisely")
    again = convert(folders, tmp_path / "again", "supervisely")
    for place in (tmp_path / "in", project, folders, again):
        source = voxtract.open_source(place)
        assert said_by(source) == expected
        assert (source.skipped, source.remarks) == ((), ())
    assert (again / "meta.json").read_bytes() == (project / "meta.json").read_bytes()
    for path in (path for path in (tmp_path / "in").rglob("*") if path.is_file()):
        there = nib.nifti1.load(folders / path.relative_to(tmp_path / "in"))
        turned = nib.as_closest_canonical(nib.nifti1.load(path))
        np.testing.assert_array_equal(np.asarray(there.dataobj), np.asarray(turned.dataobj))
        assert there.get_data_dtype() == turned.get_data_dtype()
        np.testing.assert_array_equal(there.affine, turned.affine)


def test_by_name_semantic_keeps_classes_and_no_objects(tmp_path: Path) -> None:
    by_name(tmp_path / "in")
    project = convert(tmp_path / "in", tmp_path / "project", "supervisely")
    folders = convert(project, tmp_path / "folders", "supervisely-nifti", "--with", "kept=semantic")
    for name, data in (("lung", blobs(1, 1)), ("left lung.lower", blobs(1))):
        there = nib.nifti1.load(folders / "CT" / f"{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(there.dataobj), ras(data))


@pytest.mark.parametrize("tree", [semantic, instance])
def test_by_plane_to_a_project_and_back(tmp_path: Path, tree: Any) -> None:
    """Scores of the same slices, in a table that counts from 1 again."""
    expected = tree(tmp_path / "in")
    project = convert(tmp_path / "in", tmp_path / "project", "supervisely")
    folders = convert(project, tmp_path / "folders", "supervisely-nifti", "--with", "by=plane")
    again = convert(folders, tmp_path / "again", "supervisely")
    for place in (tmp_path / "in", project, folders, again):
        source = voxtract.open_source(place)
        assert said_by(source) == expected
        flipped = [one.message.startswith("score frames flipped: ") for one in source.remarks]
        assert source.skipped == ()
        assert flipped == ([True] * 2 if (place.name, tree) == ("in", semantic) else [])
    assert (folders / "color_map.txt").read_text() + "\n" == COLORS
    if tree is semantic:
        table = (folders / "p1/axl_score.csv").read_text()
        assert table == "Layer,Label-1,Label-5\n1,0.8,\n3,,0.123456789\n5,0.5,1.0\n"
        assert sorted(path.name for path in (folders / "p1").glob("axl*")) == [
            "axl_anatomic.nii.gz", "axl_inference.nii.gz", "axl_score.csv"
        ]  # fmt: skip


def test_by_plane_by_class_and_back(tmp_path: Path) -> None:
    """Names of planes among files by class: views, numbers and colours stay; scores have no place, which is told."""
    expected = semantic(tmp_path / "in")
    out = tmp_path / "refused"
    convert(tmp_path / "in", out, "supervisely-nifti", code=1)
    assert [path.name for path in out.rglob("*.nii.gz")] == []
    folders = convert(tmp_path / "in", tmp_path / "folders", "supervisely-nifti", "--with", "lossy=true")
    assert (folders / "p1_axl_anatomic/left lung.nii.gz").is_file()
    source = voxtract.open_source(folders)
    assert source.description.endswith(": Supervisely, by volume name")
    assert (source.skipped, source.remarks) == ((), ())
    assert said_by(source) == {
        case: replace(one, things=frozenset((*thing[:4], frozenset()) for thing in one.things))
        for case, one in expected.items()
    }
    planes = convert(folders, tmp_path / "planes", "supervisely-nifti", "--with", "by=plane")
    assert said_by(voxtract.open_source(planes)) == said_by(source)


def test_annotations_alone_and_back(tmp_path: Path) -> None:
    """Labels of volumes that a table tells; a project and planes hold them without volumes."""
    expected = {case: replace(one, image=None) for case, one in semantic(tmp_path / "in").items()}
    for path in (tmp_path / "in/p1").glob("*anatomic*"):
        path.unlink()
    rows = [
        {"dataset": "p1", "name": f"{plane}_anatomic.nrrd", "shape": SHAPE, "affine": LPS.ravel().tolist()}
        for plane in VIEW_OF
    ]
    (tmp_path / "volumes.json").write_text(json.dumps(rows))
    words = ("--from", "supervisely", "--set", f"volumes={tmp_path / 'volumes.json'}")
    project = convert(tmp_path / "in", tmp_path / "project", "supervisely", *words)
    folders = convert(project, tmp_path / "folders", "supervisely-nifti", "--with", "by=plane")
    assert said_by(voxtract.open_source(tmp_path / "in", format="supervisely", volumes=rows)) == expected
    assert said_by(voxtract.open_source(project)) == expected
    assert said_by(voxtract.open_source(folders, format="supervisely", volumes=rows)) == expected
    again = convert(folders, tmp_path / "again", "supervisely", *words)
    for path in project.rglob("*.json"):
        assert path.read_bytes() == (again / path.relative_to(project)).read_bytes()


def test_an_archive_is_converted_like_its_folder(tmp_path: Path) -> None:
    expected = semantic(tmp_path / "in")
    archive = Path(shutil.make_archive(str(tmp_path / "sent"), "zip", tmp_path / "in"))
    project = convert(archive, tmp_path / "project", "supervisely")
    assert said_by(voxtract.open_source(project)) == expected
    packed = Path(shutil.make_archive(str(tmp_path / "project-sent"), "gztar", project))
    folders = convert(packed, tmp_path / "folders", "supervisely-nifti", "--with", "by=plane")
    assert said_by(voxtract.open_source(folders)) == expected


def test_to_plain_nifti_and_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Names and colours go through ``classes.json``; scores have no place, which is told."""
    expected = semantic(tmp_path / "in")
    pairs = convert(tmp_path / "in", tmp_path / "pairs", "nifti", "--from", "supervisely")
    assert capfd.readouterr().err.count("scores have no place in NIfTI; left out") == 3
    told = json.loads((pairs / "classes.json").read_text())
    words = ("--from", "nifti", "--with", f"class_map={json.dumps(told)}")
    project = convert(pairs, tmp_path / "project", "supervisely", *words)
    assert said_by(voxtract.open_source(project)) == {
        case: replace(one, things=frozenset((*thing[:4], frozenset()) for thing in one.things))
        for case, one in expected.items()
    }


def test_plain_pairs_become_supervisely_with_names(tmp_path: Path) -> None:
    nifti(tmp_path / "in/images/a.nii.gz", image(0, SHAPE), LPS)
    nifti(tmp_path / "in/labels/a.nii.gz", blobs(1, 2), LPS)
    named = {1: {"name": "liver", "color": "#112233"}, "#": "other {}"}
    voxtract.convert(tmp_path / "in", tmp_path / "out", "supervisely", class_map=named, progress=False)
    data = blobs(1, 2)
    assert said_by(voxtract.open_source(tmp_path / "out")) == {
        "a": of_case(
            image(0, SHAPE),
            None,
            things("liver", "#112233", np.where(data == 1, data, 0)),
            things("other 2", color_of(2), np.where(data == 2, data, 0)),
        )
    }
    report = voxtract.convert(tmp_path / "in", tmp_path / "x", "supervisely", class_map={1: "liver"}, progress=False)
    assert "label values 2 are in no class; the class map has 1" in str(report.failed[0].error)


def test_to_coco_with_names_colours_and_scores(tmp_path: Path) -> None:
    semantic(tmp_path / "in")
    out = convert(tmp_path / "in", tmp_path / "coco", "coco", "--from", "supervisely")
    told = json.loads((out / "coco.json").read_text())
    assert {(one["id"], one["name"], one["color"]) for one in told["categories"]} == {
        (n, name, color) for n, (name, color) in MAPPED.items()
    }
    views = {Path(one["file_name"]).parts[-2] for one in told["images"]}
    assert views == set(VIEW_OF.values())
    images = {one["id"]: one["file_name"] for one in told["images"]}
    first = [one for one in told["annotations"] if images[one["image_id"]].endswith("axial_000.tif")]
    assert {(one["category_id"], one.get("score")) for one in first} == {(1, 0.8)}


def test_lesions_of_phantoms_are_where_the_formula_has_them(tmp_path: Path) -> None:
    """Stored along L, P, S and along A, S, L; through a project and files by class, into 3D boxes on the RAS grid."""
    data = make_data_set(tmp_path / "data")
    named = json.dumps({str(n): name for n, name in CLASSES.items()})
    project = convert(tmp_path / "data", tmp_path / "project", "supervisely", "--with", f"class_map={named}")
    folders = convert(project, tmp_path / "folders", "supervisely-nifti")
    source = voxtract.open_source(folders)
    words: dict[str, Any] = {"images": None, "extraction_mode": "volume", "data_mode": "box", "progress": False}
    rows = voxtract.extract(source, tmp_path / "out", **words).components
    for phantom, case in zip(data.cases, source.cases, strict=True):
        if not phantom.lesions:  # the scan, whose truth is not known
            continue
        assert case.image is not None
        affine = case.image.header().grid.affine
        boxes = [(CLASSES[lesion.label], lesion.box(affine)) for lesion in phantom.lesions]
        expected = {(name, *box.start, *(n - 1 for n in box.stop)) for name, box in boxes}
        own = rows[rows["CASE"] == phantom.id]
        columns = ("CLASS", "Y_MIN", "X_MIN", "Z_MIN", "Y_MAX", "X_MAX", "Z_MAX")  # an image is [x, y]
        assert set(zip(*(own[name] for name in columns), strict=True)) == expected


# --- what to do about faults


def test_exit_codes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """0: all is well; 1: something is told and --strict was given, or a case failed; 2: nothing can be done."""
    plant(tmp_path / "in", {"CT.nii.gz": image(), "CT/lung.nii.gz": image() * 0 + 1, "notes.txt": "hello"}, RAS)
    convert(tmp_path / "in", tmp_path / "a", "supervisely")
    convert(tmp_path / "in", tmp_path / "b", "supervisely", "--strict", code=1)
    run("extract", tmp_path / "in", tmp_path / "c", "--strict", code=1)
    convert(tmp_path / "in", tmp_path / "d", "supervisely", "--set", "strict=true", code=2)
    assert not (tmp_path / "d").exists()
    capfd.readouterr()
    run("inspect", tmp_path / "in")
    assert "notes.txt: is a text; classes here are named by files" in capfd.readouterr().out
    plant(tmp_path / "in", {"MR.nii.gz": image(), "MR/lung.nii.gz": image(shape=(3, 3, 3))}, RAS)
    run("inspect", tmp_path / "in", "--read", "headers", code=1)
    assert "lies on another grid than its volume" in "".join(capfd.readouterr())
    convert(tmp_path / "in", tmp_path / "e", "supervisely", code=1)
    assert {case.id for case in voxtract.open_source(tmp_path / "e").cases} == {"CT"}
    convert(tmp_path / "in", tmp_path / "f", "supervisely", "--set", "resample_labels=true")
    assert {case.id for case in voxtract.open_source(tmp_path / "f").cases} == {"CT", "MR"}
