"""What a run leaves in its output folder, opened again: all of it, or an error that says what is damaged."""

from __future__ import annotations

import io
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import voxtract
from tests import oracles
from tests.conftest import WriteNifti
from voxtract.classes import ClassMap
from voxtract.errors import DamagedFile, NotFound, UnreadableFile
from voxtract.geometry import VIEWS, Grid, Plane
from voxtract.journal import Journal
from voxtract.model import Components, Findings
from voxtract.read.extraction import JOURNAL, findings_name, open_extraction, read_findings, read_journal
from voxtract.report import CaseResult
from voxtract.settings import Settings
from voxtract.write.files import Note
from voxtract.write.findings import encode_findings

texts = st.text('ab/_-é\udcff 漢"\\', max_size=6)


@st.composite
def components(draw: st.DrawFn) -> Components:
    """Any rows at all: reading them back must not depend on their making sense."""
    count = draw(st.integers(0, 4))
    corner = hnp.arrays(np.int64, (count, 3), elements=st.integers(0, 2**40))
    dtype = np.dtype(draw(st.sampled_from(["?", "u1", "i2", "u4", "i8", "u8"])))
    return Components(
        draw(corner),
        draw(corner),
        draw(hnp.arrays(dtype, count)),
        draw(hnp.arrays(np.int64, count, elements=st.integers(1, 2**40))),
        draw(st.none() | corner),
    )


@st.composite
def findings(draw: st.DrawFn) -> Findings:
    shape = draw(st.tuples(*(st.integers(1, 5000),) * 3))
    plane = Plane(draw(st.sampled_from(VIEWS)), shape)
    if draw(st.booleans()):
        plane = replace(plane, target_size=(plane.rows + 3, plane.columns))
    affine = draw(hnp.arrays(np.float64, (4, 4), elements=st.floats(-1e3, 1e3)))
    return Findings(
        draw(texts),
        plane,
        Grid(shape, affine),
        draw(components()),
        draw(st.sampled_from(["slice", "volume"])),
        draw(hnp.arrays(np.int64, st.integers(0, 5), elements=st.integers(0, 5000))),
        draw(texts),
        draw(texts),
        draw(st.booleans()),
        draw(st.none() | texts),
    )


def same(found: Findings, wanted: Findings) -> None:
    """Equal in every value and dtype."""
    for name in ("case_id", "plane", "extent", "stem", "suffix", "labelled", "split"):
        assert getattr(found, name) == getattr(wanted, name), name
    assert found.grid.shape == wanted.grid.shape
    arrays = [(found.grid.affine, wanted.grid.affine), (found.slices, wanted.slices)]
    assert (found.rows.total is None) == (wanted.rows.total is None)
    for name in ("start", "stop", "label", "count", "total"):
        if (column := getattr(wanted.rows, name)) is not None:
            arrays.append((getattr(found.rows, name), column))
    for array, other in arrays:
        assert array.dtype == other.dtype
        np.testing.assert_array_equal(array, other)


def sample(total: bool = False) -> Findings:
    """Two rows in one slice."""
    corners = np.array([[1, 2, 3], [4, 5, 3]])
    rows = Components(
        corners, corners + 2, np.array([7, 9], np.uint16), np.array([4, 3]), corners * 4 if total else None
    )
    return Findings(
        "ct-1",
        Plane("coronal", (20, 30, 40), target_size=(64, 64)),
        Grid((20, 30, 40), np.diag([-0.7, 0.7, 3.0, 1.0])),
        rows,
        "slice",
        np.arange(2, 9),
        "train/ct-1/coronal/ct-1_coronal_",
        ".tif",
        split="train",
    )


