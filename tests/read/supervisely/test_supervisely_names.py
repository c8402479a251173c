"""Tables of names in, what they say out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtract.read.supervisely.names import VIEW_OF, natural, parse, stem_of, volume_stem

P1, C1 = "0c5d2b1e-7c26-4dc5-8d2e-6c0b1f4d9a01", "AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE"


@pytest.mark.parametrize(
    ("name", "kind", "plane", "index"),
    [
        ("axl_anatomic.nii", "volume", "axl", None),
        ("axl_anatomic.nii.gz", "volume", "axl", None),
        ("AXL_Anatomical_2.NII.GZ", "volume", "axl", 2),
        ("cor_inference_03.nii", "labels", "cor", 3),
        ("sag_label.nii", "labels", "sag", None),
        ("sag_labels_10.nii", "labels", "sag", 10),
        ("cor_annotation.nii", "labels", "cor", None),
        ("cor_mask.nii", "labels", "cor", None),
        ("cor_segmentation.nii", "labels", "cor", None),
        ("cor_ann.nii", "labels", "cor", None),
        ("anns-cor.nii", "labels", "cor", None),
        ("knee-axl-anatomic.nii", "volume", "axl", None),
        ("knee.axl.mask 7.nii.gz", "labels", "axl", 7),
        ("axl_score.csv", "scores", "axl", None),
        ("AXL_SCORES_2.CSV", "scores", "axl", 2),
        ("axl_score.nii", None, "axl", None),
        ("axl_notes.csv", None, "axl", None),
        ("axl.nii", None, "axl", None),
        ("mask.nii", "labels", None, None),
        ("banner_axl.nii", None, "axl", None),  # "ann" only as a word of its own
        ("CTChest.nii.gz", None, None, None),
        ("lung.lower.nii.gz", None, None, None),
        ("axl_anatomic.nrrd", "volume", "axl", None),
        ("axl_anatomic.nii.nrrd", "volume", "axl", None),
        ("axl_mask_2b.nii", "labels", "axl", None),
    ],
)
def test_what_a_name_says(name: str, kind: str | None, plane: str | None, index: int | None) -> None:
    found = parse(name)
    assert (found.kind, found.plane, found.index, found.owner) == (kind, plane, index, None)
    assert (found.inner, found.remarks, found.problem) == (False, (), "")
    assert found.view == (None if plane is None else VIEW_OF[plane])


@pytest.mark.parametrize(
    ("name", "plane"), [("axl1_mask.nii", "axl"), ("T1_corrected.nii", "cor"), ("sagittal_label.nii", "sag")]
)
def test_a_plane_inside_of_a_word_counts_with_a_remark(name: str, plane: str) -> None:
    found = parse(name)
    assert (found.plane, found.inner) == (plane, True)
    assert len(found.remarks) == 1
    assert repr(plane) in found.remarks[0]


@pytest.mark.parametrize("name", ["axial_mask.nii", "score_mask.nii", "axl1cor2_mask.nii", "scores.csv"])
def test_no_plane_where_none_or_two_are_inside_of_words(name: str) -> None:
    assert (parse(name).plane, parse(name).problem) == (None, "")


def test_the_plane_is_not_looked_for_in_the_word_score() -> None:
    assert parse("score_axl1.csv").plane == "axl"


@pytest.mark.parametrize("pair", [*itertools.combinations(VIEW_OF, 2)])
def test_two_planes_are_a_problem(pair: tuple[str, str]) -> None:
    found = parse(f"{pair[1]}_mask_{pair[0].upper()}.nii")
    assert found.plane is None
    assert found.problem == f"names two planes, {pair[0]!r} and {pair[1]!r}"


def test_the_same_plane_twice_is_one() -> None:
    assert parse("axl_mask_AXL.nii").plane == "axl"


def test_a_volume_that_is_called_like_labels_too_is_a_volume_with_a_remark() -> None:
    found = parse("axl_anatomic_mask.nii")
    assert found.kind == "volume"
    assert len(found.remarks) == 1


@pytest.mark.parametrize("rest", ["axl_anatomic", "a_axl_inference_2", "axl-mask"])
@pytest.mark.parametrize("mark", ["_", "-", "."])
def test_two_uuids_say_whose_it_is(rest: str, mark: str) -> None:
    found = parse(f"{P1}{mark}{C1}_{rest}.nii.gz")
    assert found.owner == (P1.lower(), C1.lower())
    assert found.plane == "axl"
    assert parse(f"{P1}_{rest}.nii").owner is None
    assert parse(f"{P1}_{C1}x_{rest}.nii").owner is None


def test_digits_of_a_uuid_are_no_number_at_the_end() -> None:
    one = "0c5d2b1e-7c26-4dc5-8d2e-012345678901"
    assert parse(f"axl_mask_{one}_{one}.nii").owner is None
    assert parse(f"{one}_{one}_axl_mask.nii").index is None


@given(
    word=st.sampled_from(["inference", "Label", "annotations", "MASK", "segmentation", "ann"]),
    plane=st.sampled_from([*VIEW_OF, *map(str.upper, VIEW_OF)]),
    marks=st.lists(st.sampled_from("_-. "), min_size=4, max_size=4),
    number=st.integers(0, 99) | st.none(),
    before=st.sampled_from(["", "knee", "T2"]),
)
def test_labels_and_their_volume_have_the_same_base(
    word: str, plane: str, marks: list[str], number: int | None, before: str
) -> None:
    parts = [*([before] if before else []), plane, "{}", *([] if number is None else [str(number)])]
    pattern = "".join(map("{}{}".format, parts, marks)).rstrip("_-. ")
    volume, mask, scores = (
        parse(pattern.format(kind) + suffix)
        for kind, suffix in (("anatomic", ".nii"), (word, ".nii.gz"), ("SCORE", ".csv"))
    )
    assert [one.kind for one in (volume, mask, scores)] == ["volume", "labels", "scores"]
    assert {one.base for one in (volume, mask, scores)} == {volume.base}
    assert {one.plane for one in (volume, mask, scores)} == {plane.lower()}
    assert {one.index for one in (volume, mask, scores)} == {number}


@pytest.mark.parametrize(
    ("labels", "volume"),
    [
        ("axl_inference.nii", "axl_anatomic.nii.gz"),
        ("AXL-masks-2.nii", "axl-anatomic-2.nii"),
        ("knee_axl_ann.nii", "knee_axl_anatomical.nii"),
        (f"{P1}_{C1}_axl_label.nii", "axl_anatomic.nrrd"),  # whose it is, is told elsewhere
    ],
)
def test_base(labels: str, volume: str) -> None:
    assert parse(labels).base == parse(volume).base


def test_series_is_the_base_without_the_number() -> None:
    assert parse("axl_inference_12.nii").series == parse("axl_anatomic.nii").base
    assert parse("axl_12_inference.nii").series == "axl_12_*"
    assert parse("axl_a_inference_12.nii").series != parse("axl_anatomic.nii").base


@pytest.mark.parametrize(
    ("name", "stem"), [("a.b.nii.gz", "a.b"), ("a.NII", "a"), ("left lung.lower.nii.gz", "left lung.lower"), ("a", "a")]
)
def test_volume_stem(name: str, stem: str) -> None:
    assert volume_stem(name) == stem


@pytest.mark.parametrize(("name", "stem"), [("a.nii.gz", "a"), ("a.nii.csv", "a"), ("a.b.nrrd", "a.b"), ("a.gz", "a")])
def test_stem(name: str, stem: str) -> None:
    assert stem_of(name) == stem


def test_natural_order() -> None:
    names = ["m_10", "m_2", "m_1", "a", "m", "m_02"]
    assert sorted(sorted(names), key=natural) == ["a", "m", "m_1", "m_02", "m_2", "m_10"]


@given(st.text(max_size=40))
def test_any_name_can_be_parsed(name: str) -> None:
    found = parse(name)
    assert found.plane is None or not found.problem
    natural(name)
