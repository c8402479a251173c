"""Layout "by plane": volumes, labels, colour maps and score tables of one folder, and what is told of the rest."""

from __future__ import annotations

import itertools
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.read.supervisely.trees import LPS, case_of, image, labels, plant, problem, quiet, table, told
from voxtract.errors import InvalidInput
from voxtract.model import LabelVolume, Source
from voxtract.read.supervisely import open_supervisely
from voxtract.read.supervisely.colors import NAMED

CT, ONE, MANY = image(), labels(1), labels(1, 2, 5)
VIEWS = {"axl": "axial", "cor": "coronal", "sag": "sagittal"}
P1 = "0c5d2b1e-7c26-4dc5-8d2e-6c0b1f4d9a01_11111111-bbbb-4ccc-8ddd-eeeeeeeeeeee"
P2 = "0c5d2b1e-7c26-4dc5-8d2e-6c0b1f4d9a02_22222222-bbbb-4ccc-8ddd-eeeeeeeeeeee"

Files = dict[str, NDArray[Any] | str | bytes]


def planes(folder: str = "") -> Files:
    return {f"{folder}{plane}_anatomic.nii.gz": CT for plane in VIEWS}


def names(source: Source) -> dict[int, str]:
    return {} if source.classes is None else {one.id: one.name for one in source.classes.categories}


def of(source: Source, case_id: str) -> dict[str, LabelVolume]:
    return {one.name: one for one in case_of(source, case_id).labels}


# --- the examples of the document


def test_semantic(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            **planes(),
            **{f"{plane}_inference.nii.gz": MANY for plane in VIEWS},
            "cls_color_map.txt": "1 left femur 255 0 0\n2 right femur 0 255 0\n5 Vertebra 12 0 0 255",
        },
    )
    source = quiet(open_supervisely(tmp_path))
    assert table(source, tmp_path) == {
        f"{plane}_anatomic": (f"{plane}_anatomic.nii.gz", {f"{plane}_inference.nii.gz": None}) for plane in VIEWS
    }
    assert {case.id[:3]: case.views for case in source.cases} == {plane: (view,) for plane, view in VIEWS.items()}
    assert names(source) == {1: "left femur", 2: "right femur", 5: "Vertebra 12"}
    assert source.classes is not None
    assert source.classes[5].color == "#0000ff"
    assert of(source, "axl_anatomic")["axl_inference"].views is None
    assert source.description.endswith(": Supervisely, by plane")


def test_instance(tmp_path: Path) -> None:
    """The document's example, in which sag has one file: by the rule it is semantic, and that is told."""
    plant(
        tmp_path,
        {
            **planes(),
            "axl_inference_1.nii.gz": MANY,
            "axl_inference_2.nii.gz": ONE,
            "cor_inference_1.nii.gz": MANY,
            "cor_inference_3.nii.gz": ONE,
            "sag_inference_1.nii.gz": MANY,
        },
    )
    source = open_supervisely(tmp_path)
    assert [one.category for one in case_of(source, "axl_anatomic").labels] == [1, 2]
    assert [one.category for one in case_of(source, "cor_anatomic").labels] == [1, 3]
    assert [one.category for one in case_of(source, "sag_anatomic").labels] == [None]
    assert names(source) == {1: "Segment_1", 2: "Segment_2", 3: "Segment_3"}
    skipped, remarks = told(source, tmp_path)
    assert skipped == {}
    assert list(remarks) == ["sag_inference_1.nii.gz"]
    assert remarks["sag_inference_1.nii.gz"][0].startswith("mixed mode: ")
    same = open_supervisely(tmp_path, mode="instance")
    assert [one.category for one in case_of(same, "sag_anatomic").labels] == [1]
    assert all(
        one.category is None for case in open_supervisely(tmp_path, mode="semantic").cases for one in case.labels
    )


def test_classes_are_numbers_of_names_not_places_in_a_list(tmp_path: Path) -> None:
    plant(tmp_path, {**planes(), **{f"axl_inference_{n}.nii.gz": ONE for n in (10, 2, 1)}})
    source = quiet(open_supervisely(tmp_path))
    assert {name: one.category for name, one in of(source, "axl_anatomic").items()} == {
        "axl_inference_1": 1,
        "axl_inference_2": 2,
        "axl_inference_10": 10,
    }
    assert [one.name for one in case_of(source, "axl_anatomic").labels][-1] == "axl_inference_10"


