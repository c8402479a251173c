"""Layout "by name": which folder holds the labels of which volume."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.read.supervisely.trees import (
    SHAPE,
    case_of,
    image,
    labels,
    nifti,
    plant,
    problem,
    quiet,
    refusal,
    table,
    told,
)
from voxtract.errors import InvalidInput, NotFound
from voxtract.read.supervisely import open_supervisely

CT, LUNG = image(), labels(1, 2)


def test_the_example_of_the_document(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {"CTChest.nii.gz": CT, "CTChest/lung.nii.gz": LUNG, "CTChest/tumor.nii.gz": labels(7), "Spine.nii.gz": CT},
    )
    source = quiet(open_supervisely(tmp_path))
    assert table(source, tmp_path) == {
        "CTChest": ("CTChest.nii.gz", {"CTChest/lung.nii.gz": 1, "CTChest/tumor.nii.gz": 2}),
        "Spine": ("Spine.nii.gz", {}),
    }
    assert source.classes is not None
    assert {one.id: one.name for one in source.classes.categories} == {1: "lung", 2: "tumor"}
    case = case_of(source, "CTChest")
    assert [one.name for one in case.labels] == ["lung", "tumor"]
    assert case.views is None
    assert all((one.objects, one.scores, one.views) == ({}, {}, None) for one in case.labels)
    np.testing.assert_array_equal(case.labels[1].file.read().data, labels(7))
    assert source.description == f"{tmp_path}: Supervisely, by volume name"
    beside = "each value an object; lies in the folder beside the volume, which has its name"
    assert [(one.case, one.role, one.why) for one in source.matches] == [
        ("CTChest", "image", "a volume"),
        ("CTChest", "labels", f"class 'lung', {beside}"),
        ("CTChest", "labels", f"class 'tumor', {beside}"),
        ("Spine", "image", "a volume"),
    ]


def test_class_names_may_be_any(tmp_path: Path) -> None:
    names = ["left lung.lower", "Lunge (links)", "肺", "tumor_1", "a.nii"]
    plant(tmp_path, {"CT.v2.nii": CT, **{f"CT.v2/{name}.NII.GZ": LUNG for name in names}})
    source = quiet(open_supervisely(tmp_path))
    assert [one.name for one in source.cases[0].labels] == sorted(names)
    assert source.classes is not None
    assert [one.name for one in source.classes.categories] == sorted(names)


def test_classes_are_shared_by_all_volumes(tmp_path: Path) -> None:
    plant(tmp_path, {"a.nii": CT, "a/lung.nii": LUNG, "b.nii": CT, "b/liver.nii": LUNG, "b/lung.nii": LUNG})
    assert table(open_supervisely(tmp_path), tmp_path) == {
        "a": ("a.nii", {"a/lung.nii": 2}),
        "b": ("b.nii", {"b/liver.nii": 1, "b/lung.nii": 2}),
    }


def test_capitals_of_suffixes_do_not_matter(tmp_path: Path) -> None:
    plant(tmp_path, {"x/a.nii": CT, "x/b.nii": CT, "m/a.nii": LUNG})
    (tmp_path / "x/a.nii").rename(tmp_path / "Brain.NII")
    (tmp_path / "Brain").mkdir()
    (tmp_path / "m/a.nii").rename(tmp_path / "Brain" / "lung.Nii")
    assert table(open_supervisely(tmp_path), tmp_path)["Brain"] == ("Brain.NII", {"Brain/lung.Nii": 1})


def test_only_files_directly_in_the_folder_are_labels(tmp_path: Path) -> None:
    plant(tmp_path, {"a.nii": CT, "a/lung.nii": LUNG, "a/raw/b.nii": CT})
    assert table(open_supervisely(tmp_path), tmp_path) == {
        "a": ("a.nii", {"a/lung.nii": 1}),
        "a_raw_b": ("a/raw/b.nii", {}),
    }


def test_a_folder_in_an_annotation_folder_is_no_annotation_folder_of_an_annotation(tmp_path: Path) -> None:
    plant(tmp_path, {"a.nii": CT, "a/b.nii": LUNG, "a/b/c.nii": CT})
    assert table(open_supervisely(tmp_path), tmp_path) == {"a": ("a.nii", {"a/b.nii": 1}), "a_b_c": ("a/b/c.nii", {})}


# --- same names in many places


def test_volumes_of_the_same_name_all_stay(tmp_path: Path) -> None:
    plant(tmp_path, {"p1/CT.nii": CT, "p1/CT/lung.nii": LUNG, "p2/CT.nii": CT, "p2/CT/lung.nii": LUNG, "p3/CT.nii": CT})
    assert table(quiet(open_supervisely(tmp_path)), tmp_path) == {
        "p1_CT": ("p1/CT.nii", {"p1/CT/lung.nii": 1}),
        "p2_CT": ("p2/CT.nii", {"p2/CT/lung.nii": 1}),
        "p3_CT": ("p3/CT.nii", {}),  # the labels of others are theirs
    }


def test_ids_that_meet_are_made_unique_with_a_remark(tmp_path: Path) -> None:
    plant(tmp_path, {"a/b_c.nii": CT, "a_b/c.nii": CT, "a_b_c_01.nii": CT, "a_b_c.nii.gz": CT})
    source = open_supervisely(tmp_path)
    assert {case_id: where for case_id, (where, _) in table(source, tmp_path).items()} == {
        "a_b_c": "a/b_c.nii",
        "a_b_c_01": "a_b_c_01.nii",
        "a_b_c_02": "a_b/c.nii",
        "a_b_c_03": "a_b_c.nii.gz",
    }
    assert told(source, tmp_path)[1] == {
        "a_b/c.nii": ["is case 'a_b_c_02', because another one is 'a_b_c'"],
        "a_b_c.nii.gz": ["is case 'a_b_c_03', because another one is 'a_b_c'"],
    }


@pytest.mark.parametrize("name", ["scan01/scan01.nii.gz", "x/scan01/deep/scan01.nii.gz"])
def test_a_folder_that_holds_the_volume_is_not_its_annotation_folder(tmp_path: Path, name: str) -> None:
    plant(tmp_path, {name: CT, "other.nii": CT})
    assert all(not found for _, found in table(quiet(open_supervisely(tmp_path)), tmp_path).values())


def test_the_imported_folder_itself_is_no_annotation_folder(tmp_path: Path) -> None:
    plant(tmp_path, {"CT/CT.nii": CT, "CT/MR.nii": CT})
    assert [found for _, found in table(open_supervisely(tmp_path / "CT"), tmp_path).values()] == [{}, {}]


def test_an_annotation_called_like_its_volume_is_a_class(tmp_path: Path) -> None:
    plant(tmp_path, {"liver.nii.gz": CT, "liver/liver.nii.gz": LUNG})
    assert table(quiet(open_supervisely(tmp_path)), tmp_path) == {"liver": ("liver.nii.gz", {"liver/liver.nii.gz": 1})}


def test_folders_called_converted_are_read(tmp_path: Path) -> None:
    plant(tmp_path, {"converted/CT.nii": CT, "converted/CT/lung.nii": LUNG, "MR.nii": CT})
    assert set(table(quiet(open_supervisely(tmp_path)), tmp_path)) == {"converted_CT", "MR"}


# --- a folder elsewhere


def test_the_only_folder_of_the_name_elsewhere_is_taken_with_a_remark(tmp_path: Path) -> None:
    plant(tmp_path, {"images/CT.nii": CT, "masks/CT/lung.nii": LUNG})
    source = open_supervisely(tmp_path)
    assert table(source, tmp_path) == {"images_CT": ("images/CT.nii", {"masks/CT/lung.nii": 1})}
    assert told(source, tmp_path) == (
        {},
        {"images/CT.nii": ["its labels are in masks/CT, the only folder of its name, not beside it"]},
    )
    assert source.matches[1].why.endswith("; lies in masks/CT, the only folder of the volume's name")


def test_the_folder_beside_comes_first(tmp_path: Path) -> None:
    plant(tmp_path, {"images/CT.nii": CT, "images/CT/lung.nii": LUNG, "masks/CT/tumor.nii": LUNG})
    source = open_supervisely(tmp_path)
    assert table(source, tmp_path)["images_CT"] == ("images/CT.nii", {"images/CT/lung.nii": 1})
    assert table(source, tmp_path)["masks_CT_tumor"] == ("masks/CT/tumor.nii", {})  # no volume wants it


def test_several_folders_elsewhere_are_an_error(tmp_path: Path) -> None:
    plant(tmp_path, {"images/CT.nii": CT, "m1/CT/lung.nii": LUNG, "m2/CT/lung.nii": LUNG, "MR.nii": CT})
    source = open_supervisely(tmp_path)
    assert "its labels may be in m1/CT or m2/CT; put" in problem(source, "images_CT")
    assert set(table(source, tmp_path)) == {"MR", "images_CT"}


def test_several_volumes_for_one_folder_are_an_error_of_each(tmp_path: Path) -> None:
    plant(tmp_path, {"p1/CT.nii": CT, "p2/CT.nii": CT, "masks/CT/lung.nii": LUNG, "MR.nii": CT})
    source = open_supervisely(tmp_path)
    for case_id in ("p1_CT", "p2_CT"):
        rivals = f"for which {tmp_path}/p1/CT.nii and {tmp_path}/p2/CT.nii look"
        assert f"its labels may be in masks/CT, {rivals}; put" in problem(source, case_id)


def test_a_folder_of_volumes_is_no_annotation_folder_of_a_volume_elsewhere(tmp_path: Path) -> None:
    plant(tmp_path, {"CT/p1.nii": CT, "CT/p1/lung.nii": LUNG, "CT/p2.nii": CT, "other/CT.nii": CT})
    assert table(quiet(open_supervisely(tmp_path)), tmp_path) == {
        "CT_p1": ("CT/p1.nii", {"CT/p1/lung.nii": 1}),
        "CT_p2": ("CT/p2.nii", {}),
        "other_CT": ("other/CT.nii", {}),
    }


# --- what is wrong


def test_one_class_twice_for_one_volume_is_an_error(tmp_path: Path) -> None:
    plant(tmp_path, {"a.nii": CT, "a/lung.nii": LUNG, "a/lung.nii.gz": LUNG, "b.nii": CT})
    source = open_supervisely(tmp_path)
    assert problem(source, "a").endswith(
        "a/lung.nii.gz: a second file of class 'lung' for one volume; remove one of them"
    )
    assert case_of(source, "a").image is not None


@pytest.mark.parametrize("content", [b"", b"no NIfTI", b"\x1f\x8b broken"])
def test_a_file_that_is_no_nifti_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    plant(tmp_path, {"a.nii.gz": CT, "a/lung.nii.gz": content, "a/good.nii.gz": LUNG, "b.nii.gz": content, "c.nii": CT})
    source = open_supervisely(tmp_path)
    assert problem(source, "a").startswith(f"{tmp_path}/a/lung.nii.gz: ")
    assert problem(source, "b").startswith(f"{tmp_path}/b.nii.gz: ")
    broken = case_of(source, "b").image
    assert broken is not None
    with pytest.raises(InvalidInput, match=f"^{tmp_path}/b.nii.gz: "):
        broken.read()


def test_frames_are_an_error_but_one_frame_is_not(tmp_path: Path) -> None:
    plant(tmp_path, {"a.nii": image(0, (*SHAPE, 3)), "b.nii": image(0, (*SHAPE, 1)), "b/m.nii": LUNG[..., None]})
    source = open_supervisely(tmp_path)
    assert "has 3 frames (4 x 5 x 6 x 3), but a volume is one" in problem(source, "a")
    assert case_of(source, "b").labels[0].file.read().data.shape == SHAPE


def test_if_nothing_is_left_that_is_an_error_with_all_reasons(tmp_path: Path) -> None:
    plant(tmp_path, {"a.nii": b"", "b.nii": image(0, (*SHAPE, 3))})
    message = refusal(InvalidInput, tmp_path)
    assert message.startswith(f"{tmp_path}: Supervisely, by volume name: nothing in it can be used: {tmp_path}/a.nii: ")
    assert f"; {tmp_path}/b.nii: has 3 frames" in message


def test_labels_whose_volume_is_missing_are_remarked(tmp_path: Path) -> None:
    mask = np.zeros((40, 40, 40), np.int16)
    mask[5] = 3
    plant(tmp_path, {"CT/lung.nii.gz": mask, "CT/tumor.nii.gz": mask, "MR.nii.gz": CT, "x/liver_label.nii": LUNG})
    source = open_supervisely(tmp_path)
    assert set(table(source, tmp_path)) == {"CT_lung", "CT_tumor", "MR", "x_liver_label"}
    said = "taken as volumes, but look like labels; is the volume that the folder is called like missing?"
    assert told(source, tmp_path)[1] == {
        "CT": [f"lung.nii.gz, tumor.nii.gz: {said}"],
        "x": [f"liver_label.nii: {said}"],
    }


def test_what_is_not_used_is_listed(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "a.nii": CT,
            "color_map.txt": "1 lung 255 0 0",
            "a.csv": "Layer,Label-1\n1,0.5",
            "class2idx.json": "{}",
            "a/lung.mha": b"",
            ".hidden.nii": b"",
            ".git/x.nii": b"",
            ".DS_Store": b"",
            "__MACOSX/._a.nii": b"",
            "Thumbs.db": b"",
            "data.7z": b"",
        },
    )
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert told(open_supervisely(tmp_path), tmp_path) == (
        {
            ".git": ["hidden (its name begins with a dot)"],
            ".hidden.nii": ["hidden (its name begins with a dot)"],
            "a.csv": ["is no score table of a plane; those are called as 'axl_score.csv'"],
            "a/lung.mha": ["is no .nii, .nii.gz or .nrrd file, score table, colour map or mapping"],
            "class2idx.json": ["a mapping is used only for labels without volumes"],
            "color_map.txt": ["is a text; classes here are named by files, no colour map is used"],
            "data.7z": ["is no .nii, .nii.gz or .nrrd file, score table, colour map or mapping"],
            "link": ["is a link to a folder; give that folder itself"],
        },
        {},
    )


def test_no_nifti_is_an_error(tmp_path: Path) -> None:
    plant(tmp_path, {"a.txt": "1 a 0 0 0"})
    assert refusal(NotFound, tmp_path) == f"{tmp_path}: holds no .nii, .nii.gz or .nrrd file"
    assert refusal(NotFound, tmp_path / "none") == f"{tmp_path}/none: no such file or folder; check the spelling"
    assert "is neither a folder nor an archive" in refusal(InvalidInput, tmp_path / "a.txt")


# --- whatever the order


NAMES = ["a", "b", "CT", "a.1"]


@given(
    ways=st.sets(
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map(lambda way: "/".join(way) + ".nii"),
        min_size=1,
        max_size=9,
    )
)
def test_every_file_is_an_image_or_labels_of_one_case_or_told(
    tmp_path_factory: pytest.TempPathFactory, ways: set[str]
) -> None:
    root = plant(tmp_path_factory.mktemp("tree"), dict.fromkeys(sorted(ways), labels(1)))
    alone = root / "alone.nii"
    nifti(alone, labels(1))  # something is always left
    source = open_supervisely(root, layout="by_name")
    found = [case.image.where for case in source.cases if case.image is not None]
    used = [one.file.where for case in source.cases for one in case.labels]
    broken = [one.where for one in source.matches if one.role == "error"]
    contested = [way for way in ways if any("may be in" in one.why for one in source.matches)]
    if not contested:
        assert sorted(found + used) == sorted([str(alone), *(str(root / way) for way in ways)])
    assert len(set(found)) == len(found)
    assert set(broken) <= set(found)
    for case in source.cases:
        for one in case.labels if case.image is not None else ():
            if one.file.where not in broken:
                assert Path(one.file.where).parent.name == Path(case.image.where).stem  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_listing_does_not_matter(tmp_path: Path, shuffled: random.Random, seed: int) -> None:
    plant(
        tmp_path,
        {
            "b.nii": CT, "b/y.nii": LUNG, "b/x.nii": LUNG, "a.nii": CT, "a/y.nii": LUNG, "q/c.nii": CT,
            "m/c/z.nii": LUNG, "n/d.nii": CT, "o/d.nii": CT, "k/d/z.nii": LUNG,
        },
    )  # fmt: skip
    shuffled.seed(0)
    first = open_supervisely(tmp_path)
    shuffled.seed(seed + 1)
    again = open_supervisely(tmp_path)
    assert list(table(again, tmp_path).items()) == list(table(first, tmp_path).items())
    assert (again.skipped, again.remarks, again.matches, again.classes) == (
        first.skipped,
        first.remarks,
        first.matches,
        first.classes,
    )


def test_no_voxel_is_read_when_listing(tmp_path: Path) -> None:
    """Half of each file is missing; headers do not tell."""
    rng = np.random.default_rng(0)
    noise = rng.integers(1, 200, (20, 20, 20)).astype("u1")
    plant(tmp_path, {"a.nii.gz": noise, "a/lung.nii.gz": noise})
    for path in tmp_path.rglob("*.nii.gz"):
        path.write_bytes(path.read_bytes()[:3000])
    (case,) = quiet(open_supervisely(tmp_path)).cases
    with pytest.raises(InvalidInput):
        case.labels[0].file.read()


def test_nifti_helper_writes_what_nibabel_reads(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", LUNG)
    assert path.stat().st_size == 352 + LUNG.size
