"""Annotations without their volumes: matched by name or by a mapping against a table that the user gives."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.read.supervisely.trees import (
    LPS,
    RAS,
    SHAPE,
    case_of,
    image,
    labels,
    plant,
    problem,
    quiet,
    refusal,
    table,
    told,
)
from voxtract.errors import InvalidInput, NotFound
from voxtract.read.supervisely import open_supervisely
from voxtract.read.supervisely.by_table import read_volumes

ONE, MANY = labels(1), labels(1, 2, 5)
P1 = "0c5d2b1e-7c26-4dc5-8d2e-6c0b1f4d9a01_11111111-bbbb-4ccc-8ddd-eeeeeeeeeeee"
P2 = "0c5d2b1e-7c26-4dc5-8d2e-6c0b1f4d9a02_22222222-bbbb-4ccc-8ddd-eeeeeeeeeeee"
PLANES = ("axl", "cor", "sag")


def volume(name: str, number: int, dataset: str = "dataset", **words: Any) -> dict[str, Any]:
    return {"dataset": dataset, "name": f"{name}.nrrd", "id": number, "shape": SHAPE, "affine": RAS.tolist(), **words}


THREE = [volume(f"{plane}_anatomic", 10 + n) for n, plane in enumerate(PLANES)]


# --- the table


def test_a_table_may_be_rows_or_json_or_csv(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text(json.dumps(THREE))
    with (tmp_path / "v.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(THREE[0]))
        writer.writeheader()
        for row in THREE:
            affine = " ".join(map(str, np.ravel(row["affine"])))
            writer.writerow(row | {"shape": "4 x 5 x 6", "affine": affine})
    for given in (THREE, tmp_path / "v.json", str(tmp_path / "v.csv"), reversed(THREE)):
        found = read_volumes(given)
        assert [(one.dataset, one.name, one.id) for one in found] == [
            ("dataset", f"{plane}_anatomic.nrrd", 10 + n) for n, plane in enumerate(PLANES)
        ]
        for one in found:
            assert one.grid is not None
            assert one.grid.shape == SHAPE
            np.testing.assert_array_equal(one.grid.affine, RAS)


def test_the_last_row_of_an_affine_may_be_missing() -> None:
    (found,) = read_volumes([volume("axl_anatomic", 1, affine=RAS[:3].tolist())])
    assert found.grid is not None
    np.testing.assert_array_equal(found.grid.affine, RAS)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "volumes: names no volume"),
        ([{"dataset": "a", "id": 1}], "volumes: row 1: has no name; found ['dataset', 'id']"),
        ([volume("a", 1), volume("b", 1)], "volumes: id 1 is there twice"),
        ([volume("a", "one")], "volumes: row 1: id 'one' is no whole number"),  # type: ignore[arg-type]
        ([volume("a", 1, shape=(4, 5))], "volumes: row 1: shape has 2 numbers, expected 3"),
        ([volume("a", 1, shape="four")], "volumes: row 1: shape 'four' is not made of numbers"),
        ([volume("a", 1, shape=(4, 5, 0))], "volumes: row 1: shape [4.0, 5.0, 0.0] must be three whole numbers"),
        ([volume("a", 1, affine=None)], "volumes: row 1: has a shape or an affine, but not the other"),
        ([volume("a", 1, affine=[1] * 9)], "volumes: row 1: affine has 9 numbers, expected 12 or 16"),
        ([volume("a", 1, affine=[float("nan")] * 16)], "volumes: row 1: shape"),
    ],
)
def test_a_bad_table_is_told_with_its_row(rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_volumes(rows)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("content", ["", "{}", "[1]", "no JSON"])
def test_a_table_of_another_form(tmp_path: Path, content: str) -> None:
    (tmp_path / "v.json").write_text(content)
    with pytest.raises(InvalidInput, match=r"^.*v.json: "):
        read_volumes(tmp_path / "v.json")
    with pytest.raises(NotFound, match="no such table of volumes"):
        read_volumes(tmp_path / "none.csv")


# --- by name


def test_labels_find_the_volume_of_their_plane(tmp_path: Path) -> None:
    files = {f"{plane}_inference.nii.gz": MANY for plane in PLANES}
    files |= {"color_map.txt": "1 a 1 1 1\n2 b 1 1 1\n5 c 1 1 1", "axl_score.csv": "Layer,Label-5\n2,0.5"}  # type: ignore[dict-item]
    source = quiet(open_supervisely(plant(tmp_path, files), volumes=THREE))
    assert table(source, tmp_path) == {
        f"dataset_{plane}_anatomic": (None, {f"{plane}_inference.nii.gz": None}) for plane in PLANES
    }
    assert {case.views for case in source.cases} == {("axial",), ("coronal",), ("sagittal",)}
    assert case_of(source, "dataset_axl_anatomic").labels[0].scores == {"axial": {1: {5: 0.5}}}
    assert source.classes is not None
    assert len(source.classes.categories) == 3
    assert {one.why for one in source.matches if one.role == "labels"} == {
        "each value a class; is called like the volume but for the word that says labels"
    }


def test_files_with_numbers_are_classes(tmp_path: Path) -> None:
    plant(tmp_path, {"axl_inference_1.nii": MANY, "axl_inference_3.nii": ONE, "cor_inference_3.nii": MANY})
    source = quiet(open_supervisely(tmp_path, volumes=THREE))
    assert {name: set(masks.values()) for name, (_, masks) in table(source, tmp_path).items()} == {
        "dataset_axl_anatomic": {1, 3},
        "dataset_cor_anatomic": {None},  # the only one
    }


def test_a_score_table_does_not_make_a_file_a_class(tmp_path: Path) -> None:
    plant(tmp_path, {"axl_inference_1.nii": MANY, "axl_score_1.csv": "Layer,Label-2\n1,1"})
    (case,) = quiet(open_supervisely(tmp_path, volumes=THREE)).cases
    assert (case.labels[0].category, case.labels[0].scores) == (None, {"axial": {0: {2: 1.0}}})


def test_a_file_without_a_number_among_others_is_semantic_with_a_remark(tmp_path: Path) -> None:
    plant(tmp_path, {"axl_inference.nii": MANY, "axl_inference_3.nii": ONE})
    source = open_supervisely(tmp_path, volumes=THREE)
    assert [one.category for one in source.cases[0].labels] == [None, 3]
    (remark,) = source.remarks
    assert remark.message.startswith("mixed mode: ")


def test_uuids_find_their_own_volume_only(tmp_path: Path) -> None:
    plant(tmp_path, {f"{P1}_axl_inference_2.nii": ONE, f"{P2}_axl_inference.nii": ONE, "cor_mask.nii": ONE})
    volumes = [volume(f"{P1}_axl_anatomic", 1), volume("axl_anatomic", 2), volume(f"{P1}_cor_anatomic", 3)]
    source = open_supervisely(tmp_path, volumes=volumes)
    assert set(table(source, tmp_path)[f"dataset_{P1}_axl_anatomic"][1]) == {f"{P1}_axl_inference_2.nii"}
    message = problem(source, f"{P2}_axl_inference")
    assert "no volume of plane axl has its UUIDs" in message
    assert "belongs to another patient" in message
    assert "no volume of plane cor is in the table without UUIDs (1 have some, which its name lacks)" in problem(
        source, "cor_mask"
    )


def test_several_volumes_that_fit_are_an_error(tmp_path: Path) -> None:
    plant(tmp_path, {"axl_inference.nii": ONE, "cor_mask.nii": ONE})
    volumes = [volume("a_axl_anatomic", 1), volume("b_axl_anatomic", 2), THREE[1]]
    source = open_supervisely(tmp_path, volumes=volumes)
    assert problem(source, "axl_inference") == (
        f"{tmp_path}/axl_inference.nii: 2 volumes fit it (has the plane of the volume): dataset/a_axl_anatomic.nrrd, "
        "dataset/b_axl_anatomic.nrrd; a JSON mapping can say which"
    )
    assert set(table(source, tmp_path)) == {"axl_inference", "dataset_cor_anatomic"}


def test_the_name_decides_before_the_plane(tmp_path: Path) -> None:
    plant(tmp_path, {"b_axl_inference.nii": ONE})
    source = open_supervisely(tmp_path, volumes=[volume("a_axl_anatomic", 1), volume("b_axl_anatomic", 2)])
    assert set(table(source, tmp_path)) == {"dataset_b_axl_anatomic"}


def test_the_folder_is_the_data_set_where_there_are_several(tmp_path: Path) -> None:
    """The document's own example: the same file names in each folder."""
    files = {
        f"{folder}/cor_inference_1.nii": labels(n) for n, folder in enumerate(("dataset1", "dataset2", "other"), 1)
    }
    volumes = [volume("cor_anatomic", n, f"dataset{n}") for n in (1, 2)]
    source = open_supervisely(plant(tmp_path, files), volumes=volumes)
    for n in (1, 2):
        (found,) = case_of(source, f"dataset{n}_cor_anatomic").labels
        np.testing.assert_array_equal(found.file.read().data, labels(n))
    assert problem(source, "other_cor_inference_1").endswith(
        "no data set is called like its folder; there are dataset1, dataset2"
    )