def test_a_colour_map_names_classes_of_files(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            **planes(),
            "axl_mask_1.nii.gz": ONE,
            "axl_mask_2.nii.gz": ONE,
            "axl_mask_9.nii.gz": ONE,
            "color_map.txt": "1 femur 1 2 3\n2 tibia 4 5 6",
        },
    )
    source = open_supervisely(tmp_path)
    assert names(source) == {1: "femur", 2: "tibia", 9: "Segment_9"}
    assert [one.category for one in case_of(source, "axl_anatomic").labels] == [1, 2, 9]
    assert told(source, tmp_path)[1] == {
        "axl_mask_9.nii.gz": [f"class 9 is not in {tmp_path}/color_map.txt; called Segment_9"]
    }


def test_labels_without_a_number_are_class_1_if_it_is_free(tmp_path: Path) -> None:
    """As the export application writes them: axl_inference, axl_inference_2, ..."""
    plant(tmp_path, {**planes(), "axl_inference.nii": ONE, "axl_inference_2.nii": ONE})
    assert [one.category for one in case_of(quiet(open_supervisely(tmp_path)), "axl_anatomic").labels] == [1, 2]


@pytest.mark.parametrize("other", ["axl_inference_1.nii", "axl_mask.nii"])
def test_labels_without_a_number_whose_class_is_taken(tmp_path: Path, other: str) -> None:
    plant(tmp_path, {**planes(), "axl_inference.nii": ONE, other: ONE})
    assert "each of one class, but has no number at its end, and class 1 is taken" in problem(
        open_supervisely(tmp_path), "axl_anatomic"
    )


def test_number_0_is_no_class(tmp_path: Path) -> None:
    plant(tmp_path, {**planes(), "axl_inference_0.nii": ONE, "axl_inference_1.nii": ONE})
    assert "number 0 cannot be a class" in problem(open_supervisely(tmp_path), "axl_anatomic")


def test_one_number_twice_counts_in_natural_order_with_a_remark(tmp_path: Path) -> None:
    plant(tmp_path, {**planes(), "axl_inference_2.nii": ONE, "axl_mask_02.nii": ONE, "axl_inference_10.nii": ONE})
    source = open_supervisely(tmp_path)
    assert {name: one.category for name, one in of(source, "axl_anatomic").items()} == {
        "axl_inference_2": 1,
        "axl_inference_10": 2,
        "axl_mask_02": 3,
    }
    order = "axl_inference_2.nii, axl_inference_10.nii, axl_mask_02.nii"
    assert told(source, tmp_path)[1] == {
        "axl_anatomic.nii.gz": [f"several label files have one number; classes count from 1 in this order: {order}"]
    }


# --- groups


def test_folders_are_apart(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            **planes("p1/"), **planes("p2/"), **planes("p3/deep/"),
            "p1/axl_inference.nii": ONE, "p2/axl_inference.nii": ONE, "p2/cor_ann.nii": ONE,
        },
    )  # fmt: skip
    source = quiet(open_supervisely(tmp_path))
    found = {case_id: set(masks) for case_id, (_, masks) in table(source, tmp_path).items() if masks}
    assert found == {
        "p1_axl_anatomic": {"p1/axl_inference.nii"},
        "p2_axl_anatomic": {"p2/axl_inference.nii"},
        "p2_cor_anatomic": {"p2/cor_ann.nii"},
    }
    assert len(source.cases) == 9


def test_patients_in_one_folder_are_told_apart_by_uuids(tmp_path: Path) -> None:
    files = {f"{p}_{plane}_anatomic.nii": CT for p in (P1, P2) for plane in VIEWS}
    plant(tmp_path, {**files, f"{P1}_axl_inference.nii": ONE, f"{P2.upper()}_axl_inference.nii": MANY})
    source = quiet(open_supervisely(tmp_path))
    assert set(table(source, tmp_path)[f"{P1}_axl_anatomic"][1]) == {f"{P1}_axl_inference.nii"}
    assert set(table(source, tmp_path)[f"{P2}_axl_anatomic"][1]) == {f"{P2.upper()}_axl_inference.nii"}