class TestFindings:
    @settings(deadline=None)
    @given(written=st.lists(findings(), max_size=3))
    def test_come_back_as_they_were(self, tmp_path_factory: pytest.TempPathFactory, written: list[Findings]) -> None:
        path = tmp_path_factory.getbasetemp() / "some.rows"
        path.write_bytes(encode_findings(written))
        found = read_findings(path)
        assert len(found) == len(written)
        for one, other in zip(found, written, strict=True):
            same(one, other)

    @pytest.mark.parametrize("total", [False, True])
    def test_rows_can_be_worked_with(self, tmp_path: Path, total: bool) -> None:
        path = tmp_path / "some.rows"
        path.write_bytes(encode_findings([sample(total)]))
        (found,) = read_findings(path)
        both = Components.join([found.rows.select(np.array([1])), found.rows.select(np.array([True, False]))]).moved(5)
        assert both.label.tolist() == [9, 7]
        assert both.start.tolist() == [[4, 5, 8], [1, 2, 8]]
        assert (both.total is not None) == total
        np.testing.assert_allclose(found.grid.points_mm(found.rows.box_center)[0], [-1.05, 1.75, 10.5])

    def test_the_same_findings_are_the_same_bytes(self) -> None:
        assert encode_findings([sample(), sample(True)]) == encode_findings([sample(), sample(True)])

    def test_cut_short_anywhere_are_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / "ct-1.rows"
        whole = encode_findings([sample(), sample(True)])
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(DamagedFile, match=r"ct-1\.rows: the findings are damaged .*overwrite=True"):
                read_findings(path)

    def test_with_any_bit_turned_are_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / "ct-1.rows"
        whole = encode_findings([sample()])
        for place in range(len(whole)):
            turned = bytearray(whole)
            turned[place] ^= 1 << place % 8
            path.write_bytes(turned)
            with pytest.raises(DamagedFile, match="the findings are damaged"):
                read_findings(path)
        path.write_bytes(whole + b"\0")
        with pytest.raises(DamagedFile, match="the findings are damaged"):
            read_findings(path)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\n",
            b"3\n",
            b'[{"case": "a"}]\n',
            b"\x00" * 500,
            b"X,Y,Z\n1,2,3\n",
            b"\xff\xfe not text\n",
            b"[null]\n",
        ],
    )
    def test_of_other_content_are_damaged(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "ct-1.rows"
        path.write_bytes(content)
        with pytest.raises(DamagedFile, match=r"ct-1\.rows: the findings are damaged"):
            read_findings(path)

    def test_that_hold_python_objects_are_not_run(self, tmp_path: Path) -> None:
        """An .npy file may hold a pickle, and loading a pickle runs what it says."""
        path, marker = tmp_path / "ct-1.rows", tmp_path / "ran"

        class Payload:
            def __reduce__(self) -> Any:
                return Path.touch, (marker,)

        body = io.BytesIO()
        body.write(encode_findings([sample()]).split(b"\n")[1] + b"\n")
        for _ in range(2):
            np.save(body, np.array([Payload()], object), allow_pickle=True)
        path.write_bytes(b"%08x\n" % zlib.crc32(body.getvalue()) + body.getvalue())
        with pytest.raises(DamagedFile):
            read_findings(path)
        assert not marker.exists()

    def test_that_are_missing_or_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DamagedFile, match=r"ct-1\.rows: is missing, though the journal says .*overwrite=True"):
            read_findings(tmp_path / "ct-1.rows")
        with pytest.raises(UnreadableFile, match="cannot be read: Is a directory"):
            read_findings(tmp_path)


def labelled(seed: int) -> NDArray[np.uint8]:
    return (np.random.default_rng(seed).random((8, 9, 6)) > 0.8).astype(np.uint8) * np.uint8(seed)


@pytest.fixture
def extracted(tmp_path: Path, write_nifti: WriteNifti) -> Path:
    """Three cases with labels, one of which is not readable, done in two views."""
    for seed, name in enumerate("abc", 1):
        write_nifti(tmp_path / f"in/images/{name}.nii.gz", np.full((8, 9, 6), seed, np.int16))
        write_nifti(tmp_path / f"in/labels/{name}.nii.gz", labelled(seed))
    broken = tmp_path / "in/labels/b.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-30])
    report = voxtract.extract(
        tmp_path / "in", tmp_path / "out", views=("axial", "sagittal"), target_size=(12, 12), class_map={"*": "lesion"}
    )
    assert [result.id for result in report.failed] == ["b"]
    return tmp_path / "out"


