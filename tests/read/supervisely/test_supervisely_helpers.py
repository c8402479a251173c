"""Colour maps, score tables, classes: what is read, and every way in which one can be wrong."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtract.classes import ClassMap
from voxtract.errors import InvalidInput, UnreadableFile
from voxtract.read.supervisely.colors import NAMED, CategoryOf, Classes, ColorMap, NoMapError, read_map
from voxtract.read.supervisely.scores import EveryValue, read_scores

# --- colour maps


def colors(tmp_path: Path, content: str | bytes, name: str = "color_map.txt") -> ColorMap:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_map(path, "map.txt")


@pytest.mark.parametrize(
    "text",
    [
        "1 left lung 255 0 0\n12 Vertebra 12 0 255 16",
        "1\tleft  lung\t255\t0\t0\r\n12 Vertebra 12 0 255 16\r\n",
        "\ufeff# classes\n\n  1 left lung 255 0 0  \n\n12 Vertebra 12 000 255 16\n",
    ],
)
def test_a_map_is_read(tmp_path: Path, text: str) -> None:
    found = colors(tmp_path, text)
    assert dict(found.names) == {1: "left lung", 12: "Vertebra 12"}
    assert dict(found.colors) == {1: "#ff0000", 12: "#00ff10"}


@pytest.mark.parametrize(
    ("line", "name", "color"),
    [
        ("1 Vertebra 12 255 0 0", "Vertebra 12", "#ff0000"),
        ("1 Vertebra 12", "Vertebra 12", None),
        ("1 leber-über 1 2 3", "leber-über", "#010203"),
        ("1 7 1 2 3", "7", "#010203"),
        ("1 255 0 0", "255 0 0", None),
    ],
)
def test_name_and_colour(tmp_path: Path, line: str, name: str, color: str | None) -> None:
    found = colors(tmp_path, line)
    assert (found.names[1], found.colors.get(1)) == (name, color)


BAD_MAPS = [
    ("1 a 255 0 0\n2 b 256 0 0", "line 2, '2 b 256 0 0': the colour must be three numbers from 0 to 255"),
    ("1 a 0 -1 0", "line 1, '1 a 0 -1 0': the colour must be"),
    ("1 a 0 0 0\n\n1 b 0 0 0", "line 3, '1 b 0 0 0': id 1 is there twice"),
    ("1 a 0 0 0\n2 a 0 0 0", "line 2, '2 a 0 0 0': the name 'a' is there twice"),
    ("0 a 0 0 0", "line 1, '0 a 0 0 0': the id must be 1 or more"),
    ("-3 a 0 0 0", "line 1, '-3 a 0 0 0': the id must be 1 or more"),
    ("liver 255 0 0", "line 1, 'liver 255 0 0': expected an id, a name"),
    ("1", "line 1, '1': expected an id, a name"),
    ("# nothing\n", "names no class"),
]


@pytest.mark.parametrize(("text", "problem"), BAD_MAPS)
def test_a_bad_map_is_told_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        colors(tmp_path, text)
    assert str(caught.value).startswith(f"map.txt: {problem}")


@pytest.mark.parametrize("name", ["color_map.txt", "cls_color_map.txt", "Colours.TXT"])
def test_what_is_called_a_map_must_be_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="expected an id, a name"):
        colors(tmp_path, "Read this first.", name)
    with pytest.raises(InvalidInput, match="is no text in UTF-8"):
        colors(tmp_path, b"1 \xff 0 0 0", name)


@pytest.mark.parametrize("content", [b"Read this first.", b"", b"1 lung\nand more", b"\xff\xfe", b"1 x 2\n" * 200_000])
def test_other_texts_are_no_maps(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(NoMapError):
        colors(tmp_path, content, "README.txt")


def test_a_text_whose_lines_are_those_of_a_map_is_meant_as_one(tmp_path: Path) -> None:
    assert colors(tmp_path, "1 a 0 0 0", "classes.txt").names == {1: "a"}
    with pytest.raises(InvalidInput, match="id 1 is there twice"):
        colors(tmp_path, "1 a 0 0 0\n1 b 0 0 0", "classes.txt")


def test_a_map_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=r"^map.txt: cannot be read"):
        read_map(tmp_path / "none.txt", "map.txt")


@given(
    st.dictionaries(
        st.integers(1, 10**6),
        st.tuples(
            st.from_regex("[a-zA-Z]{1,5}( [a-z0-9]{1,3}[a-z])?", fullmatch=True),
            st.tuples(*[st.integers(0, 255)] * 3) | st.none(),
        ),
        min_size=1,
        max_size=6,
    ).filter(lambda found: len({name for name, _ in found.values()}) == len(found))
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, classes: dict[int, tuple[str, tuple[int, int, int] | None]]
) -> None:
    text = "\n".join(f"{n} {name} {' '.join(map(str, color or ()))}" for n, (name, color) in classes.items())
    found = colors(tmp_path_factory.mktemp("map"), text)
    assert found.names == {n: name for n, (name, _) in classes.items()}
    assert found.colors == {n: "#{:02x}{:02x}{:02x}".format(*c) for n, (_, c) in classes.items() if c is not None}


# --- classes of a source


LIVER = ColorMap("a/color_map.txt", {1: "liver", 7: "tumour"}, {1: "#ff0000"})
AGAIN = ColorMap("b/color_map.txt", {1: "liver", 9: "spleen"}, {1: "#00ff00"})
OTHER = ColorMap("c/color_map.txt", {1: "kidney", 2: "liver"}, {})


def named(classes: Classes) -> dict[int, str]:
    found = classes.class_map()
    return {} if found is None else {one.id: one.name for one in found.categories}


def test_ids_of_a_map_are_categories() -> None:
    classes = Classes.of([], [LIVER, AGAIN, LIVER], [3])
    assert named(classes) == {1: "liver", 3: "Segment_3", 7: "tumour", 9: "spleen"}
    assert classes.category(LIVER) is None
    found = classes.class_map()
    assert found is not None
    assert found.categories[0].color == "#ff0000"  # of the first map


def test_names_of_files_are_numbered_in_their_order() -> None:
    assert named(Classes.of(["b", "a", "b"], [], [])) == {1: "a", 2: "b"}
    assert Classes.of([], [], []).class_map() == ClassMap.of({"#": "Segment_{}"})
    assert Classes.of([], [None], []).class_map() == ClassMap.of({"#": "Segment_{}"})


@pytest.mark.parametrize("maps", [[LIVER, OTHER], [OTHER, LIVER]])
def test_maps_that_contradict_each_other_get_other_numbers(maps: list[ColorMap | None]) -> None:
    classes = Classes.of([], maps, [])
    assert named(classes) == {NAMED + 1: "kidney", NAMED + 2: "liver", NAMED + 3: "tumour"}
    of = classes.category(OTHER)
    assert of is not None
    assert [of[n] for n in (1, 2, 3)] == [NAMED + 1, NAMED + 2, 3]  # what has no name stays its value
    assert 3 in of
    assert pickle.loads(pickle.dumps(of))[1] == NAMED + 1


def test_a_map_for_some_folders_only_gets_other_numbers() -> None:
    classes = Classes.of([], [LIVER, None], [1])
    assert named(classes) == {1: "Segment_1", NAMED + 1: "liver", NAMED + 2: "tumour"}
    assert classes.category(None) is None


def test_names_of_files_beside_numbers_get_other_numbers() -> None:
    assert named(Classes.of(["lung"], [None], [2])) == {2: "Segment_2", NAMED + 1: "lung"}


def test_category_of_lists_what_has_a_name() -> None:
    assert dict(CategoryOf({1: 5})) == {1: 5}
    assert len(CategoryOf({1: 5})) == 1


# --- scores


def scores(tmp_path: Path, content: str | bytes, base: int = 1) -> dict[int, dict[int, float]]:
    path = tmp_path / "axl_score.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return {label: dict(column) for label, column in read_scores(path, "score.csv", base).scores.items()}


@pytest.mark.parametrize(
    "text",
    [
        "Layer,Label-2,Label-4\n1,0.125,0.5\n3,,1",
        "Layer, Label-2, Label-4\n1, 0.125, 0.5\n3, , 1\n",  # as the document prints it
        "\ufefflayer,LABEL-4 ,Label-02\r\n1,0.5,.125\r\n\r\n3,1e0,\r\n",
        '"Layer","Label-4","Label-2"\n3,"1",\n1," 0.5",0.125',
    ],
)
def test_scores_are_read(tmp_path: Path, text: str) -> None:
    assert scores(tmp_path, text) == {2: {1: 0.125}, 4: {1: 0.5, 3: 1.0}}


def test_scores_keep_all_digits(tmp_path: Path) -> None:
    assert scores(tmp_path, f"Layer,Label-1\n1,{math.pi!r}")[1][1] == math.pi


def test_unknown_columns_are_remarked(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Layer,Label-1,Comment\n1,2,fine")
    found = read_scores(tmp_path / "a.csv", "a.csv")
    assert found.scores == {1: {1: 2.0}}
    assert found.remarks == ("column 'Comment' is not known and not read; known are Layer and Label-<n>",)
    assert found.last == 1


def test_a_column_without_scores(tmp_path: Path) -> None:
    assert scores(tmp_path, "Layer,Label-1\n1,") == {1: {}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Label-1\n0.5", "row 1 has 0 columns 'Layer', expected one; found 'Label-1'"),
        ("Layer,Layer,Label-1\n1,1,1", "row 1 has 2 columns 'Layer'"),
        ("Layer,score\n1,1", "row 1 has no column 'Label-<n>', only 'Layer', 'score'"),
        ("Layer,Label-1,Label-01\n1,1,1", "row 1: column 'Label-01' is there twice"),
        ("Layer,Label-0\n1,1", "row 1: column 'Label-0' names the background"),
        ("Layer,Label-1\n1,1\n1.5,1", "row 3, column 'Layer': '1.5' is no whole number"),
        ("Layer,Label-1\n,1", "row 2, column 'Layer': '' is no whole number"),
        ("Layer,Label-1\n-1,1", "row 2, column 'Layer': -1 is below 1, the number of the first slice"),
        ("Layer,Label-1\n0,1", "row 2, column 'Layer': 0 is below 1, the number of the first slice; the export appl"),
        ("Layer,Label-1\n2,1\n\n2,1", "row 4: Layer 2 is there already, in row 2"),
        ("Layer,Label-1\n1,good", "row 2, column 'Label-1': 'good' is no number"),
        ("Layer,Label-1\n1,nan", "row 2, column 'Label-1': 'nan' is not finite"),
        ("Layer,Label-1\n1,inf", "row 2, column 'Label-1': 'inf' is not finite"),
        ("Layer,Label-1\n1", "row 2 has 1 cells, but row 1 has 2"),
        ("Layer,Label-1\n1,0,5", "row 2 has 3 cells, but row 1 has 2"),
        ("Layer;Label-1\n1;0,5", "its cells are parted by semicolons"),
        ("", "is empty"),
        ('Layer,Label-1\n1,"0.5', "is no table of values parted by commas"),
        (b"Layer,Label-1\n1,\xff", "is no text in UTF-8"),
    ],
)
def test_a_bad_table_is_told_with_row_and_column(tmp_path: Path, text: str | bytes, problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        scores(tmp_path, text)
    assert str(caught.value).startswith(f"score.csv: {problem}")


def test_layers_from_0_on_request(tmp_path: Path) -> None:
    assert scores(tmp_path, "Layer,Label-1\n0,1\n1,2", base=0) == {1: {0: 1.0, 1: 2.0}}
    with pytest.raises(InvalidInput, match="layer_base=0"):
        scores(tmp_path, "Layer,Label-1\n0,1\n1,2")


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match=r"^a.csv: cannot be read"):
        read_scores(tmp_path / "none.csv", "a.csv")


def test_one_score_for_every_value() -> None:
    same = EveryValue(0.25)
    assert (same[1], same.get(70_000), 3 in same) == (0.25, 0.25, True)
    assert dict(same) == {0: 0.25}
    assert len(same) == 1
    assert pickle.loads(pickle.dumps(same))[9] == 0.25