def test_labels_of_another_patient_are_not_used(tmp_path: Path) -> None:
    plant(tmp_path, {f"{P1}_{plane}_anatomic.nii": CT for plane in VIEWS} | {f"{P2}_axl_mask.nii": ONE})
    source = open_supervisely(tmp_path)
    assert table(source, tmp_path)[f"{P1}_axl_anatomic"][1] == {}
    (reason,) = told(source, tmp_path)[0][f"{P2}_axl_mask.nii"]
    assert reason == (
        "labels without a volume: no 'axl…anatomic' of the same UUIDs in the top folder; "
        f"{P1}_axl_anatomic.nii belongs to another patient or case by the UUIDs of its name"
    )


def test_labels_in_another_folder_are_not_used(tmp_path: Path) -> None:
    plant(tmp_path, {**planes("scans/"), "masks/axl_inference.nii": ONE, "masks/axl_score.csv": "Layer,Label-1\n1,1"})
    source = open_supervisely(tmp_path)
    assert not any(case.labels for case in source.cases)
    assert told(source, tmp_path)[0] == {
        "masks/axl_inference.nii": ["labels without a volume: no 'axl…anatomic' of the same UUIDs in masks"],
        "masks/axl_score.csv": ["scores without a volume: no 'axl…anatomic' of the same UUIDs in masks"],
    }


def test_several_volumes_of_a_plane_are_matched_by_name_with_a_remark(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            **planes(), "axl_anatomic_2.nii": CT, "AXL_inference_2.nii": ONE, "axl_inference.nii": MANY,
            "axl_score_2.csv": "Layer,Label-1\n1,0.5", "axl_score.csv": "Layer,Label-2\n2,0.25",
        },
    )  # fmt: skip
    source = open_supervisely(tmp_path)
    assert set(table(source, tmp_path)["axl_anatomic"][1]) == {"axl_inference.nii"}
    assert set(table(source, tmp_path)["axl_anatomic_2"][1]) == {"AXL_inference_2.nii"}
    assert case_of(source, "axl_anatomic").labels[0].scores == {"axial": {1: {2: 0.25}}}
    assert case_of(source, "axl_anatomic_2").labels[0].scores == {"axial": {0: {1: 0.5}}}
    assert set(told(source, tmp_path)[1]) == {"AXL_inference_2.nii", "axl_inference.nii"}


def test_numbered_labels_of_several_volumes_are_matched_by_what_is_before_the_number(tmp_path: Path) -> None:
    files: Files = {f"{side}_axl_anatomic.nii": CT for side in "ab"}
    files |= {f"{side}_axl_inference_{n}.nii": ONE for side in "ab" for n in (1, 2)}
    source = open_supervisely(plant(tmp_path, files))
    assert list(table(source, tmp_path)["b_axl_anatomic"][1].items()) == [
        ("b_axl_inference_1.nii", 1),
        ("b_axl_inference_2.nii", 2),
    ]


def test_several_volumes_that_fit_are_an_error_of_each(tmp_path: Path) -> None:
    plant(tmp_path, {**planes(), "axl_anatomic_2.nii": CT, "axl_mask_3.nii": ONE, "axl_T2_inference.nii": ONE})
    source = open_supervisely(tmp_path)
    for case_id in ("axl_anatomic", "axl_anatomic_2"):
        message = problem(source, case_id)
        assert "its folder has 2 volumes of its plane (axl_anatomic.nii.gz, axl_anatomic_2.nii)" in message
    assert case_of(source, "cor_anatomic").labels == ()


def test_missing_planes_are_remarked(tmp_path: Path) -> None:
    plant(tmp_path, {"p1/axl_anatomic.nii": CT, **planes("p2/"), "p3/cor_anatomic.nii": CT, "p3/sag_anatomic.nii": CT})
    assert told(open_supervisely(tmp_path), tmp_path) == (
        {},
        {
            "p1": ["has volumes of axl, but none of cor, sag"],
            "p3": ["has volumes of cor, sag, but none of axl"],
        },
    )


# --- names that do not fit