class TestExtraction:
    def test_has_the_settings_and_the_complete_cases(self, extracted: Path, tmp_path: Path) -> None:
        found = open_extraction(extracted)
        assert found.root == extracted
        wanted = Settings(views=("axial", "sagittal"), target_size=(12, 12), class_map={"*": "lesion"})
        assert found.settings == json.loads(json.dumps(wanted.to_dict()))
        assert found.class_map == ClassMap.of({"*": "lesion"})
        assert [(case.id, case.split, case.root) for case in found.cases] == [
            ("a", None, extracted),
            ("c", None, extracted),
        ]
        assert found.cases[1].inputs == (str(tmp_path / "in/images/c.nii.gz"), str(tmp_path / "in/labels/c.nii.gz"))
        assert open_extraction(str(extracted)) == found

    def test_has_the_components_that_flood_filling_finds(self, extracted: Path) -> None:
        found = list(open_extraction(extracted).findings())
        assert [(one.case_id, one.plane.view) for one in found] == [
            (case, view) for case in ("a", "c") for view in ("axial", "sagittal")
        ]
        for one in found:
            wanted = oracles.components(labelled(1 if one.case_id == "a" else 3), one.plane.view)
            assert len(wanted) > 3
            assert one.rows.start.tolist() == [list(row.start) for row in wanted]
            assert one.rows.stop.tolist() == [list(row.stop) for row in wanted]
            assert one.rows.label.tolist() == [row.label for row in wanted]
            assert one.rows.count.tolist() == [row.count for row in wanted]
            assert one.slices.tolist() == list(range(one.plane.count))
            assert (one.extent, one.labelled, one.split) == ("slice", True, None)

    def test_names_files_that_are_there(self, extracted: Path) -> None:
        for one in open_extraction(extracted).findings():
            for index in one.slices.tolist():
                assert (extracted / one.name(index)).is_file()
                assert (extracted / one.name(index, ".csv")).is_file()
            assert not (extracted / one.name(one.plane.count)).exists()

    def test_of_a_run_without_class_map_or_labels(self, tmp_path: Path, write_nifti: WriteNifti) -> None:
        write_nifti(tmp_path / "in/a.nii.gz", np.zeros((4, 5, 6), np.int16))
        voxtract.extract(tmp_path / "in", tmp_path / "out", annotations=None)
        found = open_extraction(tmp_path / "out")
        assert found.class_map is None
        (one,) = found.findings()
        assert (len(one.rows), one.labelled, one.suffix) == (0, False, ".tif")

    def test_parts_are_read_and_their_absence_is_damage(self, extracted: Path) -> None:
        found = open_extraction(extracted)
        name = next(found.findings()).name(0, ".csv")
        assert found.part(name) == (extracted / name).read_bytes()
        (extracted / name).unlink()
        with pytest.raises(DamagedFile, match=rf"{name}: cannot be read .*though the journal says .*--overwrite"):
            found.part(name)

    def test_is_not_somewhere_else(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
            with pytest.raises(NotFound, match=r"holds no extraction .*give the output folder of `voxtract extract`"):
                open_extraction(folder)

    def test_whose_findings_are_gone(self, extracted: Path) -> None:
        """A half-deleted folder: the first case is still whole, the second says what is wrong."""
        (extracted / findings_name("c")).unlink()
        found = open_extraction(extracted).findings()
        assert [next(found).case_id, next(found).case_id] == ["a", "a"]
        with pytest.raises(DamagedFile, match=r"c\.rows: is missing"):
            next(found)


class TestJournal:
    @pytest.fixture
    def out(self, tmp_path: Path) -> Path:
        journal = Journal(tmp_path, {"views": ["axial"]})
        for name, part in (("a", "train"), ("é \udcff", "val"), ("c", None)):
            result = CaseResult(name, "done", (), {"axial": 3}, split=part)
            journal.add(result, [[f"/in/{name}.nii.gz", None, 9, 9]], Note("manifest", 0, 0))
        journal.close()
        return tmp_path

    def test_is_read_as_it_was_written(self, out: Path) -> None:
        journal = read_journal(out)
        assert journal.head["settings"] == {"views": ["axial"]}
        assert set(journal.head["versions"]) == {"voxtract", "numpy", "scipy"}
        assert [*((line["case"], line["split"]) for line in journal.done.values())] == [
            ("a", "train"),
            ("é \udcff", "val"),
            ("c", None),
        ]
        found = open_extraction(out)
        assert [(case.id, case.split) for case in found.cases] == [("a", "train"), ("é \udcff", "val"), ("c", None)]
        assert found.cases[1].inputs == ("/in/é \udcff.nii.gz",)

    def test_of_a_case_done_again_has_it_once(self, out: Path) -> None:
        """A run goes on, does a case again whose inputs changed, and is killed before it puts the lines in order."""
        result = CaseResult("a", "done", (), {"axial": 4}, split="test")
        with Journal(out, {"views": ["axial"]}, resume=True) as journal:
            journal.add(result, [["/in/a.nii.gz", None, 10, 10]], Note("manifest", 0, 0))
        assert [(case.id, case.split) for case in open_extraction(out).cases] == [
            ("a", "test"),
            ("é \udcff", "val"),
            ("c", None),
        ]

    def test_cut_short_anywhere_holds_the_whole_lines(self, out: Path) -> None:
        path = out / JOURNAL
        whole = path.read_bytes()
        for length in range(len(whole) + 1):
            path.write_bytes(whole[:length])
            lines = whole[:length].count(b"\n")
            assert len(open_extraction(out).cases) == max(0, lines - 1)
            assert open_extraction(out).settings == ({"views": ["axial"]} if lines else {})

    @pytest.mark.parametrize("number", [1, 2, 3, 4])
    @pytest.mark.parametrize("line", [b"", b"{", b"3", b"[]", b"null", b"{}", b"\xff", b'{"case": "x"}'])
    def test_with_a_damaged_line_names_it(self, out: Path, number: int, line: bytes) -> None:
        path = out / JOURNAL
        lines = path.read_bytes().split(b"\n")
        lines[number - 1] = line
        path.write_bytes(b"\n".join(lines))
        with pytest.raises(DamagedFile, match=rf"journal\.jsonl: line {number} of 4 is damaged.*overwrite=True"):
            open_extraction(out)

    def test_that_is_a_folder_cannot_be_read(self, out: Path) -> None:
        (out / JOURNAL).unlink()
        (out / JOURNAL).mkdir()
        with pytest.raises(UnreadableFile, match="the journal of the run cannot be read: Is a directory"):
            open_extraction(out)