def test_nested_data_sets_and_a_single_folder(tmp_path: Path) -> None:
    plant(tmp_path, {"up/down/cor_mask.nii": ONE})
    volumes = [volume("cor_anatomic", 1, "up/down"), volume("cor_anatomic", 2, "down/up")]
    assert set(table(open_supervisely(tmp_path, volumes=volumes), tmp_path)) == {"up_down_cor_anatomic"}


def test_a_data_set_can_be_chosen_for_all_files(tmp_path: Path) -> None:
    plant(tmp_path, {"a/cor_mask.nii": ONE, "b/axl_mask.nii": ONE})
    volumes = [*THREE, volume("cor_anatomic", 1, "other"), volume("axl_anatomic", 2, "other")]
    source = quiet(open_supervisely(tmp_path, volumes=volumes, dataset="other"))
    assert set(table(source, tmp_path)) == {"other_axl_anatomic", "other_cor_anatomic"}
    assert "data set 'none'" not in refusal(InvalidInput, tmp_path, volumes=volumes, dataset="none")
    assert "dataset 'none' is not in the table of volumes; it has dataset, other" in refusal(
        InvalidInput, tmp_path, volumes=volumes, dataset="none"
    )


def test_all_folders_count_for_a_single_data_set(tmp_path: Path) -> None:
    plant(tmp_path, {"x/cor_mask.nii": ONE, "y/deep/axl_mask.nii": ONE})
    assert len(quiet(open_supervisely(tmp_path, volumes=THREE)).cases) == 2