def test_names_that_fit_nowhere_are_told_one_by_one(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            **planes(),
            "axl.nii": CT,
            "mask.nii": ONE,
            "anatomic.nii": CT,
            "scout.nii": CT,
            "axl_cor_mask.nii": ONE,
            "notes.csv": "a,b",
            "cor_score.txt": "hello",
            "mapping.json": "{}",
        },
    )
    source = open_supervisely(tmp_path)
    skipped, remarks = told(source, tmp_path)
    assert remarks == {}
    no_kind = "its name does not say what it is; expected a word as 'anatomic', 'mask' or 'inference'"
    no_plane = "its name has no plane; expected 'axl', 'cor' or 'sag', parted from the rest by _"
    assert skipped.pop("cor_score.txt")[0].startswith("is no colour map: line 1, 'hello': expected an id")
    assert skipped == {
        "axl.nii": [no_kind],
        "mask.nii": [no_plane],
        "anatomic.nii": [no_plane],
        "scout.nii": [no_kind],
        "notes.csv": ["is no score table of a plane; those are called as 'axl_score.csv'"],
        "mapping.json": ["a mapping is used only for labels without volumes"],
    }
    assert problem(source, "axl_cor_mask").endswith("axl_cor_mask.nii: names two planes, 'axl' and 'cor'; keep one")


def test_other_separators_and_capitals(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {"knee-AXL-anatomical.nii": CT, "knee.axl.Ann.nii": ONE, "COR anatomic.nii": CT, "sag_anatomic.nii": CT},
    )
    source = quiet(open_supervisely(tmp_path))
    assert set(table(source, tmp_path)["knee-AXL-anatomical"][1]) == {"knee.axl.Ann.nii"}


def test_a_volume_that_is_called_like_labels_too(tmp_path: Path) -> None:
    plant(tmp_path, {**planes(), "axl_anatomic_mask.nii": CT})
    source = open_supervisely(tmp_path)
    assert case_of(source, "axl_anatomic_mask").image is not None
    assert told(source, tmp_path)[1] == {
        "axl_anatomic_mask.nii": ["its name has the word of a volume and that of labels; it is taken as a volume"]
    }


def test_planes_inside_of_words_count_where_every_file_has_one(tmp_path: Path) -> None:
    files: Files = {f"{plane}1_anatomic.nii": CT for plane in VIEWS} | {"axl1_mask.nii": ONE}
    source = open_supervisely(plant(tmp_path, files))
    assert set(table(source, tmp_path)["axl1_anatomic"][1]) == {"axl1_mask.nii"}
    assert set(told(source, tmp_path)[1]) == set(files)


@pytest.mark.parametrize("volume", ["T1_corrected.nii.gz", "CTChest.nii.gz", "axle.nii.gz"])
@pytest.mark.parametrize("mask", ["cortex.nii.gz", "cortex_mask.nii.gz", "sag_mask.nii.gz", "axl.nii.gz"])
def test_an_innocent_name_does_not_change_the_layout(tmp_path: Path, volume: str, mask: str) -> None:
    folder = volume.removesuffix(".nii.gz")
    source = quiet(open_supervisely(plant(tmp_path, {volume: CT, f"{folder}/{mask}": ONE})))
    assert table(source, tmp_path) == {folder: (volume, {f"{folder}/{mask}": 1})}
    assert source.description.endswith("by volume name")


def test_both_layouts_in_one_tree_are_read_with_a_remark(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            **planes("a/"), "a/axl_inference.nii": MANY, "a/scout.nii": CT,
            "b/CT.nii": CT, "b/CT/lung.nii": ONE, "b/MR.nii": CT, "a/PET.nii": CT, "a/PET/lesion.nii": ONE,
        },
    )  # fmt: skip
    source = open_supervisely(tmp_path)
    assert {case_id: masks for case_id, (_, masks) in table(source, tmp_path).items()} == {
        "a_axl_anatomic": {"a/axl_inference.nii": None},
        "a_cor_anatomic": {},
        "a_sag_anatomic": {},
        "a_PET": {"a/PET/lesion.nii": NAMED + 1},
        "b_CT": {"b/CT/lung.nii": NAMED + 2},
        "b_MR": {},
    }
    assert source.description.endswith("by plane, and by volume name")
    skipped, remarks = told(source, tmp_path)
    assert list(skipped) == ["a/scout.nii"]
    assert [message for messages in remarks.values() for message in messages] == [
        "is read by volume name, as are 5 files of a tree read by plane"
    ]


