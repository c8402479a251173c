"""Annotation zips: what lies where, kept byte for byte; bombs, lies and names that lead out refused."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.webknossos.annotations import SMALLEST, names
from voxtract.errors import NotFound, OutputError, UnreadableFile
from voxtract.webknossos import AlreadyThere, Annotation, FormatError, archive

VOLUME = '<volume id="{}" name="{}" location="{}" format="zarr3"/>'
ONE = SMALLEST.format(VOLUME.format(0, "cells", "data_Volume.zip"))


def inner(members: Mapping[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, content in (members or {"1/header.wkw": b"x" * 16}).items():
            made.writestr(name, content)
    return buffer.getvalue()


EMPTY = b"PK\x05\x06" + bytes(18)


def put(path: Path, members: list[tuple[str, str | bytes]] | dict[str, str | bytes]) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        warnings.simplefilter("ignore")  # of two entries of one name
        for name, content in members.items() if isinstance(members, dict) else members:
            made.writestr(name, content)
    return path


def stored(annotation: Annotation, name: str) -> bytes:
    data = annotation.get_volume_layer(name).data
    assert data is not None
    with data.open() as file:
        return file.read()


def test_the_nml_names_the_annotation(tmp_path: Path) -> None:
    annotation = Annotation.load(put(tmp_path / "download.zip", {"my axons.v2.nml": ONE, "data_Volume.zip": inner()}))
    assert annotation.name == "my axons.v2"
    assert stored(annotation, "cells") == inner()


def test_files_may_lie_in_a_folder_of_the_zip(tmp_path: Path) -> None:
    members: dict[str, str | bytes] = {
        "__MACOSX/._a.nml": "x",
        "sub/._b.nml": "x",
        "sub/": "",
        "sub/a.nml": ONE,
        "sub/data_Volume.zip": inner(),
    }
    annotation = Annotation.load(put(tmp_path / "a.zip", {**members, "sub/edges.bin": b"edges"}))
    assert stored(annotation, "cells") == inner()
    annotation.save(tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as made:
        assert sorted(made.namelist()) == ["a.nml", "data_Volume.zip", "edges.bin"]
        assert made.read("edges.bin") == b"edges"


def test_inner_zips_keep_their_bytes_and_names(tmp_path: Path) -> None:
    nml = SMALLEST.format(VOLUME.format(3, "a", "data_3_a.zip") + VOLUME.format(1, "b", "odd name.zip"))
    first, second = inner({"1/x": os.urandom(5000)}), inner({"2/x": b"y"})
    source = put(tmp_path / "a.zip", {"a.nml": nml, "data_3_a.zip": first, "odd name.zip": second})
    annotation = Annotation.load(source)
    annotation.save(tmp_path / "b.zip")
    again = Annotation.load(tmp_path / "b.zip")
    assert again == annotation
    assert [stored(again, "a"), stored(again, "b")] == [first, second]
    with zipfile.ZipFile(tmp_path / "b.zip") as made:
        assert sorted(made.namelist()) == ["a.nml", "data_3_a.zip", "odd name.zip"]
        assert all(info.compress_type == zipfile.ZIP_DEFLATED for info in made.infolist())


def test_saving_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    annotation = Annotation.load(put(tmp_path / "a.zip", {"a.nml": ONE, "data_Volume.zip": inner()}))
    annotation.save(tmp_path / "b.zip")
    annotation.save(tmp_path / "c.zip")
    Annotation.load(tmp_path / "b.zip").save(tmp_path / "d.zip")
    b, c, d = ((tmp_path / name).read_bytes() for name in ("b.zip", "c.zip", "d.zip"))
    assert b == c == d


def test_layers_of_names_that_are_no_file_names(tmp_path: Path) -> None:
    nml = SMALLEST.format(VOLUME.format(0, "../up", "x.zip") + VOLUME.format(1, "a/b:c", "y.zip"))
    annotation = Annotation.load(put(tmp_path / "a.zip", {"a.nml": nml, "x.zip": inner(), "y.zip": inner({"z": b"1"})}))
    annotation.name = "../../evil/name"
    for layer in annotation.volume_layers:
        layer.location = "../" + str(layer.location)
    annotation.save(tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as made:
        assert sorted(made.namelist()) == ["__.._evil_name.nml", "data_0___up.zip", "data_1_a_b_c.zip"]
    assert list(Annotation.load(tmp_path / "b.zip").get_volume_layer_names()) == ["../up", "a/b:c"]


def test_two_layers_of_one_file_get_one_each(tmp_path: Path) -> None:
    nml = SMALLEST.format(VOLUME.format(0, "a", "x.zip") + VOLUME.format(1, "b", "x.zip"))
    annotation = Annotation.load(put(tmp_path / "a.zip", {"a.nml": nml, "x.zip": inner()}))
    annotation.save(tmp_path / "b.zip")
    again = Annotation.load(tmp_path / "b.zip")
    assert [stored(again, "a"), stored(again, "b")] == [inner(), inner()]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "not in the archive"),
        (b"", "has 0 bytes"),
        (EMPTY, "has no entries"),
        (b"no zip at all", "is damaged"),
        (inner()[:-10], "is damaged"),
    ],
)
def test_layers_whose_voxels_are_not_there(tmp_path: Path, content: bytes | None, reason: str) -> None:
    members: dict[str, str | bytes] = {"a.nml": ONE} | ({} if content is None else {"data_Volume.zip": content})
    with pytest.warns(
        UserWarning, match=f"volume layer 'cells' .id 0. has no data: 'data_Volume.zip'|{reason}"
    ) as told:
        annotation = Annotation.load(put(tmp_path / "a.zip", members))
    assert len(told) == 1
    assert reason in str(told[0].message)
    assert annotation.get_volume_layer().data is None
    annotation.save(tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as made:
        assert b"location" not in made.read("a.nml")
        assert "data_Volume.zip" not in made.namelist() or content is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Annotation.load(tmp_path / "b.zip") == annotation


def test_an_nml_holds_no_voxels(tmp_path: Path) -> None:
    (tmp_path / "a.nml").write_text(ONE)
    with pytest.warns(UserWarning, match="volume layer 'cells' .id 0. has no data: .* but an .nml file holds none"):
        annotation = Annotation.load(tmp_path / "a.nml")
    assert annotation.get_volume_layer().data is None


def test_zips_written_as_a_stream(tmp_path: Path) -> None:
    class Stream(io.RawIOBase):
        """Cannot seek, so that sizes stand behind the data, as servers write them."""

        def __init__(self) -> None:
            self.content = b""

        def writable(self) -> bool:
            return True

        def write(self, piece: object) -> int:
            self.content += bytes(piece)  # type: ignore[call-overload]
            return len(bytes(piece))  # type: ignore[call-overload]

    stream = Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.nml", ONE)
        made.writestr("data_Volume.zip", inner())
    (tmp_path / "a.zip").write_bytes(stream.content)
    assert stored(Annotation.load(tmp_path / "a.zip"), "cells") == inner()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "exactly one .nml file, this one: none"),
        ({"a.txt": "x"}, "exactly one .nml file, this one: none"),
        ({"a.nml": ONE, "b/c.NML": ONE}, "exactly one .nml file, this one: a.nml, b/c.NML"),
        ({"a.nml": ONE, "../x": "x"}, "leads out of the archive"),
        ({"a.nml": ONE, "a/../../x": "x"}, "leads out of the archive"),
        ({"a.nml": ONE, "..\\x": "x"}, "leads out of the archive"),
        ({"a.nml": ONE, "/etc/x": "x"}, "leads out of the archive"),
        ({"a.nml": ONE, "C:\\x": "x"}, "leads out of the archive"),
        ({"../a.nml": ONE}, "leads out of the archive"),
        ([("a.nml", ONE), ("a.nml", ONE)], "two entries named 'a.nml'"),
        ([("a.nml", ONE), ("data_Volume.zip", inner()), ("data_Volume.zip", inner())], "two entries named"),
        ({"a.nml": "<things>"}, "a.zip/a.nml: line 1: is no well-formed XML"),
        ({"a.nml": "<html/>"}, "begins with <html>"),
    ],
)
def test_zips_that_are_no_annotations(
    tmp_path: Path, members: dict[str, str | bytes] | list[tuple[str, str | bytes]], message: str
) -> None:
    with pytest.raises(FormatError) as caught:
        Annotation.load(put(tmp_path / "a.zip", members))
    assert message in str(caught.value)


def changed(path: Path, change: Callable[[bytearray], None]) -> Path:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    return path


def declare(size: int) -> Callable[[bytearray], None]:
    """Have both headers of the first entry lie about its size."""

    def change(content: bytearray) -> None:
        directory = content.index(b"PK\x01\x02")
        content[22:26] = content[directory + 24 : directory + 28] = struct.pack("<I", size)

    return change


@pytest.mark.parametrize("size", [0, 10, len(ONE) - 1, len(ONE) + 1, 10 << 20])
def test_nml_sizes_that_lie(tmp_path: Path, size: int) -> None:
    path = changed(put(tmp_path / "a.zip", {"a.nml": ONE, "data_Volume.zip": inner()}), declare(size))
    with pytest.raises(FormatError):
        Annotation.load(path)


@pytest.mark.parametrize("size", [10, 5000, 1 << 30])
def test_sizes_of_voxels_that_lie(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "CHECKED_AT_ONCE", 0)  # as if it were large
    content = inner({"1/x": os.urandom(3000)})
    path = changed(put(tmp_path / "a.zip", {"data_Volume.zip": content, "a.nml": ONE}), declare(size))
    annotation = Annotation.load(path)
    with pytest.raises(FormatError):
        stored(annotation, "cells")
    with pytest.raises(FormatError):
        annotation.save(tmp_path / "b.zip")
    assert names(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("bomb", ["a.nml", "data_Volume.zip"])
def test_zip_bombs(tmp_path: Path, bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "NOT_A_BOMB", 1 << 20)
    monkeypatch.setattr(archive, "CHECKED_AT_ONCE", 0)
    members: dict[str, str | bytes] = {"a.nml": ONE, "data_Volume.zip": inner(), bomb: b" " * (8 << 20)}
    put(tmp_path / "a.zip", members)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="a zip bomb is not read"):
            stored(Annotation.load(tmp_path / "a.zip"), "cells")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_limits_of_size_and_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.zip", {"a.nml": ONE, "data_Volume.zip": inner(), "b": "", "c": ""})
    monkeypatch.setattr(archive, "MOST_ENTRIES", 3)
    with pytest.raises(FormatError, match="has 4 entries; an annotation has at most 3"):
        Annotation.load(path)
    monkeypatch.setattr(archive, "MOST_ENTRIES", 4)
    monkeypatch.setattr(archive, "LARGEST_NML", 100)
    with pytest.raises(FormatError, match="an NML of at most 100 is read"):
        Annotation.load(path)


def test_zips_cut_short_anywhere(tmp_path: Path) -> None:
    whole = put(tmp_path / "a.zip", {"a.nml": ONE, "data_Volume.zip": inner()}).read_bytes()
    path = tmp_path / "cut.zip"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError, match=r"cut\.zip"):
            Annotation.load(path)


def test_a_flipped_byte_never_ends_in_another_error(tmp_path: Path) -> None:
    whole = put(tmp_path / "a.zip", {"a.nml": ONE, "data_Volume.zip": inner()}).read_bytes()
    path = tmp_path / "flipped.zip"
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                annotation = Annotation.load(path)
                for layer in annotation.volume_layers:
                    if layer.data is not None:
                        layer.data.open().close()
            except FormatError:
                pass


def test_encrypted_entries(tmp_path: Path) -> None:
    def encrypt(content: bytearray) -> None:
        content[6] |= 1
        content[content.index(b"PK\x01\x02") + 8] |= 1

    with pytest.raises(FormatError, match="encrypted"):
        Annotation.load(changed(put(tmp_path / "a.zip", {"a.nml": ONE}), encrypt))


def test_a_zip_that_changes_after_loading(tmp_path: Path) -> None:
    path = put(tmp_path / "a.zip", {"a.nml": ONE, "data_Volume.zip": inner()})
    annotation = Annotation.load(path)
    put(path, {"a.nml": ONE, "data_Volume.zip": inner({"other": b"content of another length"})})
    with pytest.raises(FormatError, match="has changed since it was loaded"):
        stored(annotation, "cells")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        stored(annotation, "cells")
    with pytest.raises(FileNotFoundError):
        annotation.save(tmp_path / "b.zip")
    assert names(tmp_path) == []


def test_saving_over_the_zip_that_it_came_from(tmp_path: Path) -> None:
    path = put(tmp_path / "a.zip", {"a.nml": ONE, "data_Volume.zip": inner(), "note.txt": "x"})
    annotation = Annotation.load(path)
    annotation.get_volume_layer().name = "renamed"
    annotation.save(path, overwrite=True)
    assert stored(annotation, "renamed") == inner()
    annotation.save(path, overwrite=True)
    assert Annotation.load(path) == annotation
    with zipfile.ZipFile(path) as made:
        assert made.read("note.txt") == b"x"


def test_existing_files(tmp_path: Path) -> None:
    annotation = Annotation("a", dataset_name="d", voxel_size=(1, 1, 1))
    for name in ("a.nml", "a.zip"):
        (tmp_path / name).write_text("before")
    annotation.save(tmp_path / "a.nml")
    assert Annotation.load(tmp_path / "a.nml") == annotation
    with pytest.raises(FileExistsError, match="is there already") as caught:
        annotation.save(tmp_path / "a.zip")
    assert isinstance(caught.value, AlreadyThere)
    assert (tmp_path / "a.zip").read_text() == "before"
    annotation.save(tmp_path / "a.zip", overwrite=True)
    assert Annotation.load(tmp_path / "a.zip") == annotation


@pytest.mark.parametrize("name", ["a.nml", "a.zip"])
def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    annotation = Annotation("a", dataset_name="d", voxel_size=(1, 1, 1))
    annotation.save(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    annotation.metadata["bad"] = "\x00"
    with pytest.raises(ValueError, match="XML cannot hold"):
        annotation.save(tmp_path / name, overwrite=True)
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == before
    del annotation.metadata["bad"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("voxtract.webknossos.nml_write.write", full)
    with pytest.raises(OutputError, match="No space left"):
        annotation.save(tmp_path / name, overwrite=True)
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("name", ["a.nml", "a.zip"])
def test_folders_that_are_not_there(tmp_path: Path, name: str) -> None:
    annotation = Annotation("a", dataset_name="d", voxel_size=(1, 1, 1))
    with pytest.raises(FileNotFoundError, match="no such folder") as caught:
        annotation.save(tmp_path / "none" / name)
    assert isinstance(caught.value, NotFound)
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "folder.nml").mkdir()
    with pytest.raises(OSError, match="folder"):
        annotation.save(tmp_path / f"folder.{name[2:]}", overwrite=True)
    assert names(tmp_path) == ["folder.nml", "folder.zip"]


@pytest.mark.parametrize("name", ["a.nml", "a.zip"])
def test_files_that_the_system_does_not_hand_out(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Annotation("a", dataset_name="d", voxel_size=(1, 1, 1)).save(tmp_path / name)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open" if name == "a.zip" else "pathlib.Path.open", refused)
    monkeypatch.setattr("io.open", refused)
    with pytest.raises(UnreadableFile, match="Permission denied"):
        Annotation.load(tmp_path / name)


def test_large_entries_are_read_through_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = inner({"1/x": os.urandom(100_000)})
    monkeypatch.setattr(archive, "IN_MEMORY", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    annotation = Annotation.load(put(tmp_path / "a.zip", {"a.nml": ONE, "data_Volume.zip": content}))
    data = annotation.get_volume_layer().data
    assert data is not None
    with data.open() as file:
        assert not isinstance(file, io.BytesIO)
        file.seek(50)
        assert file.read() == content[50:]
    assert names(tmp_path) == ["a.zip"]