# --- by a mapping


def test_a_mapping_replaces_names(tmp_path: Path) -> None:
    mapping = {"cor_inference_1.nii": 11, "a/axl_x_mask.nii": "10", "b/axl_x_mask.nii": 20}
    files: dict[str, Any] = {
        "a/axl_x_mask.nii": labels(1), "b/axl_x_mask.nii": labels(2), "c/cor_inference_1.nii": labels(3),
        "d/sag_mask.nii": ONE, "map.json": json.dumps(mapping),
    }  # fmt: skip
    source = open_supervisely(plant(tmp_path, files), volumes=[*THREE, volume("axl_anatomic", 20, "other")])
    assert {name: set(masks) for name, (_, masks) in table(source, tmp_path).items()} == {
        "dataset_axl_anatomic": {"a/axl_x_mask.nii"},
        "dataset_cor_anatomic": {"c/cor_inference_1.nii"},
        "other_axl_anatomic": {"b/axl_x_mask.nii"},
    }
    assert told(source, tmp_path) == ({"d/sag_mask.nii": ["is not named in map.json"]}, {})
    assert source.matches[0].why == "each value a class; map.json sends it to volume 10"


def test_several_files_may_go_to_one_volume(tmp_path: Path) -> None:
    mapping = {"axl_mask_1.nii": 10, "x_axl_mask_2.nii": 10}
    plant(tmp_path, {"axl_mask_1.nii": ONE, "x_axl_mask_2.nii": ONE, "m.json": json.dumps(mapping)})
    assert [one.category for one in quiet(open_supervisely(tmp_path, volumes=THREE)).cases[0].labels] == [1, 2]


def test_a_short_key_means_the_file_that_no_longer_key_names(tmp_path: Path) -> None:
    mapping = {"axl_mask.nii": 10, "b/axl_mask.nii": 20}
    plant(tmp_path, {"a/axl_mask.nii": ONE, "b/axl_mask.nii": ONE, "m.json": json.dumps(mapping)})
    source = quiet(open_supervisely(tmp_path, volumes=[*THREE, volume("axl_anatomic", 20, "b")]))
    assert {name: set(masks) for name, (_, masks) in table(source, tmp_path).items()} == {
        "dataset_axl_anatomic": {"a/axl_mask.nii"},
        "b_axl_anatomic": {"b/axl_mask.nii"},
    }


def test_what_a_mapping_names_and_is_not_there_is_a_case_that_fails(tmp_path: Path) -> None:
    mapping = {"axl_mask.nii": 10, "cor_mask.nii": 99, "gone.nii": 10, "twice.nii": 10, "x/axl_mask.nii": 11}
    plant(
        tmp_path,
        {
            "x/axl_mask.nii": ONE, "cor_mask.nii": ONE, "a/twice.nii": ONE, "b/twice.nii": ONE, "sag_mask.nii": ONE,
            "y/axl_mask.nii": ONE, "m.json": json.dumps(mapping),
        },
    )  # fmt: skip
    source = open_supervisely(tmp_path, volumes=THREE)
    assert "sends 'cor_mask.nii' to volume 99, which the table of volumes does not have" in problem(source, "cor_mask")
    assert "names 'gone.nii', but there is no such file" in problem(source, "gone")
    assert "names 'twice.nii', but 2 files are: a/twice.nii, b/twice.nii" in problem(source, "twice")
    assert "is of plane axl, but its mapping sends it to dataset/cor_anatomic.nrrd" in str(source.remarks)
    assert {name for name, (_, masks) in table(source, tmp_path).items() if masks != {"m.json": None}} == {
        "dataset_axl_anatomic",
        "dataset_cor_anatomic",
    }


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"a.nii": "x1"}', '{"a.nii": 1.5}', '{"a.nii": true}', '{"a.nii": 1, "a.nii": 2}', '"x"'],
)
def test_a_bad_mapping_is_told(tmp_path: Path, content: str) -> None:
    plant(tmp_path, {"axl_mask.nii": ONE, "m.json": content})
    assert refusal(InvalidInput, tmp_path, volumes=THREE).startswith(f"{tmp_path}/m.json: ")