def test_a_layout_can_be_asked_for(tmp_path: Path) -> None:
    plant(tmp_path, {**planes(), "axl_inference.nii": ONE, "CT.nii": CT})
    assert len(open_supervisely(tmp_path, layout="by_name").cases) == 5
    assert len(open_supervisely(tmp_path, layout="by_plane").cases) == 3
    assert set(told(open_supervisely(tmp_path, layout="annotations"), tmp_path)[0]) == {
        "CT.nii",
        *planes(),
    }
    with pytest.raises(InvalidInput, match="nothing in it fits the layout by plane"):
        open_supervisely(plant(tmp_path / "other", {"CT.nii": CT}), layout="by_plane")
    with pytest.raises(InvalidInput, match=r"^layout 'by_plan' is not known; allowed: 'auto', 'by_name'"):
        open_supervisely(tmp_path, layout="by_plan")  # type: ignore[arg-type]


# --- colour maps


def test_a_map_holds_for_its_folder_and_below_and_the_nearest_wins(tmp_path: Path) -> None:
    files: Files = {}
    for folder in ("a/", "a/b/", "c/"):
        files |= {**planes(folder), f"{folder}axl_mask_1.nii": ONE, f"{folder}axl_mask_2.nii": ONE}
    files |= {"color_map.txt": "1 top 1 1 1\n2 same 2 2 2", "a/b/colors.txt": "1 deep 3 3 3\n2 same 2 2 2"}
    source = quiet(open_supervisely(plant(tmp_path, files)))
    by_name = {name: n for n, name in names(source).items()}
    assert set(by_name) == {"top", "deep", "same"}
    assert [one.category for one in case_of(source, "a_axl_anatomic").labels] == [by_name["top"], by_name["same"]]
    assert [one.category for one in case_of(source, "a_b_axl_anatomic").labels] == [by_name["deep"], by_name["same"]]
    assert [one.category for one in case_of(source, "c_axl_anatomic").labels] == [by_name["top"], by_name["same"]]


def test_values_of_different_maps_get_the_categories_of_their_names(tmp_path: Path) -> None:
    files = {**planes("a/"), **planes("b/"), "a/axl_mask.nii": MANY, "b/axl_mask.nii": MANY}
    files |= {"a/color_map.txt": "1 liver 1 1 1", "b/color_map.txt": "1 spleen 1 1 1"}
    source = open_supervisely(plant(tmp_path, files))
    by_name = {name: n for n, name in names(source).items()}
    for folder, name in (("a", "liver"), ("b", "spleen")):
        category = case_of(source, f"{folder}_axl_anatomic").labels[0].category
        assert [category[n] for n in (1, 2)] == [by_name[name], 2]  # type: ignore[index]


def test_a_readme_does_not_erase_the_map(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {**planes(), "axl_mask.nii": MANY, "color_map.txt": "1 liver 1 1 1", "README.txt": "Read me.\n", "z.txt": ""},
    )
    source = open_supervisely(tmp_path)
    assert names(source) == {1: "liver"}
    skipped, remarks = told(source, tmp_path)
    assert (set(skipped), remarks) == ({"README.txt", "z.txt"}, {})


def test_a_text_that_could_be_a_map_gives_way_to_one_called_so(tmp_path: Path) -> None:
    plant(tmp_path, {**planes(), "axl_mask.nii": MANY, "color_map.txt": "1 liver 1 1 1", "a.txt": "1 spleen 1 1 1"})
    source = open_supervisely(tmp_path)
    assert names(source) == {1: "liver"}
    assert told(source, tmp_path)[0] == {"a.txt": ["looks like a colour map, but color_map.txt is called one"]}


def test_two_maps_of_one_folder_are_an_error_of_what_is_below(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            **planes("a/"), **planes("b/"), "a/axl_mask.nii": ONE, "b/axl_mask.nii": ONE,
            "a/color_map.txt": "1 liver 1 1 1", "a/colours.txt": "1 spleen 1 1 1",
        },
    )  # fmt: skip
    source = open_supervisely(tmp_path)
    message = problem(source, "a_axl_anatomic")
    assert f"{tmp_path}/a/color_map.txt and {tmp_path}/a/colours.txt: two colour maps for one folder" in message
    assert case_of(source, "b_axl_anatomic").labels[0].file.read().data.any()


