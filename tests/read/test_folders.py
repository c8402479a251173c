"""Which cases a path holds: tables of names in, ids and reasons out."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.read.test_nifti import encoded, voxels, write
from voxtract.errors import InvalidInput, NotFound, UnreadableFile, VoxtractError
from voxtract.model import Case, Source, VolumeFile
from voxtract.read import NiftiFile, open_source, plain_file, plain_folder


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def table(source: Source, root: Path) -> dict[str, tuple[str | None, str | None]]:
    def name(file: VolumeFile | None) -> str | None:
        return None if file is None else Path(file.where).relative_to(root).as_posix()

    cases = {case.id: (name(case.image), name(labels_of(case))) for case in source.cases}
    assert len(cases) == len(source.cases)
    return cases


def labels_of(case: Case) -> VolumeFile | None:
    (only,) = case.labels or (None,)
    return None if only is None else only.file


def skipped(source: Source, root: Path) -> dict[str, str]:
    return {Path(skip.where).relative_to(root).as_posix(): skip.reason for skip in source.skipped}


def complaint(error: type[VoxtractError], *args: Any, **words: Any) -> str:
    with pytest.raises(error) as caught:
        open_source(*args, **words)
    assert caught.type is error
    return str(caught.value)


# --- one file, one folder


@pytest.mark.parametrize("name", ["a b.nii.gz", "a b.nii", "a b.NII.GZ", "a b.Nii"])
def test_one_file_is_an_image(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, "other.nii.gz")
    for given in (tmp_path / name, str(tmp_path / name)):
        source = open_source(given)
        assert table(source, tmp_path) == {"a b": (name, None)}
        assert source.description == str(tmp_path / name)
    assert table(open_source(labels=tmp_path / name), tmp_path) == {"a b": (None, name)}
    assert table(open_source(image=tmp_path / name), tmp_path) == {"a b": (name, None)}


def test_the_files_of_a_source_can_be_read(tmp_path: Path) -> None:
    data = voxels("i2", (3, 4, 5, 2))
    (tmp_path / "images").mkdir()
    write(tmp_path / "images" / "a_0000.nii.gz", encoded(data))
    (tmp_path / "labels").mkdir()
    write(tmp_path / "labels" / "a.nii", encoded(data))
    (case,) = open_source(tmp_path, volume_index=1).cases
    assert case.image is not None
    (labels,) = case.labels
    assert (case.image.read().data == data[..., 1]).all()
    assert (labels.file.read().data == data[..., 1]).all()


def test_a_folder_lists_its_volumes_sorted_by_name(tmp_path: Path) -> None:
    names = ["b.nii.gz", "a.nii", "Ä.nii.gz", "c d.nii.gz", "case_0000.nii.gz", "case_0001.nii.gz", "Z.NII"]
    touch(tmp_path, *names, "notes.txt", "b.json", "sub/deep.nii.gz")
    source = open_source(tmp_path)
    stems = ["Z", "a", "b", "c d", "case_0000", "case_0001", "Ä"]  # numbers may count cases: nothing is taken off
    assert [case.id for case in source.cases] == stems
    assert all(case.labels == () for case in source.cases)
    assert source.skipped == ()


def test_hidden_files_and_other_formats_are_skipped_with_a_reason(tmp_path: Path) -> None:
    touch(
        tmp_path, "a.nii.gz", "._a.nii.gz", ".b.nii.gz", "c.hdr", "c.img", "d.nrrd", "e.DCM", ".git/f.nii.gz", "g.txt"
    )
    source = open_source(tmp_path, recursive=True)
    assert list(table(source, tmp_path)) == ["a"]
    assert skipped(source, tmp_path) == {
        "._a.nii.gz": "macOS metadata (AppleDouble), no volume",
        ".b.nii.gz": "hidden (its name begins with a dot)",
        ".git": "hidden (its name begins with a dot)",
        "c.hdr": "is no .nii or .nii.gz file; convert it to NIfTI",
        "c.img": "is no .nii or .nii.gz file; convert it to NIfTI",
        "d.nrrd": "is no .nii or .nii.gz file; convert it to NIfTI",
        "e.DCM": "is no .nii or .nii.gz file; convert it to NIfTI",
    }


def test_what_cannot_be_read_stays_a_case_that_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "folder.nii.gz").mkdir()
    touch(tmp_path, "folder.nii.gz/inside.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to("gone")
    write(tmp_path / "whole.nii.gz", encoded(voxels("i2")))
    for source in (open_source(tmp_path), open_source(tmp_path, recursive=True), plain_folder(tmp_path, "image")):
        assert [case.id for case in source.cases] == ["folder", "link", "whole"]
        errors = []
        for case in source.cases:
            assert case.image is not None
            try:
                case.image.read()
            except VoxtractError as error:
                errors.append(type(error))
        assert errors == [InvalidInput, NotFound]


def test_recursive_ids_tell_where_the_file_lies(tmp_path: Path) -> None:
    touch(tmp_path, "z.nii", "p1/scan.nii.gz", "p1/t 2/scan.nii.gz", "p2/scan.nii.gz")
    source = open_source(tmp_path, recursive=True)
    assert table(source, tmp_path) == {
        "p1_scan": ("p1/scan.nii.gz", None),
        "p1_t 2_scan": ("p1/t 2/scan.nii.gz", None),
        "p2_scan": ("p2/scan.nii.gz", None),
        "z": ("z.nii", None),
    }
    assert not any("/" in case.id for case in source.cases)


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.nii.gz")
    (tmp_path / "a" / "circle").symlink_to(tmp_path)
    source = open_source(tmp_path, recursive=True)
    assert list(table(source, tmp_path)) == ["a_x"]
    assert skipped(source, tmp_path) == {"a/circle": "is a link to a folder; give that folder itself"}


@pytest.mark.parametrize("names", [("a.nii", "a.nii.gz"), ("a.nii.gz", "a.NII.GZ"), ("p_a.nii", "p/a.nii.gz")])
def test_two_files_with_one_id_are_an_error_that_names_both(tmp_path: Path, names: tuple[str, str]) -> None:
    touch(tmp_path, *names)
    text = complaint(InvalidInput, tmp_path, recursive=True)
    assert all(str(tmp_path / name) in text for name in names)
    assert "both are case" in text


def test_ten_thousand_names(tmp_path: Path) -> None:
    images = [f"images/case {i:05}_0000.nii.gz" for i in range(10_000)]
    labels = [f"labels/case {i:05}.nii.gz" for i in range(10_000)]
    shuffled = images + labels
    random.Random(1).shuffle(shuffled)
    touch(tmp_path, *shuffled)
    source = open_source(tmp_path)
    assert [case.id for case in source.cases] == [f"case {i:05}" for i in range(10_000)]
    assert [case.image for case in source.cases] == [NiftiFile(tmp_path / name) for name in images]
    assert [labels_of(case) for case in source.cases] == [NiftiFile(tmp_path / name) for name in labels]
    assert source.skipped == ()
    assert [case.id for case in open_source(tmp_path / "images").cases] == [f"case {i:05}_0000" for i in range(10_000)]


# --- nothing to find


def test_what_is_not_there(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for words in ({"path": gone}, {"image": gone}, {"labels": gone}, {"image": gone, "labels": tmp_path}):
        assert complaint(NotFound, **words).startswith(f"{gone}: no such file or folder")
    touch(tmp_path, "file")
    assert complaint(NotFound, tmp_path / "file" / "a.nii.gz").startswith(f"{tmp_path / 'file' / 'a.nii.gz'}: no such")


def test_an_empty_folder(tmp_path: Path) -> None:
    text = complaint(NotFound, tmp_path)
    assert text.startswith(f"{tmp_path}: holds no .nii or .nii.gz file; give a .nii or .nii.gz file, a folder of them")
    assert "recursive=True" in text
    touch(tmp_path, "a.dcm", "b.dcm", "sub/c.nii.gz")
    text = complaint(NotFound, tmp_path)
    assert f"(2 skipped, first {tmp_path / 'a.dcm'}: is no .nii or .nii.gz file; convert it to NIfTI)" in text
    assert "recursive=True" not in complaint(NotFound, touch(tmp_path / "x", "y.txt"), recursive=True)


def test_a_file_that_is_not_recognised(tmp_path: Path) -> None:
    touch(tmp_path, "a.nrrd")
    text = complaint(InvalidInput, tmp_path / "a.nrrd")
    assert text.startswith(f"{tmp_path / 'a.nrrd'}: is not recognised; give a .nii or .nii.gz file, a folder of them")
    (case,) = open_source(tmp_path / "a.nrrd", format="nifti").cases
    assert case.id == "a.nrrd"


def test_words_that_are_wrong(tmp_path: Path) -> None:
    allowed = "'nifti', 'zarr', 'dicom', 'supervisely', 'labelbox', 'webknossos'"
    assert complaint(InvalidInput, tmp_path, format="mhd") == f"format 'mhd' is not known; allowed: {allowed}"
    assert "mode: not known to the reader of format 'nifti'" in complaint(InvalidInput, tmp_path, mode="instance")
    assert complaint(InvalidInput) == "nothing to open; give a path, image= or labels="
    touch(tmp_path, "a.nii.gz")
    for empty in ("", (), ("_seg", "")):
        assert "is empty" in complaint(InvalidInput, tmp_path, labels_suffix=empty)
    touch(tmp_path, "...nii.gz")
    assert "cannot be a case id" in complaint(InvalidInput, tmp_path / "...nii.gz")
    assert "cannot be a case id" in complaint(InvalidInput, touch(tmp_path / "d", ".nii") / ".nii")


def test_a_folder_that_the_system_does_not_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.nii.gz", "closed/b.nii.gz", "open/c.nii.gz")
    scandir = os.scandir

    def closed(path: Any) -> Any:  # as root every folder opens
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    text = f"{tmp_path / 'closed'}: cannot be listed: Permission denied; check its permissions"
    assert complaint(UnreadableFile, tmp_path / "closed") == text
    source = open_source(tmp_path, recursive=True)
    assert list(table(source, tmp_path)) == ["a", "open_c"]
    assert skipped(source, tmp_path) == {"closed": text}


# --- pairs


@pytest.mark.parametrize(
    ("image", "labels", "case"),
    [
        ("a", "a", "a"),
        ("a_0000", "a", "a"),  # nnU-Net
        ("a", "a_seg", "a"),
        ("a", "a_label", "a"),
        ("a", "a_labels", "a"),
        ("a", "a_mask", "a"),
        ("a_0000", "a_seg", "a"),
        ("a_0000", "a_0000", "a_0000"),
        ("a_0000", "a_0000_seg", "a_0000"),
        ("a_mask", "a_mask", "a_mask"),
        ("ä ö", "ä ö_seg", "ä ö"),
        ("a.b", "a.b_seg", "a.b"),
    ],
)
@pytest.mark.parametrize(
    "folders", [("images", "labels"), ("imagesTr", "labelsTr"), ("img", "mask"), ("Images", "Masks")]
)
def test_names_that_make_a_pair(tmp_path: Path, image: str, labels: str, case: str, folders: tuple[str, str]) -> None:
    first, second = f"{folders[0]}/{image}.nii.gz", f"{folders[1]}/{labels}.nii"
    touch(tmp_path, first, second)
    wanted = {case: (first, second)}
    one, other = (tmp_path / name for name in folders)
    assert table(open_source(tmp_path), tmp_path) == wanted
    assert table(open_source(image=one, labels=other), tmp_path) == wanted
    assert table(open_source(one, labels=other), tmp_path) == wanted
    assert table(open_source(tmp_path, image=folders[0], labels=folders[1]), tmp_path) == wanted
    assert table(open_source(tmp_path, image=one, labels=other), tmp_path) == wanted
    assert table(open_source(image=tmp_path / first, labels=tmp_path / second), tmp_path) == wanted
    assert table(open_source(image=tmp_path / first, labels=other), tmp_path) == wanted
    assert table(open_source(image=one, labels=tmp_path / second), tmp_path) == wanted


def test_numbered_cases_pair_by_their_full_names(tmp_path: Path) -> None:
    names = [f"img_{i:04}" for i in range(4)]
    touch(tmp_path, *(f"{folder}/{name}.nii.gz" for folder in ("images", "labels") for name in names))
    source = open_source(tmp_path)
    assert [case.id for case in source.cases] == names
    assert source.skipped == ()


def test_nnunet_with_two_channels(tmp_path: Path) -> None:
    touch(tmp_path, *(f"imagesTr/{case}_{channel:04}.nii.gz" for case in ("a", "b") for channel in range(2)))
    touch(tmp_path, "labelsTr/a.nii.gz", "labelsTr/b.nii.gz", "imagesTs/c_0000.nii.gz", "dataset.json", "stray.nii.gz")
    source = open_source(tmp_path)
    assert table(source, tmp_path) == {
        "a": ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"),
        "b": ("imagesTr/b_0000.nii.gz", "labelsTr/b.nii.gz"),
    }
    beside = "lies beside imagesTr and labelsTr, which are taken; open it by itself"
    assert skipped(source, tmp_path) == {
        "imagesTr/a_0001.nii.gz": "another channel of case 'a'; image_suffix='_0001' takes it instead",
        "imagesTr/b_0001.nii.gz": "another channel of case 'b'; image_suffix='_0001' takes it instead",
        "imagesTs": beside,
        "stray.nii.gz": beside,
    }
    second = open_source(tmp_path, image_suffix="_0001")
    assert table(second, tmp_path) == {
        "a": ("imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz"),
        "b": ("imagesTr/b_0001.nii.gz", "labelsTr/b.nii.gz"),
    }
    assert skipped(second, tmp_path)["imagesTr/a_0000.nii.gz"].startswith("another channel of case 'a'")
    alone = open_source(tmp_path / "imagesTr", image_suffix="_0001")
    assert table(alone, tmp_path) == {"a": ("imagesTr/a_0001.nii.gz", None), "b": ("imagesTr/b_0001.nii.gz", None)}
    assert skipped(alone, tmp_path)["imagesTr/a_0000.nii.gz"] == "its name does not end with '_0001'"


def test_suffixes_of_ones_own(tmp_path: Path) -> None:
    names = ["p1/p1_t1.nii.gz", "p1/p1_t2.nii.gz", "p1/p1_tumor.nii.gz", "p2/p2_t1.nii.gz", "p2/p2_liver.nii.gz"]
    touch(tmp_path, *names)
    source = open_source(tmp_path, recursive=True, image_suffix="_t1", labels_suffix=("_tumor", "_liver"))
    assert table(source, tmp_path) == {"p1_p1": (names[0], names[2]), "p2_p2": (names[3], names[4])}
    assert skipped(source, tmp_path) == {names[1]: "its name does not end with '_t1'"}
    assert list(table(open_source(labels=tmp_path, recursive=True, labels_suffix="_liver"), tmp_path)) == ["p2_p2"]
    text = complaint(NotFound, tmp_path, recursive=True, image_suffix="_ct")
    assert "no file name ends with '_ct'" in text


def test_images_and_labels_in_one_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "a_seg.nii.gz", "b_0000.nii.gz", "b_mask.nii.gz", "c.nii.gz", "d_seg.nii.gz")
    source = open_source(tmp_path)
    assert table(source, tmp_path) == {"a": ("a.nii.gz", "a_seg.nii.gz"), "b": ("b_0000.nii.gz", "b_mask.nii.gz")}
    assert skipped(source, tmp_path) == {
        "c.nii.gz": "no labels for case 'c'",
        "d_seg.nii.gz": "no labels for case 'd_seg'",
    }


def test_a_labels_suffix_without_an_image_is_just_a_name(tmp_path: Path) -> None:
    touch(tmp_path, "a_seg.nii.gz", "b_mask.nii.gz")
    assert table(open_source(tmp_path), tmp_path) == {
        "a_seg": ("a_seg.nii.gz", None),
        "b_mask": ("b_mask.nii.gz", None),
    }


def test_what_has_no_partner_is_skipped_with_a_reason(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "images/a.nii.gz",
        "images/b_0000.nii.gz",
        "labels/a_seg.nii.gz",
        "labels/c_seg.nii.gz",
        "labels/._x.nii",
    )
    source = open_source(tmp_path)
    assert list(table(source, tmp_path)) == ["a"]
    assert skipped(source, tmp_path) == {
        "images/b_0000.nii.gz": "no labels for case 'b_0000' or 'b'",
        "labels/._x.nii": "macOS metadata (AppleDouble), no volume",
        "labels/c_seg.nii.gz": "no image for case 'c_seg' or 'c'",
    }


def test_a_suffix_alone_is_no_case(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii", "images/_0000.nii", "labels/a.nii", "labels/_seg.nii")
    source = open_source(tmp_path)
    assert list(table(source, tmp_path)) == ["a"]
    assert skipped(source, tmp_path) == {
        "images/_0000.nii": "no labels for case '_0000'",
        "labels/_seg.nii": "no image for case '_seg'",
    }


def test_no_pair_at_all_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz", "labels/x.nii.gz", "labels/y.nii.gz")
    text = complaint(InvalidInput, tmp_path)
    assert "no image belongs to any labels; there are 1 images, the first a.nii.gz, and 2 label volumes" in text
    assert "image_suffix=" in text


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("images/a.nii", "images/a.nii.gz", "labels/a.nii"), ("images/a.nii ", "images/a.nii.gz:")),
        (("images/a.nii", "images/a_0000.nii", "labels/a.nii"), ("images/a.nii ", "images/a_0000.nii:")),
        (("images/a.nii", "labels/a_seg.nii", "labels/a_mask.nii"), ("labels/a_mask.nii ", "labels/a_seg.nii:")),
        (("images/a.nii", "labels/a.nii", "labels/a_seg.nii"), ("labels/a.nii ", "labels/a_seg.nii:")),
        (("a.nii", "a_seg.nii.gz", "a_mask.nii.gz"), ("a_mask.nii.gz ", "a_seg.nii.gz:")),
    ],
)
def test_no_pair_is_guessed(tmp_path: Path, names: tuple[str, ...], said: tuple[str, str]) -> None:
    touch(tmp_path, *names)
    text = complaint(InvalidInput, tmp_path)
    assert text.startswith(f"{tmp_path / said[0].strip()} and {tmp_path / said[1]} both are case 'a'")


def test_two_files_that_are_said_to_belong_together_do(tmp_path: Path) -> None:
    touch(tmp_path, "scan 7.nii.gz", "lesions.nii")
    source = open_source(tmp_path, image="scan 7.nii.gz", labels="lesions.nii")
    assert table(source, tmp_path) == {"scan 7": ("scan 7.nii.gz", "lesions.nii")}
    assert source.skipped == ()


def test_several_layouts_in_one_folder_are_not_guessed(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii", "labels/a.nii", "masks/a.nii")
    text = complaint(InvalidInput, tmp_path)
    assert "(images, labels, masks); say which with image= and labels=" in text
    assert list(table(open_source(tmp_path, image="images", labels="masks"), tmp_path)) == ["a"]


def test_pairs_in_folders_of_folders(tmp_path: Path) -> None:
    touch(tmp_path, "images/p1/a.nii", "images/p2/a.nii", "labels/p1/a_seg.nii", "labels/p2/a_seg.nii")
    source = open_source(tmp_path, recursive=True)
    assert table(source, tmp_path) == {
        "p1_a": ("images/p1/a.nii", "labels/p1/a_seg.nii"),
        "p2_a": ("images/p2/a.nii", "labels/p2/a_seg.nii"),
    }


# --- the plain functions


@pytest.mark.parametrize("kind", ["image", "labels"])
def test_plain_folder_takes_nii_gz_only(tmp_path: Path, kind: Literal["image", "labels"]) -> None:
    touch(
        tmp_path,
        "b_seg.nii.gz",
        "b.nii.gz",
        "a_0000.nii.gz",
        "c.nii",
        "d.NII.GZ",
        "._b.nii.gz",
        "sub/e.nii.gz",
        "x.txt",
    )
    source = plain_folder(str(tmp_path), kind)
    assert [case.id for case in source.cases] == ["a_0000", "b", "b_seg"]
    for case in source.cases:
        file = case.image if kind == "image" else labels_of(case)
        assert file == NiftiFile(tmp_path / f"{case.id}.nii.gz")
        assert (case.image is None) == (kind == "labels")
        assert (case.labels == ()) == (kind == "image")
    assert list(skipped(source, tmp_path)) == ["._b.nii.gz"]


def test_plain_folder_without_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "b.nii.gz/c.txt")
    for folder, said in [
        (tmp_path / "gone", "no such folder; check the spelling"),
        (tmp_path / "a.nii", "is a file, but a folder was expected; extract_slices takes a single file"),
        (tmp_path / "b.nii.gz", "holds no *.nii.gz file"),
    ]:
        with pytest.raises(FileNotFoundError) as caught:
            plain_folder(folder, "image")
        assert isinstance(caught.value, NotFound)
        assert str(caught.value).startswith(f"{folder}: {said}")


def test_plain_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.b.nii.gz", "c.txt")
    source = plain_file(tmp_path / "a.b.nii.gz", "labels", volume_index=2)
    assert [(case.id, labels_of(case)) for case in source.cases] == [("a.b", NiftiFile(tmp_path / "a.b.nii.gz", 2))]
    with pytest.raises(NotFound, match="no such file"):
        plain_file(tmp_path / "gone.nii.gz", "image")
    with pytest.raises(InvalidInput, match=r"is a folder, .* extract_slices_dataset takes a folder"):
        plain_file(tmp_path, "image")
    with pytest.raises(InvalidInput, match="is not recognised"):
        plain_file(tmp_path / "c.txt", "image")
