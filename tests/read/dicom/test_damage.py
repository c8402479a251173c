"""Files whose bytes were changed: they are read, or refused with an error of ours; nothing else."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.read.dicom.series import BIG, EXPLICIT, IMPLICIT, enhanced, item, pydicom, save, voxels, write_series
from voxtract.errors import VoxtractError
from voxtract.read.dicom import open_dicom

RLE = "1.2.840.10008.1.2.5"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A slice in three encodings, a multi-frame file, a compressed one, a segmentation."""
    folder = tmp_path_factory.mktemp("whole")
    for n, syntax in enumerate((EXPLICIT, IMPLICIT, BIG)):
        write_series(folder, voxels((4, 3, 1)), syntax=syntax, start=n + 1, RescaleSlope="2", EchoTime="3")
    many = enhanced(voxels((4, 3, 3)))
    save(many, folder / "many.dcm")
    many.compress(RLE, generate_instance_uid=False)
    pydicom.dcmwrite(folder / "packed.dcm", many, enforce_file_format=True)
    seg = enhanced(voxels((4, 3, 3), "u1"), SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", SegmentationType="LABELMAP")
    seg.file_meta.MediaStorageSOPClassUID = seg.SOPClassUID
    seg.SegmentSequence = [item(SegmentNumber=1, SegmentLabel="one")]
    save(seg, folder / "seg.dcm")
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@settings(max_examples=200)
@given(data=st.data())
def test_changed_bytes_are_read_or_refused(
    originals: list[bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(originals[data.draw(st.integers(0, len(originals) - 1))])
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(132, len(raw) - 1))
        raw[place] = data.draw(st.sampled_from([0, 1, 0x20, 0x2E, 0x31, 0x5C, 0x7F, 0xFE, 0xFF]))
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    path: Path = tmp_path_factory.mktemp("changed") / "a.dcm"
    path.write_bytes(raw)
    said = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about what it decodes
        try:
            found = open_dicom(path)
            for case in found.cases:
                for file in (case.image, *(labels.file for labels in case.labels)):
                    if file is not None and file.header().nbytes < 1 << 20:
                        file.read()
        except VoxtractError as refused:
            said = str(refused)
    assert not said or said.startswith(str(path))
