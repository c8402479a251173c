"""Archives as folders, and every way in which one can be bad."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.read.contract import ReaderContract, Truth
from tests.read.test_nifti import OBLIQUE, encoded, voxels
from voxtract.errors import DamagedFile, InvalidInput, NotFound, OutputError, UnreadableFile, VoxtractError
from voxtract.model import VolumeFile
from voxtract.read import NiftiFile
from voxtract.read.archives import Limits, Member, is_archive, is_junk, stem_of, unpack, unpacked

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tgz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tbz2": bz2.compress,
    ".tar.xz": lzma.compress,
    ".txz": lzma.compress,
}
KINDS = (".zip", *PACKERS)


def packed(files: Mapping[str, bytes], kind: str = ".zip") -> bytes:
    out = io.BytesIO()
    if kind == ".zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return out.getvalue()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return PACKERS[kind](out.getvalue())


def tarred(*members: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return out.getvalue()


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(folder: Path, name: str, raw: bytes) -> Path:
    path = folder / name
    path.write_bytes(raw)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def complaint(path: Path, target: Path, error: type[VoxtractError], limits: Limits | None = None) -> str:
    with pytest.raises(error) as caught:
        unpack(path, target, *([] if limits is None else [limits]))
    assert caught.type is error
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert {one.name for one in target.parent.iterdir()} == {path.name, target.name} - (
        set() if path.exists() else {path.name}
    )
    return text.removeprefix(f"{path}: ")


# --- what comes out


@pytest.mark.parametrize("kind", KINDS)
def test_files_come_out_where_they_belong(tmp_path: Path, target: Path, kind: str) -> None:
    files = {"a.nii": b"1", "deep/down/b c.nii.gz": bytes(3_000_000), "ä/ö.txt": b"", "./x//y.txt": b"y"}
    path = put(tmp_path, f"set{kind}", packed(files, kind))
    assert unpack(path, target) == ()
    assert content(target) == {os.path.normpath(name): raw for name, raw in files.items()}


def test_folders_without_files_come_out(tmp_path: Path, target: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.mkdir("empty/inner")
    unpack(put(tmp_path, "a.zip", out.getvalue()), target)
    assert (target / "empty" / "inner").is_dir()
    folder = tarfile.TarInfo("other")
    folder.type = tarfile.DIRTYPE
    unpack(put(tmp_path, "a.tar", tarred(folder)), target)
    assert (target / "other").is_dir()


def test_archives_inside_come_out_next_to_themselves(tmp_path: Path, target: Path) -> None:
    innermost = packed({"c.nii": b"c"}, ".tar.xz")
    inner = packed({"b.nii": b"b", "x/deepest.tar.xz": innermost}, ".tar.gz")
    path = put(tmp_path, "a.zip", packed({"a.nii": b"a", "sub/patient 1.v2.tar.gz": inner}))
    assert unpack(path, target) == ()
    assert content(target) == {
        "a.nii": b"a",
        "sub/patient 1.v2/b.nii": b"b",
        "sub/patient 1.v2/x/deepest/c.nii": b"c",
    }


def test_junk_stays_inside(tmp_path: Path, target: Path) -> None:
    junk = [".DS_Store", "a/Thumbs.db", "__MACOSX/a/._b.nii", "a/desktop.ini", "a/._b.nii"]
    path = put(tmp_path, "a.zip", packed(dict.fromkeys([*junk, "a/b.nii"], b"junk")))
    unpack(path, target)
    assert content(target) == {"a/b.nii": b"junk"}


def test_names_in_utf8_that_are_not_marked_are_read(tmp_path: Path, target: Path) -> None:
    raw = packed({"lunge-ae.nii": b"x"}).replace(b"lunge-ae", "lunge-ä".encode())
    unpack(put(tmp_path, "a.zip", raw), target)
    assert content(target) == {"lunge-ä.nii": b"x"}


def test_windows_ways_are_ways(tmp_path: Path, target: Path) -> None:
    unpack(put(tmp_path, "a.zip", packed({"scan\\lung.nii": b"x"})), target)
    assert content(target) == {"scan/lung.nii": b"x"}


def test_thousands_of_members(tmp_path: Path, target: Path) -> None:
    path = put(tmp_path, "a.zip", packed({f"{i % 7}/{i}.txt": b"%d" % i for i in range(3000)}))
    unpack(path, target)
    assert len(content(target)) == 3000


@pytest.mark.parametrize("name", ["a.zip", "A.ZIP", "a.tar", "a.Tar.Gz", "a.tgz", "a.tar.bz2", "a.txz"])
def test_archives_are_told_by_name(name: str) -> None:
    assert is_archive(name)
    assert stem_of(name).lower() == "a"


@pytest.mark.parametrize("name", ["a.nii.gz", "a.gz", "zip", "a.zip.txt", "a.7z", "tar.nii"])
def test_others_are_no_archives(name: str) -> None:
    assert not is_archive(name)


@pytest.mark.parametrize("name", [".DS_Store", "__MACOSX", "Thumbs.db", "DESKTOP.INI", "._a.nii"])
def test_junk_is_told_by_name(name: str) -> None:
    assert is_junk(name)
    assert not is_junk(f"x{name}")


# --- what must not come out


@pytest.mark.parametrize("kind", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize(
    "name", ["../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "..\\evil.txt", "C:\\evil.txt", "c:/evil.txt", "a/.."]
)
def test_nothing_leaves_the_folder(tmp_path: Path, target: Path, kind: str, name: str) -> None:
    path = put(tmp_path, f"a{kind}", packed({name: b"evil"}, kind))
    assert "leaves the folder it is unpacked to" in complaint(path, target, InvalidInput)
    assert content(target) == {}


@given(parts=st.lists(st.sampled_from(["..", ".", "", "a", "/", "\\", "c:", "b.nii", " "]), min_size=1, max_size=6))
def test_whatever_the_name_nothing_leaves_the_folder(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    root = tmp_path_factory.mktemp("escape")
    (root / "out").mkdir()
    path = put(root, "a.tar", packed({"/".join(parts): b"x"}, ".tar"))
    with contextlib.suppress(VoxtractError):
        unpack(path, root / "out")
    assert {one.name for one in root.iterdir()} == {"a.tar", "out"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, target: Path, kind: bytes) -> None:
    link = tarfile.TarInfo("scan.nii")
    link.type, link.linkname = kind, "/etc/passwd"
    path = put(tmp_path, "a.tar", tarred(link, tarfile.TarInfo("b.nii")))
    assert complaint(path, target, InvalidInput).startswith("'scan.nii' is a link or a device")


def test_a_link_and_then_a_file_below_it_is_refused(tmp_path: Path, target: Path) -> None:
    link = tarfile.TarInfo("way")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    path = put(tmp_path, "a.tar", tarred(link, tarfile.TarInfo("way/evil.txt")))
    complaint(path, target, InvalidInput)


def test_links_in_a_zip_are_refused(tmp_path: Path, target: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        link = zipfile.ZipInfo("scan.nii")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    path = put(tmp_path, "a.zip", out.getvalue())
    assert complaint(path, target, InvalidInput).startswith("'scan.nii' is a link or a device")


@pytest.mark.parametrize("kind", KINDS)
def test_more_bytes_than_the_limit(tmp_path: Path, target: Path, kind: str) -> None:
    path = put(tmp_path, f"bomb{kind}", packed({f"{i}.nii": bytes(400_000) for i in range(5)}, kind))
    limits = Limits(nbytes=1_500_000)
    assert "unpack" in complaint(path, target, InvalidInput, limits)
    assert sum(map(len, content(target).values())) <= 1_500_000 + (1 << 20)


@pytest.mark.parametrize("kind", [".zip", ".tar.xz", ".tar.bz2"])
def test_more_than_the_ratio(tmp_path: Path, target: Path, kind: str) -> None:
    path = put(tmp_path, f"bomb{kind}", packed({"zeros.nii": bytes(20_000_000)}, kind))
    unpack(path, target)  # of no harm, small as it is
    (target / "zeros.nii").unlink()
    assert "which no data set does" in complaint(path, target, InvalidInput, Limits(ratio=100, small=1000))


def test_masks_as_small_as_deflate_makes_them_are_no_bomb(tmp_path: Path, target: Path) -> None:
    path = put(tmp_path, "a.tar.gz", packed({"mask.nii": bytes(5_000_000)}, ".tar.gz"))
    unpack(path, target, Limits(small=0))
    assert len(content(target)["mask.nii"]) == 5_000_000


def test_a_zip_that_lies_about_its_sizes(tmp_path: Path, target: Path) -> None:
    raw = bytearray(packed({"zeros.nii": bytes(1_000_000)}))
    for mark, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = raw.index(mark) + place
        raw[at : at + 4] = struct.pack("<I", 10)
    path = put(tmp_path, "a.zip", bytes(raw))
    complaint(path, target, DamagedFile)
    assert sum(map(len, content(target).values())) <= 10


@pytest.mark.parametrize("kind", [".zip", ".tar.gz"])
def test_more_members_than_the_limit(tmp_path: Path, target: Path, kind: str) -> None:
    path = put(tmp_path, f"a{kind}", packed({f"{i}": b"" for i in range(30)}, kind))
    assert complaint(path, target, InvalidInput, Limits(members=20)).startswith("holds more than 20 files")
    assert len(content(target)) <= 20


def test_limits_hold_for_all_archives_together(tmp_path: Path, target: Path) -> None:
    inner = packed({"zeros.nii": bytes(400_000)})
    path = put(tmp_path, "a.zip", packed({f"{i}.zip": inner for i in range(5)}))
    skipped = unpack(path, target, Limits(nbytes=1_000_000))
    assert [skip.where for skip in skipped] == [f"{path}/{i}.zip" for i in (2, 3, 4)]
    assert all("which no data set does" in skip.reason for skip in skipped)
    assert set(content(target)) == {"0/zeros.nii", "1/zeros.nii"}


def test_archives_too_deep_are_told(tmp_path: Path, target: Path) -> None:
    raw = packed({"a.nii": b"x"})
    for _ in range(4):
        raw = packed({"n.zip": raw})
    (skip,) = unpack(put(tmp_path, "a.zip", raw), target, Limits(depth=2))
    assert skip.where.endswith("a.zip/n.zip/n.zip/n.zip")
    assert skip.reason.startswith("lies too deep, in 2 archives")


def test_a_bad_archive_inside_does_not_stop_the_others(tmp_path: Path, target: Path) -> None:
    path = put(
        tmp_path,
        "a.zip",
        packed({"good.zip": packed({"a.nii": b"a"}), "bad.zip": b"PK no", "out.tar": packed({"../x": b""}, ".tar")}),
    )
    first, second = unpack(path, target)
    assert (first.where, second.where) == (f"{path}/bad.zip", f"{path}/out.tar")
    assert first.reason.startswith("the archive is damaged")
    assert "'../x' leaves the folder" in second.reason
    assert content(target) == {"good/a.nii": b"a"}
    assert not (target / "out").exists()


def test_a_folder_in_the_place_of_an_archive_inside_is_told(tmp_path: Path, target: Path) -> None:
    path = put(tmp_path, "a.zip", packed({"b/x.nii": b"x", "b.zip": packed({"y.nii": b"y"})}))
    (skip,) = unpack(path, target)
    assert skip.reason.startswith("a folder of its name lies beside it")
    assert content(target) == {"b/x.nii": b"x"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_one_name_twice_is_refused(tmp_path: Path, target: Path, kind: str) -> None:
    if kind == ".zip":
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("a.nii", b"1")
            archive.writestr("a.nii", b"2")
        raw = out.getvalue()
    else:
        raw = tarred(tarfile.TarInfo("a.nii"), tarfile.TarInfo("./a.nii"))
    assert "a.nii' twice" in complaint(put(tmp_path, f"a{kind}", raw), target, InvalidInput)


def test_a_name_that_is_file_and_folder_is_refused(tmp_path: Path, target: Path) -> None:
    path = put(tmp_path, "a.zip", packed({"a": b"1", "a/b.nii": b"2"}))
    assert complaint(path, target, InvalidInput).startswith("'a/b.nii' is both a file and a folder")


def test_an_encrypted_zip_is_refused(tmp_path: Path, target: Path) -> None:
    raw = bytearray(packed({"a.nii": b"secret"}))
    raw[raw.index(b"PK\3\4") + 6] |= 1
    raw[raw.index(b"PK\1\2") + 8] |= 1
    path = put(tmp_path, "a.zip", bytes(raw))
    assert complaint(path, target, InvalidInput).startswith("'a.nii' is encrypted; unpack it yourself")


def test_another_compression_is_told(tmp_path: Path, target: Path) -> None:
    raw = bytearray(packed({"a.nii": b"x" * 50}))
    raw[raw.index(b"PK\3\4") + 8] = raw[raw.index(b"PK\1\2") + 10] = 97
    path = put(tmp_path, "a.zip", bytes(raw))
    assert "pack it again as a plain zip" in complaint(path, target, InvalidInput)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_archive_is_told(tmp_path: Path, target: Path, kind: str) -> None:
    rng = np.random.default_rng(3)
    raw = packed({"a.nii": rng.bytes(200_000)}, kind)
    assert "damaged" in complaint(put(tmp_path, f"a{kind}", raw[: len(raw) // 2]), target, DamagedFile)
    (target / "a.nii").unlink(missing_ok=True)
    assert "damaged" in complaint(put(tmp_path, f"a{kind}", b"no archive at all, but text"), target, DamagedFile)
    assert "damaged" in complaint(put(tmp_path, f"a{kind}", b""), target, DamagedFile)
    if kind != ".tar":  # which has no checksum of what it holds
        changed = bytearray(raw)
        changed[len(raw) // 2] ^= 0xFF
        (target / "a.nii").unlink(missing_ok=True)
        complaint(put(tmp_path, f"a{kind}", bytes(changed)), target, DamagedFile)


def test_no_archive(tmp_path: Path, target: Path) -> None:
    assert complaint(tmp_path / "none.zip", target, NotFound) == "no such file; check the spelling"
    assert complaint(put(tmp_path, "a.7z", b"7z"), target, InvalidInput).startswith("is no archive that is read here")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read and write anything")
def test_what_the_system_refuses_is_told(tmp_path: Path, target: Path) -> None:
    path = put(tmp_path, "a.zip", packed({"a.nii": b"1"}))
    path.chmod(0)
    complaint(path, target, UnreadableFile)


def test_a_name_that_the_disk_cannot_hold_is_told(tmp_path: Path, target: Path) -> None:
    path = put(tmp_path, "a.zip", packed({"n" * 300: b"1"}))
    complaint(path, target, OutputError)


# --- volumes in archives


class TestMember(ReaderContract):
    @pytest.fixture
    def truth(self) -> Truth:
        return Truth(voxels("int16", (30, 20, 40)), OBLIQUE)

    def member(self, tmp_path: Path, raw: bytes, name: str = "sub/scan.nii.gz") -> Member:
        found = unpacked(put(tmp_path, "set.zip", packed({"sub/scan.nii.gz": raw})))
        return Member(NiftiFile(found.folder / name), found)

    @pytest.fixture
    def file(self, truth: Truth, tmp_path: Path) -> VolumeFile:
        return self.member(tmp_path, gzip.compress(encoded(truth.stored)))

    @pytest.fixture
    def voxels_lost(self, truth: Truth, tmp_path: Path) -> VolumeFile:
        raw = gzip.compress(encoded(truth.stored))
        return self.member(tmp_path, raw[: len(raw) // 2])

    @pytest.fixture
    def missing(self, tmp_path: Path) -> VolumeFile:
        return self.member(tmp_path, b"", "none.nii.gz")

    def test_it_is_known_by_the_archive(self, file: VolumeFile, tmp_path: Path) -> None:
        assert file.where == f"{tmp_path}/set.zip/sub/scan.nii.gz"
        assert list(file.paths) == [f"{tmp_path}/set.zip"]
        assert file.volume_index is None

    def test_slabs_are_those_of_the_file(self, file: VolumeFile, truth: Truth) -> None:
        np.testing.assert_array_equal(np.concatenate([s.copy() for s in file.slabs(7)], axis=2), truth.stored)