def test_two_mappings_and_a_mapping_without_a_table(tmp_path: Path) -> None:
    plant(tmp_path, {"axl_mask.nii": ONE, "a.json": '{"axl_mask.nii": 10}'})
    assert "so volumes= must say which they are" in refusal(InvalidInput, tmp_path)
    plant(tmp_path, {"b.json": '{"axl_mask.nii": 10}'})
    assert "two mappings; keep one" in refusal(InvalidInput, tmp_path, volumes=THREE)


# --- where they lie


def test_labels_are_compared_with_the_volume_after_turning(tmp_path: Path) -> None:
    plant(tmp_path, {"axl_mask.nii": MANY}, LPS)
    placed = LPS @ np.array([[-1.0, 0, 0, 3], [0, -1, 0, 4], [0, 0, 1, 0], [0, 0, 0, 1]])  # the same place, in RAS
    (case,) = quiet(open_supervisely(tmp_path, volumes=[volume("axl_anatomic", 1, affine=placed.tolist())])).cases
    np.testing.assert_array_equal(case.labels[0].file.read().data, MANY[::-1, ::-1])
    message = refusal(InvalidInput, tmp_path, volumes=THREE)
    assert (
        "lies on another grid than its volume dataset/axl_anatomic.nrrd: origin (-3, -8, 0) instead of (0, 0, 0)"
        in message
    )


def test_a_table_without_places_checks_nothing_but_that_labels_agree(tmp_path: Path) -> None:
    rows = [{"dataset": "d", "name": "axl_anatomic.nrrd", "id": 1}]
    plant(tmp_path, {"axl_mask_1.nii": ONE, "axl_mask_2.nii": ONE})
    assert len(quiet(open_supervisely(tmp_path, volumes=rows)).cases[0].labels) == 2
    plant(tmp_path, {"axl_mask_2.nii": labels(1, shape=(4, 5, 7))})
    assert "axl_mask_2.nii: lies on another grid" in refusal(InvalidInput, tmp_path, volumes=rows)


def test_without_a_table_labels_of_a_folder_and_plane_are_one_case_with_a_remark(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "a/axl_mask_1.nii": ONE,
            "a/axl_mask_2.nii": ONE,
            "a/axl_score.csv": "Layer,Label-2\n1,1",
            "cor_mask.nii": ONE,
        },
    )
    source = open_supervisely(tmp_path)
    assert source.description.endswith("annotations of volumes that lie elsewhere")
    assert table(source, tmp_path) == {
        "a_axl": (None, {"a/axl_mask_1.nii": 1, "a/axl_mask_2.nii": 2}),
        "cor": (None, {"cor_mask.nii": None}),
    }
    assert case_of(source, "a_axl").labels[1].scores["axial"][0].get(1) == 1.0
    assert {remark.message for remark in source.remarks} == {
        "its volume is not known, so its place cannot be checked; volumes= tells"
    }


def test_nothing_called_like_labels(tmp_path: Path) -> None:
    plant(tmp_path, {"CT.nii": image()})
    assert "no file is called like labels of a plane" in refusal(InvalidInput, tmp_path, layout="annotations")


def test_what_is_not_labels_of_a_plane_is_told(tmp_path: Path) -> None:
    plant(
        tmp_path, {"axl_mask.nii": ONE, "mask.nii": ONE, "axl_anatomic.nii": ONE, "cor_score.csv": "Layer,Label-1\n1,1"}
    )
    assert told(open_supervisely(tmp_path, volumes=THREE, layout="annotations"), tmp_path)[0] == {
        "mask.nii": ["its name has no plane; expected 'axl', 'cor' or 'sag', parted from the rest by _"],
        "axl_anatomic.nii": ["is called like a volume, but only labels are read here"],
        "cor_score.csv": ["scores labels, but there are none of its plane in its folder"],
    }