def test_the_same_map_twice_is_one_with_a_remark(tmp_path: Path) -> None:
    files: Files = {
        **planes(),
        "axl_mask.nii": ONE,
        "color_map.txt": "1 liver 1 1 1",
        "cls_color_map.txt": "1 liver 1 1 1\n",
    }
    source = open_supervisely(plant(tmp_path, files))
    assert names(source) == {1: "liver"}
    assert told(source, tmp_path)[1] == {"color_map.txt": ["is the same colour map as cls_color_map.txt"]}


def test_a_bad_map_is_an_error_of_what_it_is_for(tmp_path: Path) -> None:
    files: Files = {**planes(), "axl_mask.nii": ONE, "color_map.txt": "1 liver 1 1 1\n2 spleen 1 1 256"}
    source = open_supervisely(plant(tmp_path, files))
    assert f"{tmp_path}/color_map.txt: line 2, '2 spleen 1 1 256': the colour must be" in problem(
        source, "axl_anatomic"
    )
    assert case_of(source, "cor_anatomic").labels == ()


def test_a_map_for_nothing_is_told(tmp_path: Path) -> None:
    source = open_supervisely(plant(tmp_path, {**planes("a/"), "a/axl_mask.nii": ONE, "b/color_map.txt": "1 a 1 1 1"}))
    assert list(told(source, tmp_path)[0]) == ["b/color_map.txt"]


# --- scores


def scored(root: Path, scores: str, masks: Files, affine: NDArray[np.float64] | None = None, **words: Any) -> Source:
    files = {**planes(), **masks, "axl_score.csv": scores}
    return open_supervisely(plant(root, files, *([] if affine is None else [affine])), **words)


def test_scores_of_values(tmp_path: Path) -> None:
    source = quiet(scored(tmp_path, "Layer, Label-1, Label-5\n1, 0.125, 0.5\n6, ,1\n", {"axl_inference.nii": MANY}))
    (labels_,) = case_of(source, "axl_anatomic").labels
    assert labels_.scores == {"axial": {0: {1: 0.125, 5: 0.5}, 5: {5: 1.0}}}
    assert [(one.role, one.why) for one in source.matches if one.where.endswith(".csv")] == [
        ("scores", "axl table beside the labels")
    ]


@pytest.mark.parametrize("plane", list(VIEWS))
@pytest.mark.parametrize(("layer", "flipped"), [*itertools.product(["ras", "file"], [False, True])])
def test_what_a_layer_is(tmp_path: Path, plane: str, layer: Any, flipped: bool) -> None:
    """The file is stored against RAS along all axes: its frame k is slice n - 1 - k in RAS."""
    affine = np.diag([-1.0, -1, -1, 1]) if flipped else np.eye(4)
    files: Files = {**planes(), f"{plane}_mask.nii": ONE, f"{plane}_score.csv": "Layer,Label-1\n2,0.5"}
    source = open_supervisely(plant(tmp_path, files, affine), layer=layer)
    count = dict(zip(VIEWS, (6, 5, 4), strict=True))[plane]
    expected = count - 2 if flipped and layer == "file" else 1
    assert case_of(source, f"{plane}_anatomic").labels[0].scores == {VIEWS[plane]: {expected: {1: 0.5}}}
    remarks = told(source, tmp_path)[1]
    if flipped and layer == "ras":
        assert remarks[f"{plane}_score.csv"][0].startswith("score frames flipped: ")
    else:
        assert remarks == {}


