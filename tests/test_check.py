"""The check before extracting: each fault alone, numbers against NumPy, and every volume decoded once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tests.conftest import WriteNifti
from tests.extractions import SCENES, write_scenes
from voxtract.check import CheckReport, check
from voxtract.errors import InvalidInput, NotFound
from voxtract.geometry import Grid
from voxtract.html.checked import check_html
from voxtract.model import Case, Header, LabelVolume, Skipped, Source, Volume

SHAPE = (6, 5, 4)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


@dataclass(eq=False)
class InMemory:
    """A volume file that counts how often it is decoded and hands out slabs of one plane."""

    data: NDArray[Any]
    where: str = "memory"
    affine: NDArray[np.float64] = field(default_factory=lambda: AFFINE)
    slope: float = 1.0
    intercept: float = 0.0
    volume_index: int | None = None
    decoded: int = 0

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.where,)

    def header(self) -> Header:
        shape = (self.data.shape[0], self.data.shape[1], self.data.shape[2])
        return Header(Grid(shape, self.affine), self.data.dtype, self.slope, self.intercept, self.where)

    def read(self) -> Volume:
        self.decoded += 1
        return Volume(self.header(), self.data)

    def slabs(self, planes: int) -> Generator[NDArray[Any], None, None]:
        self.decoded += 1
        assert planes >= 1
        for first in range(self.data.shape[2]):
            yield self.data[:, :, first : first + 1]


def listed(cases: tuple[Case, ...], skipped: tuple[Skipped, ...] = ()) -> Source:
    return Source("a list", cases, skipped)


def image(seed: int = 0, dtype: str = "int16", shape: tuple[int, ...] = SHAPE) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(1, 100, shape).astype(dtype)


def mask(shape: tuple[int, ...] = SHAPE, dtype: str = "uint8") -> NDArray[Any]:
    labels = np.zeros(shape, dtype)
    labels[1:3, 2, 1] = 3
    return labels


def one(data: NDArray[Any], labels: NDArray[Any] | None = None, case: str = "a", **options: Any) -> Case:
    image_file = InMemory(data, f"{case}/image")
    drawn = () if labels is None else (LabelVolume(InMemory(labels, f"{case}/labels", **options)),)
    return Case(case, image_file, drawn)


def checked(*cases: Case, **options: Any) -> CheckReport:
    return check(listed(cases, **options), progress=False)


def kinds(report: CheckReport) -> tuple[list[str], list[str]]:
    return [p.kind for p in report.faults], [p.kind for p in report.warnings]


def test_a_sound_source_has_no_fault_and_no_warning(tmp_path: Path) -> None:
    data = write_scenes(tmp_path, SCENES[:1])
    report = check(data)
    assert kinds(report) == ([], [])
    assert report.exit_code == 0
    image_, labels = report.volumes
    assert (image_.case, image_.role, image_.shape) == ("case-a", "image", (24, 32, 10))
    assert (image_.spacing_mm, image_.orientation, image_.dtype) == ((1.0, 1.0, 3.0), "RAS", "int16")
    stored = np.asarray(nib.load(data / "images/case-a.nii.gz").dataobj)  # type: ignore[attr-defined]
    assert image_.range == (stored.min(), stored.max())
    assert labels.labels == {1: 6 * 8 * 4 + 4, 2: 6 * 4 * 4}
    assert report.summary.endswith("1 cases, 2 volumes, 0 faults, 0 warnings")


@settings(max_examples=60, deadline=None)
@given(
    data=hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.uint64, np.int64, np.float32, np.float64]),
        st.tuples(*[st.integers(1, 4)] * 3),
        elements={"min_value": 0, "max_value": 200} | {},
    ),
    slope=st.sampled_from([1.0, 0.5, -2.0]),
)
def test_numbers_are_those_of_numpy(data: NDArray[Any], slope: float) -> None:
    file = InMemory(data, slope=slope)
    (volume,) = check(listed((Case("a", labels=(LabelVolume(file),)),)), progress=False, workers=1).volumes
    values = data.astype(np.float64) * slope
    assert file.decoded == 1
    assert volume.range == (values.min(), values.max())
    whole = values == np.rint(values)
    assert volume.fractions == (~whole).sum()
    if whole.all():
        unique, counts = np.unique(values[values > 0], return_counts=True)
        assert volume.labels == dict(zip(unique.astype(int).tolist(), counts.tolist(), strict=True))
    else:
        assert volume.first_fraction is not None
        *voxel, value = volume.first_fraction
        assert values[tuple(voxel)] == value
        before = np.ravel_multi_index(voxel, data.shape, order="F")
        assert whole.ravel(order="F")[:before].all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_and_infinite_values_are_counted(dtype: str) -> None:
    data = image(dtype=dtype)
    data[0, 0, 0], data[1, 1, 1], data[2, 2, 3], data[3, 3, 3] = np.nan, np.nan, np.inf, -np.inf
    report = checked(one(data))
    (volume,) = report.volumes
    assert (volume.nan, volume.infinite) == (2, 2)
    assert volume.range == (np.nanmin(data[np.isfinite(data)]), data[np.isfinite(data)].max())
    assert kinds(report) == ([], ["values"])
    assert "2 voxels are NaN and 2 infinite" in report.warnings[0].text
    everything = checked(one(np.full(SHAPE, np.nan, dtype)))
    assert everything.volumes[0].range is None
    assert "every voxel has no finite value" in everything.warnings[1].text
    json.loads(everything.to_json())


def test_an_image_of_one_value_is_a_warning() -> None:
    report = checked(one(np.full(SHAPE, 7)))
    assert kinds(report) == ([], ["values"])
    assert "a/image: every voxel has the value 7" in report.warnings[0].text


def test_labels_of_another_shape_or_place_are_a_fault() -> None:
    report = checked(one(image(), mask((6, 5, 3))))
    assert kinds(report) == (["mismatch"], [])
    assert report.exit_code == 1
    assert "a/labels: does not lie on its image a/image: shape 6 x 5 x 4 against 6 x 5 x 3" in report.faults[0].text
    moved = AFFINE.copy()
    moved[0, 3] = 5
    report = checked(one(image(), mask(), affine=moved))
    assert kinds(report) == (["mismatch"], [])
    assert "allow_affine_mismatch" in report.faults[0].text
    assert kinds(checked(one(image(), mask(), affine=AFFINE + 1e-6))) == ([], [])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.where(mask() > 0, 1.5, 0.0), "2 fractional, the first 1.5 at voxel (1, 2, 1)"),
        (np.where(mask() > 0, np.nan, 0.0), "2 NaN"),
        (np.where(mask() > 0, np.inf, 1.0), "2 infinite"),
    ],
)
def test_labels_that_are_no_integers_are_a_fault(labels: NDArray[Any], said: str) -> None:
    report = checked(one(image(), labels))
    assert "not integral" in kinds(report)[0]
    assert said in report.faults[0].text
    assert "threshold=" in report.faults[0].text


def test_scaled_labels_count_as_what_they_mean() -> None:
    report = checked(one(image(), mask(), slope=0.5))
    assert "2 fractional, the first 1.5" in report.faults[0].text
    assert checked(one(image(), mask(), slope=2.0)).volumes[1].labels == {6: 2}


def test_labels_without_a_label_are_a_warning() -> None:
    report = checked(
        one(image(), mask() * 0), one(image(1), mask(), case="b"), one(image(2), -mask(dtype="int16"), "c")
    )
    assert kinds(report) == ([], ["empty", "empty"])
    assert [p.cases for p in report.warnings] == [("a",), ("c",)]


def test_the_same_voxels_under_two_names_are_a_fault() -> None:
    report = checked(one(image(), mask()), one(image(1), mask() * 2, "b"), one(image(), mask(), "c"))
    assert kinds(report) == (["duplicate"], [])  # once: the labels come with the image
    assert report.faults[0].cases == ("a", "c")
    assert "a/image: has the same voxels as c/image" in report.faults[0].text


def test_equal_labels_of_different_images_are_a_warning() -> None:
    report = checked(one(image(), mask()), one(image(1), mask(), "b"))
    assert kinds(report) == ([], ["duplicate"])
    assert kinds(checked(one(image(), mask() * 0), one(image(1), mask() * 0, "b"))) == ([], ["empty", "empty"])


def test_labels_that_are_the_image_are_a_fault() -> None:
    assert kinds(checked(one(image(), image()))) == (["duplicate"], [])


@pytest.mark.parametrize(
    "other",
    [image().astype("int32"), image()[:, :, ::-1].copy(), np.asfortranarray(image().reshape(5, 6, 4))],
    ids=["dtype", "order", "shape"],
)
def test_what_only_looks_alike_is_no_duplicate(other: NDArray[Any]) -> None:
    report = checked(one(image()), one(other, case="b"))
    assert all(problem.kind != "duplicate" for problem in (*report.faults, *report.warnings))


def test_memory_order_does_not_matter_for_duplicates() -> None:
    report = checked(one(np.ascontiguousarray(image())), one(np.asfortranarray(image()), case="b"))
    assert kinds(report) == (["duplicate"], [])


def test_grids_that_differ_are_warnings() -> None:
    files = [InMemory(image(n), f"{n}", np.diag([1.0, 1.0, 1.0 + 4 * (n == 3), 1.0])) for n in range(4)]
    files[1].affine = np.diag([-1.0, 1, 1, 1])
    files[2].data = image(2, "uint8")
    report = checked(*(Case(file.where, file) for file in files))
    assert kinds(report) == ([], ["grid", "grid", "grid"])
    turned, typed, spaced = report.warnings
    assert turned.text.startswith("orientation differs: RAS in 3 cases, LAS in 1; pass reorient='RAS'")
    assert typed.text.startswith("dtype differs: int16 in 3 cases, uint8 in 2;")
    assert "z 1 to 5 mm; 3 differ from the median" in spaced.text
    assert (turned.cases, typed.cases, spaced.cases) == (("1",), ("2",), ("3",))


def test_spacing_that_is_none_is_a_warning() -> None:
    report = checked(Case("a", InMemory(image(), "a", np.diag([1.0, 0.0, 1.0, 1.0]))))
    assert [p.kind for p in report.warnings] == ["grid"]
    assert "sizes in millimetres will be wrong" in report.warnings[0].text


def test_cases_without_a_partner_are_warnings_where_others_have_one() -> None:
    alone = Case("c", labels=(LabelVolume(InMemory(mask() + 1, "c/labels")),))
    report = checked(one(image(), mask()), one(image(1), case="b"), alone)
    assert kinds(report) == ([], ["alone", "alone"])
    assert [p.text for p in report.warnings] == [
        "b/image: has no labels, though other cases do",
        "c/labels: has no image, though other cases do",
    ]
    assert kinds(checked(one(image()))) == ([], [])


def test_files_left_out_are_warnings() -> None:
    report = checked(one(image()), skipped=(Skipped("x.mha", "convert it"),))
    assert kinds(report) == ([], ["left out"])
    assert report.warnings[0].text == "x.mha: convert it"


def test_files_that_do_not_read_are_faults_and_the_others_go_on(tmp_path: Path, write_nifti: WriteNifti) -> None:
    for name in "abcd":
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", image(ord(name)))
        write_nifti(tmp_path / "labels" / f"{name}.nii.gz", mask())
    path = tmp_path / "images" / "b.nii.gz"
    path.write_bytes(path.read_bytes()[:-30])
    (tmp_path / "labels" / "c.nii.gz").write_bytes(b"")
    whole = bytearray((tmp_path / "images" / "d.nii.gz").read_bytes())
    whole[-6] ^= 255  # its checksum, which stands at the very end
    (tmp_path / "images" / "d.nii.gz").write_bytes(bytes(whole))
    report = check(tmp_path, progress=False)
    assert [p.kind for p in report.faults] == ["unreadable"] * 3
    assert [p.cases for p in report.faults] == [("b",), ("c",), ("d",)]
    assert [bool(v.error) for v in report.volumes] == [False, False, True, False, False, True, True, False]


def test_every_volume_is_decoded_once_and_threads_change_nothing() -> None:
    cases = [one(image(n), mask() * (n + 1), f"case {n}") for n in range(9)]
    cases.append(one(image(3), mask() * 0, "again"))
    reports = []
    for workers in (1, 4):
        reports.append(check(listed(tuple(cases)), workers=workers, progress=False))
        assert all(file.decoded == workers // 4 + 1 for case in cases for file in (case.image, case.labels[0].file))  # type: ignore[union-attr]
    assert reports[0].to_dict() == reports[1].to_dict()


def test_the_report_is_json_and_text() -> None:
    report = checked(one(image(), mask()), one(image(), mask() * 0, "b"))
    told = json.loads(report.to_json())
    assert told == json.loads(json.dumps(report.to_dict()))
    assert told["volumes"][1]["labels"] == {"3": 2}
    assert told["exit_code"] == 1
    *_, fault, warning = str(report).splitlines()
    assert fault.startswith("fault: a/image: has the same voxels")
    assert warning.startswith("warning: b/labels: holds no label")


def test_labels_of_em_size() -> None:
    labels = mask(dtype="uint64")
    labels[0, 0, 0] = 2**63 + 5
    assert checked(one(image(), labels)).volumes[1].labels == {3: 2, 2**63 + 5: 1}


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing-here"):
        check(tmp_path / "nothing-here")
    with pytest.raises(InvalidInput, match="workers 0"):
        check(listed((one(image()),)), workers=0)


def test_the_page_has_all_of_it_and_escapes_names(tmp_path: Path, write_nifti: WriteNifti) -> None:
    name = "<script>alert('&')"
    write_nifti(tmp_path / "images" / f"{name}.nii.gz", image())
    write_nifti(tmp_path / "labels" / f"{name}.nii.gz", mask())
    shutil.copy(tmp_path / "images" / f"{name}.nii.gz", tmp_path / "images" / "copy.nii.gz")
    write_nifti(tmp_path / "labels" / "copy.nii.gz", np.where(mask() > 0, 0.5, 0.0))
    report = check(tmp_path, progress=False)
    html = check_html(report)
    assert name not in html
    assert html.count("&lt;script&gt;alert(&#x27;&amp;&#x27;)") >= 3
    for problem in (*report.faults, *report.warnings):
        assert problem.text.split(": ", 1)[1][:20].replace("'", "&#x27;") in html
    assert "2 faults to mend before an extraction." in html
    assert check_html(checked(one(image()))).count("Nothing stands out.") == 1
