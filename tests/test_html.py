"""The report as a file, and as a person has it before them: in a headless Chromium, with keyboard and eyes."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.browser import FOUND, MISSING, Page, browser
from tests.extractions import BACKGROUND, BRIGHT, SCENES, Scene, make_extraction
from voxtract.check import check
from voxtract.errors import DamagedFile, InvalidInput, NotFound
from voxtract.html import Remark, Section, json_script, page, remarks_list, table
from voxtract.html.charts import Series, histogram, outlines, position_map
from voxtract.html.checked import check_html
from voxtract.html.facts import Legend, examine
from voxtract.html.report import build_report
from voxtract.read.extraction import LEFT_OUT, open_extraction

VIEWS = ("axial", "coronal", "sagittal")
EVIL = "<img src=x onerror=hacked=1>"
needs_browser = pytest.mark.skipif(FOUND is None, reason=MISSING)


class Elements(HTMLParser):
    """Tags with their attributes, and the text between."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open[-1] not in ("style", "script"):
            self.words.append(data.strip())

    def text(self) -> str:
        return " ".join(self.words)


def made(folder: Path) -> Path:
    page = build_report(folder)
    assert isinstance(page, Path)
    return page


def report_of(out: Path) -> Elements:
    return Elements(made(out).read_text("utf-8"))