def test_frames_of_axes_that_swap_are_found(tmp_path: Path) -> None:
    """Stored as (z, x, y), z downwards: layers of the file along its first axis."""
    affine = np.array([[0, 1.0, 0, 0], [0, 0, 1, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
    source = scored(tmp_path, "Layer,Label-1\n1,0.5", {"axl_mask.nii": ONE}, affine, layer="file")
    assert case_of(source, "axl_anatomic").labels[0].scores == {"axial": {3: {1: 0.5}}}


def test_scores_of_files_speak_of_classes(tmp_path: Path) -> None:
    masks: Files = {"axl_inference_1.nii": MANY, "axl_inference_3.nii": labels(4, 300, dtype="u2")}
    source = quiet(scored(tmp_path, "Layer,Label-1,Label-3\n1,0.5,\n2,,0.25", masks))
    found = of(source, "axl_anatomic")
    assert found["axl_inference_1"].scores["axial"][0].get(2) == 0.5  # every object of the file
    assert found["axl_inference_3"].scores["axial"][1].get(300) == 0.25
    assert list(found["axl_inference_1"].scores["axial"]) == [0]


def test_scores_of_a_class_without_a_file_are_an_error(tmp_path: Path) -> None:
    source = scored(tmp_path, "Layer,Label-2\n1,1", {"axl_mask_1.nii": ONE, "axl_mask_3.nii": ONE})
    assert "column 'Label-2' speaks of class 2, but the files of" in problem(source, "axl_anatomic")


def test_each_file_may_have_a_table(tmp_path: Path) -> None:
    files: Files = {**planes()}
    for n in (1, 2):
        files |= {f"axl_mask_{n}.nii": ONE, f"axl_score_{n}.csv": f"Layer,Label-{n}\n1,0.{n}"}
    source = quiet(open_supervisely(plant(tmp_path, files)))
    assert [one.scores["axial"][0].get(1) for one in case_of(source, "axl_anatomic").labels] == [0.1, 0.2]


def test_the_only_table_of_the_plane_is_taken_whatever_else_its_name_says(tmp_path: Path) -> None:
    files: Files = {**planes(), "axl_mask.nii": ONE, "run7_axl_scores.csv": "Layer,Label-1\n1,1", "cor_mask.nii": ONE}
    source = quiet(open_supervisely(plant(tmp_path, files)))
    assert case_of(source, "axl_anatomic").labels[0].scores == {"axial": {0: {1: 1.0}}}
    assert case_of(source, "cor_anatomic").labels[0].scores == {}


def test_several_tables_of_a_plane(tmp_path: Path) -> None:
    text = "Layer,Label-1\n1,1"
    files: Files = {**planes(), "axl_mask.nii": ONE, "a_axl_score.csv": text, "b_axl_score.csv": text}
    message = problem(open_supervisely(plant(tmp_path / "1", files)), "axl_anatomic")
    assert "several score tables may belong to it" in message
    source = open_supervisely(plant(tmp_path / "2", {**files, "axl_score.csv": "Layer,Label-1\n1,0.5"}))
    assert case_of(source, "axl_anatomic").labels[0].scores == {"axial": {0: {1: 0.5}}}
    assert set(told(source, tmp_path / "2")[0]) == {"a_axl_score.csv", "b_axl_score.csv"}


def test_scores_of_many_folders_stay_apart(tmp_path: Path) -> None:
    files: Files = {}
    for n in (1, 2, 3):
        files |= {**planes(f"p{n}/"), f"p{n}/axl_mask.nii": ONE, f"p{n}/axl_score.csv": f"Layer,Label-1\n{n},0.{n}"}
    source = quiet(open_supervisely(plant(tmp_path, files)))
    for n in (1, 2, 3):
        assert case_of(source, f"p{n}_axl_anatomic").labels[0].scores == {"axial": {n - 1: {1: n / 10}}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Layer,Label-1\n7,1", "Layer 7 is beyond the last of 6 axial slices (1 to 6)"),
        ("Layer,Label-1\n0,1", "read its tables with layer_base=0"),
        ("Layer,Label-1\n1,x", "row 2, column 'Label-1': 'x' is no number"),
    ],
)
def test_a_bad_table_is_an_error_of_its_item(tmp_path: Path, text: str, said: str) -> None:
    source = scored(tmp_path, text, {"axl_mask.nii": ONE, "cor_mask.nii": ONE})
    message = problem(source, "axl_anatomic")
    assert message.startswith(f"{tmp_path}/axl_score.csv: ")
    assert said in message
    assert case_of(source, "cor_anatomic").labels[0].file.read().data.any()


def test_tables_of_the_export_application_count_from_0(tmp_path: Path) -> None:
    source = scored(tmp_path, "Layer,Label-1\n0,0.5\n5,1", {"axl_mask.nii": ONE}, layer_base=0)
    assert case_of(source, "axl_anatomic").labels[0].scores == {"axial": {0: {1: 0.5}, 5: {1: 1.0}}}
    source = scored(tmp_path, "Layer,Label-1\n6,0.5", {"axl_mask.nii": ONE}, layer_base=0)
    assert "Layer 6 is beyond the last of 6 axial slices (0 to 5)" in problem(source, "axl_anatomic")


def test_a_score_of_a_value_that_no_voxel_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = scored(tmp_path / "1", "Layer,Label-9\n1,1", {"axl_mask.nii": ONE})
    with pytest.raises(InvalidInput, match=r"axl_mask.nii: no voxel has the label 9, which .*axl_score.csv scores"):
        case_of(source, "axl_anatomic").labels[0].file.read()
    caplog.set_level(logging.WARNING)
    source = scored(tmp_path / "2", "Layer,Label-9\n1,1", {"axl_mask.nii": ONE, "color_map.txt": "9 rib 1 1 1"})
    case_of(source, "axl_anatomic").labels[0].file.read()
    assert "no voxel has the label 9" in caplog.text


def test_unknown_columns_and_tables_without_labels_are_told(tmp_path: Path) -> None:
    files: Files = {**planes(), "axl_mask.nii": ONE, "axl_score.csv": "Layer,Label-1,Reader\n1,1,me"}
    source = open_supervisely(plant(tmp_path, {**files, "cor_score.csv": "Layer,Label-1\n1,1"}))
    assert told(source, tmp_path) == (
        {"cor_score.csv": [f"scores labels, but {tmp_path}/cor_anatomic.nii.gz has none"]},
        {"axl_score.csv": ["column 'Reader' is not known and not read; known are Layer and Label-<n>"]},
    )


# --- strict, order, alignment


def test_strict_lists_all_there_is_to_tell(tmp_path: Path) -> None:
    plant(tmp_path, {"axl_anatomic.nii": CT, "axl_mask.nii": b"", "sag_mask.nii": ONE, "README.txt": "Hello."})
    with pytest.raises(InvalidInput) as caught:
        open_supervisely(tmp_path, strict=True)
    message = str(caught.value)
    for part in ("nothing in it can be used", "axl_mask.nii"):
        assert part in message
    plant(tmp_path, {"cor_anatomic.nii": CT})
    with pytest.raises(InvalidInput) as caught:
        open_supervisely(tmp_path, strict=True)
    message = str(caught.value)
    for part in (
        "strict=True, but ",
        f"{tmp_path}/axl_mask.nii: the file is empty",
        f"{tmp_path}: has volumes of axl, cor, but none of sag",
        f"{tmp_path}/sag_mask.nii: left out: labels without a volume",
        f"{tmp_path}/README.txt: left out: is no colour map",
    ):
        assert part in message


def test_strict_is_quiet_of_a_sound_tree(tmp_path: Path) -> None:
    source = quiet(open_supervisely(plant(tmp_path, {**planes(), "axl_mask.nii": labels()}), strict=True))
    with pytest.raises(InvalidInput, match=r"axl_mask\.nii: no voxel is labelled"):
        case_of(source, "axl_anatomic").labels[0].file.read()


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_listing_does_not_matter(tmp_path: Path, shuffled: random.Random, seed: int) -> None:
    files: Files = {}
    for folder in ("b/", "a/"):
        files |= {**planes(folder), f"{folder}color_map.txt": f"1 {folder[0]} 1 1 1", f"{folder}x.txt": "1 x 1 1 1"}
        files |= {f"{folder}axl_inference_{n}.nii": ONE for n in (10, 9, 1)}
        files |= {f"{folder}cor_mask.nii": MANY, f"{folder}cor_score.csv": "Layer,Label-1\n1,1"}
    plant(tmp_path, files)
    shuffled.seed(0)
    first = open_supervisely(tmp_path)
    shuffled.seed(seed + 1)
    again = open_supervisely(tmp_path)
    assert [list(masks) for _, masks in table(again, tmp_path).values()] == [
        list(masks) for _, masks in table(first, tmp_path).values()
    ]
    assert (again.skipped, again.remarks, again.matches, again.classes) == (
        first.skipped,
        first.remarks,
        first.matches,
        first.classes,
    )


def test_images_and_labels_come_in_ras(tmp_path: Path) -> None:
    source = open_supervisely(plant(tmp_path, {**planes(), "axl_mask.nii": MANY}, LPS))
    case = case_of(source, "axl_anatomic")
    assert case.image is not None
    np.testing.assert_array_equal(case.image.read().data, CT[::-1, ::-1])
    np.testing.assert_array_equal(case.labels[0].file.read().data, MANY[::-1, ::-1])
    assert case.image.header().grid.orientation == "RAS"