def data_of(path: Path) -> dict[str, Any]:
    """What the page hands to its script."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


# ----------------------------------------------------------------------------------------------------------- the file


def test_it_lies_in_the_folder_or_where_it_is_asked_for(tmp_path: Path) -> None:
    out = make_extraction(tmp_path)
    assert build_report(out) == out / "report.html"
    assert build_report(str(out), tmp_path / "deep" / "a.htm") == tmp_path / "deep" / "a.htm"
    assert (out / "report.html").read_bytes() == (tmp_path / "deep" / "a.htm").read_bytes()
    assert not list(tmp_path.rglob(".voxtract-staging*"))


def test_what_cannot_be_reported_is_said(tmp_path: Path) -> None:
    out = make_extraction(tmp_path)
    with pytest.raises(NotFound, match="holds no extraction"):
        build_report(tmp_path)
    with pytest.raises(InvalidInput, match=r"report\.pdf: a report is an HTML file"):
        build_report(out, tmp_path / "report.pdf")
    journal = out / ".voxtract" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text(lines[0])
    with pytest.raises(NotFound, match="no case is complete"):
        build_report(out)
    (out / LEFT_OUT).write_text("[]")
    with pytest.raises(DamagedFile, match=r"left_out\.json: is damaged"):
        build_report(out)


def test_it_is_whole_and_alone(tmp_path: Path) -> None:
    """Every element is closed, every id is there once and every link leads to one; nothing comes from elsewhere."""
    elements = report_of(make_extraction(tmp_path, views=VIEWS))
    assert not elements.open
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in elements.tags:
        for name in ("src", "href"):
            address = attributes.get(name)
            assert address is None or address.startswith("data:") or address[1:] in ids, (tag, address)
        assert not any(name.startswith("on") for name in attributes)
        if tag == "svg":
            assert {"aria-label", "aria-hidden"} & attributes.keys() or attributes.get("role") == "img"
    policy = next(a["content"] for _, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_numbers_are_those_of_the_scenes(tmp_path: Path) -> None:
    elements = report_of(make_extraction(tmp_path, views=("axial", "sagittal"), split={"train": 0.67, "val": 0.33}))
    boxes = {
        view: [n for s in SCENES for i in range(s.slices(view)) for n, *_ in s.boxes(view, i)]
        for view in ("axial", "sagittal")
    }
    words = elements.words
    slices = sum(s.slices("axial") + s.slices("sagittal") for s in SCENES)
    annotated = sum(bool(s.boxes(v, i)) for s in SCENES for v in boxes for i in range(s.slices(v)))
    everything = len(boxes["axial"]) + len(boxes["sagittal"])
    for what, value in (
        ("cases", 3),
        ("slices", slices),
        ("of them annotated", annotated),
        ("annotations", everything),
        ("classes", 2),
    ):
        assert words[words.index(what) + 1] == f"{value}"
    for name, label, cases in (("lesion", 1, 1), ("cyst", 2, 2)):
        counts = [boxes[view].count(label) for view in boxes]
        at = words.index(name)
        assert words[at + 1 : at + 4] == [str(cases), *map(str, counts)]
        assert words[at + 4] == f"{100 * sum(counts) / everything:.1f} %"
    at = words.index("train")
    assert words[at : at + 2] == ["train", "2"]
    assert "longest side, mm" in words


def test_sizes_are_millimetres(tmp_path: Path) -> None:
    """The brick of 6 x 4 x 6 voxels of 2 x 1 x 1 mm, which lies over 12 x 4 mm in axial and 4 x 6 mm in sagittal."""
    (facts,) = examine(open_extraction(make_extraction(tmp_path, SCENES[1:2], views=("axial", "sagittal"))))
    assert [np.unique(view.side_mm).tolist() for view in facts.views] == [[12.0], [6.0]]
    (whole,) = examine(open_extraction(make_extraction(tmp_path / "3d", SCENES[1:2], extraction_mode="volume")))
    assert whole.views[0].side_mm.tolist() == [12.0]
    assert whole.views[0].depths.tolist() == pytest.approx([6 / 14])
    row, column = np.argwhere(whole.views[0].positions)[0] / 24
    assert (row, column) == pytest.approx((3 / 20, 10 / 20), abs=1 / 24)


def test_what_stands_out_is_named(tmp_path: Path) -> None:
    usual = [Scene(f"case-{n}", (12, 12, 8), (1.0, 1.0, 1.0), ((1, (4, 4, 2), (8, 8, 5)),)) for n in range(7)]
    odd = [
        Scene("long", (12, 12, 40), (1.0, 1.0, 1.0), ((1, (4, 4, 2), (8, 8, 5)),)),
        Scene("empty", (12, 12, 8), (1.0, 1.0, 1.0), ()),
        Scene("tiny", (12, 12, 8), (1.0, 1.0, 1.0), ((1, (4, 4, 3), (6, 6, 4)), (2, (8, 8, 3), (10, 11, 4)))),
        Scene("edge", (12, 12, 8), (1.0, 1.0, 1.0), ((1, (4, 8, 3), (8, 12, 5)),)),
    ]
    text = report_of(make_extraction(tmp_path, [*usual, *odd])).text()
    assert "Unusual number of slices 1 Further than 2 standard deviations" in text
    assert "long: 40 axial slices, all cases 10.91 ± 9.2" in text
    assert "Labels without annotations 1" in text
    assert re.search(r"Labels without annotations 1 .*? empty Notice", text)
    assert "tiny, axial: 1 of 2 boxes" in text
    assert "edge, axial: 2 of 2 boxes" in text
    assert "Cases that failed" not in text


def test_what_failed_is_told_first(tmp_path: Path) -> None:
    out = make_extraction(tmp_path)
    left = {
        "failed": [{"case": EVIL, "error": "x.nii.gz: is damaged"}],
        "skipped": [{"where": "y.mha", "reason": "no"}],
    }
    (out / LEFT_OUT).write_text(json.dumps(left))
    elements = report_of(out)
    words = elements.words
    assert words[words.index("failed cases") + 1] == "1"
    assert f"{EVIL}: x.nii.gz: is damaged" in words
    assert "y.mha: no" in words
    assert words.index("Cases that failed") < words.index("Files that no case uses")
    assert "3 cases, 1 failed · axial" in words


def test_a_half_deleted_extraction_is_still_reported(tmp_path: Path) -> None:
    out = make_extraction(tmp_path)
    (out / "case-a" / "axial" / "case-a_axial_004.tif").unlink()
    for path in (out / "case-b" / "axial").glob("*.tif"):
        path.write_bytes(b"II")
    (out / ".voxtract" / "findings" / "case-c.rows").unlink()
    elements = report_of(out)
    text = elements.text()
    assert "Files of the extraction that do not read" in text
    assert re.search(r"case-a_axial_004\.tif: no such image", text)
    assert re.search(r"case-b_axial_\d+\.tif: the image is damaged", text)
    assert re.search(r"case-c\.rows: is missing", text)
    cases = data_of(out / "report.html")["cases"]
    assert [len(views) for views in cases] == [1, 0, 0]
    assert 4 not in cases[0][0]["slices"]


@pytest.mark.parametrize("annotations", ["csv", None])
def test_without_images_or_annotations_there_is_still_a_report(tmp_path: Path, annotations: str | None) -> None:
    out = make_extraction(tmp_path, images=None if annotations else "tiff", annotations=annotations, class_map=None)
    elements = report_of(out)
    if annotations is None:
        assert "No annotations." in elements.words
        assert "Cases without labels" in elements.words
    else:
        assert all(
            not view["jpeg"] and view["boxes"] for case in data_of(out / "report.html")["cases"] for view in case
        )


def test_pictures_are_the_slices_and_boxes_those_of_the_findings(tmp_path: Path) -> None:
    out = make_extraction(tmp_path, views=VIEWS, target_size=(40, 48))
    data = data_of(made(out))
    for scene, views in zip(SCENES, data["cases"], strict=True):
        assert [data["views"][view["view"]] for view in views] == list(VIEWS)
        for view in views:
            name = data["views"][view["view"]]
            rows, columns = (
                scene.shape[axis] for axis in {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}[name]
            )
            top, left = (40 - rows) // 2, (48 - columns) // 2
            strip = _jpeg(view["jpeg"])
            width, height = view["tile"]
            assert strip.shape == (height * len(view["slices"]), width)
            assert view["slices"] == sorted(set(view["slices"]))
            for place, index in enumerate(view["slices"]):
                boxes = np.array(view["boxes"][place]).reshape(-1, 5)
                seen = [(("lesion", "cyst").index(data["classes"][k]["name"]) + 1, *box) for k, *box in boxes.tolist()]
                known = [
                    (n, x0 + left, y0 + top, x1 + left, y1 + top) for n, x0, y0, x1, y1 in scene.boxes(name, index)
                ]
                assert sorted(seen) == sorted(known)
                tile = strip[place * height : (place + 1) * height]
                for _, x0, y0, x1, y1 in known:
                    inner = tile[_cut(y0, y1, height / 40), _cut(x0, x1, width / 48)]
                    if min(inner.shape) > 2:
                        assert inner[1:-1, 1:-1].min() > 128, (scene.id, name, index)


def _cut(first: int, last: int, scale: float) -> slice:
    return slice(int(np.ceil(first * scale)), int((last + 1) * scale))


def _jpeg(address: str) -> NDArray[Any]:
    import base64

    with Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/jpeg;base64,")))) as picture:
        assert picture.format == "JPEG"
        return np.asarray(picture)


def test_pictures_shrink_as_cases_become_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_extraction(tmp_path)
    large = made(out).stat().st_size
    slices = [len(view["slices"]) for case in data_of(out / "report.html")["cases"] for view in case]
    monkeypatch.setattr("voxtract.html.facts._PICTURES", 3000)
    small = made(out).stat().st_size
    fewer = [len(view["slices"]) for case in data_of(out / "report.html")["cases"] for view in case]
    assert small < large
    assert slices == [10, 14, 10]
    assert fewer == [4, 4, 4]
    monkeypatch.setattr("voxtract.html.facts._MOST_PICTURES", 1)
    build_report(out)
    assert [len(case) for case in data_of(out / "report.html")["cases"]] == [0, 1, 0]  # the one in the middle
    assert report_of(out).words.count("counted, but not pictured: there are too many cases") == 2


def test_noise_does_not_burst_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A strip that compresses badly is stored with less quality until it fits its share."""
    out = make_extraction(tmp_path, [Scene("noise", (64, 64, 6), (1.0, 1.0, 1.0), ())])
    for path in (out / "noise" / "axial").glob("*.tif"):
        noise = np.random.default_rng(len(path.name)).integers(0, 255, (64, 64)).astype(np.int16)
        path.write_bytes(path.read_bytes()[:-8192] + noise.tobytes())
    free = len(_strip_of(out))
    monkeypatch.setattr("voxtract.html.facts._PICTURES", free // 2)
    monkeypatch.setattr("voxtract.html.facts._BYTES_PER_PIXEL", 0.0)
    assert len(_strip_of(out)) <= free // 2


def _strip_of(out: Path) -> bytes:
    strip = examine(open_extraction(out))[0].views[0].strip
    assert strip is not None
    return strip.jpeg


def test_many_boxes_on_a_slice_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxtract.html.facts._MOST_BOXES", 0)  # then 10 for each slice
    bricks = tuple((1, (2 * n, 2 * m, 1), (2 * n + 1, 2 * m + 1, 2)) for n in range(5) for m in range(3))
    out = make_extraction(
        tmp_path, [Scene("many", (12, 12, 3), (1.0, 1.0, 1.0), (*bricks, (2, (10, 8, 1), (12, 12, 2))))]
    )
    view = data_of(made(out))["cases"][0][0]
    at = view["slices"].index(1)
    assert len(view["boxes"][at]) == 5 * 10
    assert view["more"][at] == 6
    assert view["boxes"][at][:5] == [1, 8, 10, 11, 11]  # the largest first: the cyst


def test_intensities_are_sampled_from_the_files(tmp_path: Path) -> None:
    facts = examine(open_extraction(make_extraction(tmp_path, target_size=(60, 60), pad_value=-5000)))
    pixels = np.concatenate([case.pixels for case in facts])
    inside = np.concatenate([case.inside for case in facts])
    assert pixels.min() >= BACKGROUND - 10  # the padding is none of them
    assert pixels.max() <= BRIGHT + 10
    assert len(inside) > 100
    assert inside.min() >= BRIGHT - 10


def test_more_classes_than_can_be_told_apart_become_one(tmp_path: Path) -> None:
    bricks = tuple((n, (n % 6 * 2, n // 6 * 2, 0), (n % 6 * 2 + 1, n // 6 * 2 + 1, 1 + (n < 4))) for n in range(1, 31))
    out = make_extraction(tmp_path, [Scene("em", (12, 12, 2), (1.0, 1.0, 1.0), bricks)], class_map=None)
    facts = examine(open_extraction(out))
    legend = Legend.of(None, facts)
    assert (len(legend.names), legend.count) == (24, 30)
    assert legend.names[:3] == ("label_1", "label_2", "label_3")
    assert legend.names[-1] == "7 other classes"
    assert np.bincount(legend.classes(facts[0].views[0].labels)).sum() == 33
    assert Legend.of(None, facts, most=40).names[-1] == "label_30"


# --------------------------------------------------------------------------------------------------------- the pieces


def test_no_text_ends_the_script() -> None:
    evil = ["</script><script>alert(1)</script>", "<!--", "]]>", "\u2028", "\udcff", 'q"uote']
    script = json_script("data", evil)
    assert script.count("<") == 2
    assert (
        json.loads(script.removeprefix('<script type="application/json" id="data">').removesuffix("</script>")) == evil
    )


def test_every_text_of_a_page_is_escaped() -> None:
    evil = "\"'><script>alert(1)</script>\udcff"
    html = page(
        evil,
        evil,
        evil,
        [(evil, evil)],
        [
            Section("a", evil, "", remarks_list([Remark(evil, evil, [(evil, "a"), (evil, "")])])),
            Section("b", evil, "", table(evil, [evil], [["x"]])),
            Section(
                "c", evil, "", histogram([Series(evil, np.arange(9), evil)], label=evil, x_label=evil, y_label=evil)
            ),
            Section("d", evil, "", outlines([Series(evil, np.ones(1))], np.arange(2.0), label=evil, x_label=evil)),
            Section("e", evil, "", position_map(np.ones((2, 2), np.int64), (1, 1), label=evil)),
        ],
        {"x": evil},
    )
    assert html.encode()
    elements = Elements(html)
    assert [tag for tag, _ in elements.tags].count("script") == 2
    assert "alert(1)" not in html.replace("&lt;script&gt;alert(1)&lt;/script&gt;", "").replace(
        "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e", ""
    )


def test_bars_add_up_to_the_values() -> None:
    rng = np.random.default_rng(0)
    for values, whole in ((rng.gamma(2, 10, 500), False), (rng.integers(20, 400, 300), True), (np.array([7]), True)):
        svg = histogram(
            [Series("a", values), Series("b", values[:5])], label="l", x_label="x", y_label="y", whole=whole
        )
        titles = re.findall(r"<title>([ab]), ([^<]*): ([\d,]+)</title>", svg)
        assert sum(int(n.replace(",", "")) for name, _, n in titles if name == "a") == len(values)
        assert sum(int(n.replace(",", "")) for name, _, n in titles if name == "b") == len(values[:5])
        for name, said, count in titles:
            low, high = _ends(said)
            own = values if name == "a" else values[:5]
            inside = ((own >= low) & (own <= high)) if whole else ((own >= low) & (own < high))
            assert inside.sum() == int(count.replace(",", ""))


def _ends(said: str) -> tuple[float, float]:
    if said.endswith(" or more"):
        return float(said.removesuffix(" or more").replace(",", "")), np.inf
    low, _, high = said.replace(",", "").partition(" to ")
    return float(low), float(high or low)


def test_charts_of_nothing_say_so() -> None:
    nothing = [Series("a", np.empty(0))]
    assert "nothing to show" in histogram(nothing, label="l", x_label="x", y_label="y")
    assert "nothing to show" in outlines([Series("a", np.zeros(3))], np.arange(4.0), label="l", x_label="x")
    for values in (np.zeros(3), np.full(5, -2.5), np.array([1e-9, 1e9])):
        assert "<rect" in histogram([Series("a", values)], label="l", x_label="x", y_label="y")


# -------------------------------------------------------------------------------------------------------- the browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page_:
        yield page_


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return made(make_extraction(folder, views=("axial", "coronal"), target_size=(40, 40)))


@pytest.fixture
def shown(chromium: Page, report: Path) -> Page:
    """The report with the first card on the screen."""
    chromium.open(report)
    chromium.run("document.documentElement.style.scrollBehavior = 'auto'")
    _bring(chromium, "#case-0")
    return chromium


def _bring(chromium: Page, selector: str) -> None:
    chromium.run(f"document.querySelector('{selector}').scrollIntoView({{block: 'center'}})")
    chromium.run(
        f"""new Promise((done, fail) => {{
            let turns = 0;
            const look = () => document.querySelector('{selector}').dataset.open !== undefined ? done()
                : ++turns > 300 ? fail('is not drawn') : requestAnimationFrame(look);
            look();
        }})"""
    )


def _boxes(chromium: Page, case: int = 0) -> list[list[float]]:
    """x, y, width, height of the boxes on a card."""
    found: list[list[float]] = chromium.run(
        f"[...document.querySelectorAll('#case-{case} rect.box')].map(r => "
        "['x', 'y', 'width', 'height'].map(name => Number(r.getAttribute(name))))"
    )
    return found


def _expected(scene: Scene, view: str, index: int, labels: tuple[int, ...] = (1, 2)) -> list[list[float]]:
    rows, columns = (scene.shape[axis] for axis in {"axial": (0, 1), "coronal": (0, 2)}[view])
    top, left = (40 - rows) // 2, (40 - columns) // 2
    boxes = [box for label, *box in scene.boxes(view, index) if label in labels]
    return sorted([x0 + left, y0 + top, x1 - x0 + 1, y1 - y0 + 1] for x0, y0, x1, y1 in boxes)


def _slice_of(chromium: Page, case: int = 0) -> int:
    text: str = chromium.run(f"document.querySelector('#case-{case} input').getAttribute('aria-valuetext')")
    return int(text.split()[1])


@needs_browser
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_it_opens_without_complaint_and_fits(chromium: Page, report: Path, width: int) -> None:
    chromium.open(report, width)
    assert chromium.console == []
    assert [url for url in chromium.requests if not url.startswith("data:")] == [report.resolve().as_uri()]
    assert chromium.run("document.documentElement.scrollWidth") <= width
    assert chromium.run("document.querySelectorAll('svg.chart').length") >= 6
    for case in range(len(SCENES)):
        _bring(chromium, f"#case-{case}")
    assert chromium.console == []


@needs_browser
def test_the_slider_moves_by_keyboard_and_takes_picture_and_boxes_along(shown: Page) -> None:
    shown.run("document.querySelector('#case-0 input').focus()")
    assert _slice_of(shown) == 5  # the one with the most annotated pixels
    assert sorted(_boxes(shown)) == _expected(SCENES[0], "axial", 5)
    before = shown.run("document.querySelector('#case-0 .window').getAttribute('viewBox')")
    picture = shown.screenshot()
    for key, code, index in (
        ("ArrowLeft", 37, 4),
        ("ArrowRight", 39, 5),
        ("End", 35, 9),
        ("Home", 36, 0),
        ("ArrowUp", 38, 1),
    ):
        shown.press(key, code)
        assert _slice_of(shown) == index
        assert sorted(_boxes(shown)) == _expected(SCENES[0], "axial", index)
        words = shown.run("document.querySelector('#case-0 .now').textContent")
        assert words.startswith(f"axial {index} of 0–9")
        assert ("lesion" in words, "cyst" in words) == (2 <= index < 6, 4 <= index < 8)
    assert shown.run("document.querySelector('#case-0 .window').getAttribute('viewBox')") != before
    assert shown.screenshot() != picture


@needs_browser
def test_boxes_sit_on_what_is_bright(shown: Page) -> None:
    """In the screenshot, what lies within the line of a box is bright and what lies around it dark."""
    found = shown.run(
        "[...document.querySelectorAll('#case-0 rect.box')].map(r => { const b = r.getBoundingClientRect();"
        "return [b.left, b.top, b.right, b.bottom] })"
    )
    with Image.open(io.BytesIO(shown.screenshot())) as picture:
        grey = np.asarray(picture.convert("L")).astype(int)
    assert len(found) == 3
    for left, top, right, bottom in found:
        inner = grey[round(top) + 7 : round(bottom) - 6, round(left) + 7 : round(right) - 6]
        if min(inner.shape) < 2:
            continue  # the small one is all line
        assert np.percentile(inner, 10) > 130
        rows = slice(round(top), round(bottom))
        outer = np.concatenate(
            [grey[rows, round(left) - 12 : round(left) - 7], grey[rows, round(right) + 7 : round(right) + 12]], 1
        )
        assert np.percentile(outer, 90) < 120


@needs_browser
def test_a_class_switched_off_takes_its_boxes_and_cases_along(shown: Page) -> None:
    assert len(_boxes(shown)) == 3
    shown.run("document.querySelectorAll('.chip input')[1].focus()")
    shown.press(" ", 32, " ")
    assert sorted(_boxes(shown)) == _expected(SCENES[0], "axial", 5, (1,))
    hidden = "[...document.querySelectorAll('.card')].map(card => card.hidden)"
    assert shown.run(hidden) == [False, True, True]  # b has only cysts, c nothing
    assert shown.run("document.getElementById('shown').textContent") == "1 of 3 cases"
    shown.press(" ", 32, " ")
    assert len(_boxes(shown)) == 3
    assert shown.run(hidden) == [False] * 3
    assert shown.run("document.getElementById('shown').textContent") == "3 cases"


@needs_browser
def test_another_view_and_a_case_by_name(shown: Page) -> None:
    shown.run("document.querySelector('.choice input').focus()")
    shown.press("ArrowRight", 39)
    index = _slice_of(shown)
    assert shown.run("document.querySelector('#case-0 .now').textContent").startswith(f"coronal {index} of 0–31")
    assert sorted(_boxes(shown)) == _expected(SCENES[0], "coronal", index)
    assert _boxes(shown)
    shown.run("document.getElementById('find').focus()")
    for letter in "E-B":
        shown.press(letter, ord(letter), letter)
    assert shown.run("[...document.querySelectorAll('.card')].map(card => card.hidden)") == [True, False, True]
    _bring(shown, "#case-1")
    assert sorted(_boxes(shown, 1)) == _expected(SCENES[1], "coronal", _slice_of(shown, 1))
    shown.run("location.hash = '#case-2'")  # a link to a case that is not shown shows it
    shown.settle()
    assert shown.run("document.getElementById('case-2').hidden") is False
    assert shown.run("document.getElementById('find').value") == ""
    _bring(shown, "#case-0")
    assert shown.run("document.querySelector('#case-0 .now').textContent").startswith("axial")
    assert shown.console == []


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_dark_and_light_follow_the_system_until_the_button_is_pressed(chromium: Page, report: Path, dark: bool) -> None:
    chromium.open(report, dark=dark)

    def is_dark() -> bool:
        paper, ink = (_luminance(chromium, name) for name in ("backgroundColor", "color"))
        assert abs(paper - ink) > 150
        assert chromium.run("document.getElementById('theme').getAttribute('aria-pressed')") == str(paper < ink).lower()
        return paper < ink

    assert is_dark() is dark
    chromium.run("document.getElementById('theme').focus()")
    chromium.press("Enter", 13, "\r")
    assert is_dark() is not dark
    chromium.press("Enter", 13, "\r")
    assert is_dark() is dark


def _luminance(chromium: Page, name: str) -> float:
    text: str = chromium.run(f"getComputedStyle(document.body).{name}")
    return float(np.mean([float(part) for part in re.findall(r"[\d.]+", text)[:3]]))


@needs_browser
def test_the_keyboard_reaches_everything_in_order_and_one_sees_where_it_is(chromium: Page, report: Path) -> None:
    chromium.open(report)
    chromium.run("document.documentElement.style.scrollBehavior = 'auto'")
    seen: list[list[Any]] = []
    for _ in range(60):
        chromium.press("Tab", 9)
        place = chromium.run(
            "(e => [e.tagName + (e.id ? '#' + e.id : e.name ? '.' + e.name : e.type === 'range' ? '.slider' : ''),"
            "getComputedStyle(e.type === 'checkbox' || (e.type === 'radio') ? e.nextElementSibling : e).outlineStyle,"
            "e.getBoundingClientRect().top + scrollY])(document.activeElement)"
        )
        if place[0] == "BODY":
            break
        seen.append(place)
    names = [name for name, *_ in seen]
    assert names[:3] == ["A", "BUTTON#theme", "A"]
    assert names.count("INPUT.slider") == 3
    for name in ("INPUT.view", "INPUT.class", "INPUT#find", "SUMMARY", "DIV"):
        assert name in names
    assert all(style == "solid" for _, style, _ in seen)
    tops = [top for _, _, top in seen[3:]]
    assert all(b >= a - 60 for a, b in pairwise(tops))


@needs_browser
def test_names_are_words_and_never_code(chromium: Page, tmp_path: Path) -> None:
    scene = Scene(EVIL, *(getattr(SCENES[0], name) for name in ("shape", "spacing_mm", "bricks")))
    names = {1: "</script><script>hacked=1</script>", 2: {"name": "<!-- " + EVIL, "color": "#ff0000"}}
    out = make_extraction(tmp_path, [scene], class_map=names)
    chromium.open(made(out))
    _bring(chromium, "#case-0")
    assert chromium.run("typeof hacked") == "undefined"
    assert chromium.run("document.querySelectorAll('img').length") == 0
    assert chromium.run("document.querySelector('.card h3').textContent") == EVIL
    assert chromium.run("[...document.querySelectorAll('.chip span')].map(e => e.textContent)") == [
        "</script><script>hacked=1</script>",
        "<!-- " + EVIL,
    ]
    assert EVIL in chromium.run("document.querySelector('.stage svg').getAttribute('aria-label')")
    assert chromium.console == []


@needs_browser
def test_without_pictures_the_boxes_are_still_drawn(chromium: Page, tmp_path: Path) -> None:
    chromium.open(made(make_extraction(tmp_path, images=None)))
    _bring(chromium, "#case-0")
    assert len(_boxes(chromium)) == 3
    assert chromium.run("document.querySelectorAll('#case-0 image').length") == 0
    assert chromium.console == []


@needs_browser
def test_the_page_of_a_check_opens_too(chromium: Page, tmp_path: Path) -> None:
    make_extraction(tmp_path)
    path = tmp_path / "check.html"
    path.write_text(check_html(check(tmp_path / "data", progress=False)), "utf-8")
    chromium.open(path, 390, dark=True)
    assert chromium.console == []
    assert chromium.run("document.documentElement.scrollWidth") == 390
    assert chromium.run("document.querySelectorAll('tbody tr').length") == 2 * len(SCENES)
    assert _luminance(chromium, "backgroundColor") < 60
