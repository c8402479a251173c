from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from benchmarks.cases import CONTENTS, content
from tests import oracles
from tests.strategies import LABEL_DTYPES, LAYOUTS, Layout, laid_out, masks
from voxtract.compute import components as module
from voxtract.compute import runs as runs_module
from voxtract.compute.components import Extent, Objects, find_components, find_components_in_chunks
from voxtract.errors import InvalidInput
from voxtract.geometry import VIEWS, View
from voxtract.model import Components

WAYS: list[tuple[Extent, int | None]] = [
    ("slice", None),
    ("slice", 1),
    ("slice", 2),
    ("volume", None),
    ("volume", 1),
    ("volume", 2),
    ("volume", 3),
]
OBJECTS: tuple[Objects, ...] = ("components", "labels")
measure_label: Any = measure.label  # scikit-image has no types
measure_regions: Any = measure.regionprops
REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real" / "labels"

views = st.sampled_from(VIEWS)
ways = st.sampled_from(WAYS)


def rows(found: Components) -> list[oracles.Found]:
    assert found.total is not None
    assert {found.start.dtype, found.stop.dtype, found.count.dtype, found.total.dtype} == {np.dtype(np.int64)}
    return [
        oracles.Found(tuple(start), tuple(stop), label, count, tuple(total))
        for start, stop, label, count, total in zip(
            found.start.tolist(),
            found.stop.tolist(),
            found.label.tolist(),
            found.count.tolist(),
            found.total.tolist(),
            strict=True,
        )
    ]


def check(labels: NDArray[Any], view: View, extent: Extent, connectivity: int | None, objects: Objects) -> None:
    found = find_components(labels, view, extent=extent, connectivity=connectivity, objects=objects, mass=True)
    assert rows(found) == oracles.components(labels, view, extent, connectivity, objects)
    assert found.label.dtype == (np.uint8 if labels.dtype == bool else labels.dtype.newbyteorder("="))


@pytest.fixture(params=["usual blocks", "tiny blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Volumes of a test fit one block; tiny ones make every seam between blocks and batches matter."""
    if request.param == "tiny blocks":
        monkeypatch.setattr(runs_module, "BLOCK", 40)
        monkeypatch.setattr(module, "BATCH", 3)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", CONTENTS)
def test_every_content_equals_the_flood_fill(name: str, view: View) -> None:
    labels = content(name, (13, 11, 7))
    for extent, connectivity in WAYS:
        for objects in OBJECTS:
            check(labels, view, extent, connectivity, objects)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [*LABEL_DTYPES, ">i2", ">u4"])
def test_every_dtype_and_memory_layout_equals_the_flood_fill(dtype: str, layout: Layout) -> None:
    rng = np.random.default_rng(5)
    for shape, share in (((9, 6, 5), 0.5), ((17, 5, 4), 0.1), ((8, 16, 3), 0.9)):
        labels = laid_out(((rng.random(shape) < share) * rng.integers(1, 4, shape)).astype(dtype), layout)
        for view in VIEWS:
            check(labels, view, "slice", None, "components")
            check(labels, view, "volume", None, "components")
            check(labels, view, "slice", None, "labels")


@given(labels=masks(), view=views, way=ways, objects=st.sampled_from(OBJECTS))
def test_any_mask_equals_the_flood_fill(
    labels: NDArray[Any], view: View, way: tuple[Extent, int | None], objects: Objects
) -> None:
    check(labels, view, *way, objects)


@given(labels=masks(), view=views, way=ways, offset=st.tuples(*(st.integers(0, 9) for _ in range(3))))
def test_moving_the_mask_moves_every_box(
    labels: NDArray[Any], view: View, way: tuple[Extent, int | None], offset: tuple[int, int, int]
) -> None:
    moved = np.pad(labels, [(n, 3) for n in offset])
    before = find_components(labels, view, extent=way[0], connectivity=way[1], mass=True)
    after = find_components(moved, view, extent=way[0], connectivity=way[1], mass=True)
    assert (after.start == before.start + offset).all()
    assert (after.stop == before.stop + offset).all()
    assert (after.mass_center == pytest.approx(before.mass_center + offset)) if len(before) else not len(after)
    assert (after.label == before.label).all()
    assert (after.count == before.count).all()


@given(labels=masks(), way=ways, axes=st.permutations(range(3)), flips=st.tuples(*(st.booleans() for _ in range(3))))
def test_turning_the_mask_turns_every_box(
    labels: NDArray[Any], way: tuple[Extent, int | None], axes: list[int], flips: tuple[bool, bool, bool]
) -> None:
    """The slice axis is followed to where it goes; rows come in another order, so they are compared sorted."""
    turned = labels.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    after_view: View = ("sagittal", "coronal", "axial")[axes.index(2)]
    before = find_components(labels, "axial", extent=way[0], connectivity=way[1], mass=True)
    after = find_components(turned, after_view, extent=way[0], connectivity=way[1], mass=True)
    expected = []
    for one in rows(before):
        start, stop, total = ([values[axis] for axis in axes] for values in (one.start, one.stop, one.total))
        for axis, flip in enumerate(flips):
            if flip:
                side = turned.shape[axis]
                start[axis], stop[axis] = side - stop[axis], side - start[axis]
                total[axis] = (side - 1) * one.count - total[axis]
        expected.append((start, stop, one.label, one.count, total))
    got = [(list(one.start), list(one.stop), one.label, one.count, list(one.total)) for one in rows(after)]
    assert sorted(got) == sorted(expected)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("connectivity", [1, 2])
@pytest.mark.parametrize("name", ["sparse_lesions", "organ_blobs", "noise50"])
def test_binary_slices_agree_with_scipy_and_skimage(name: str, connectivity: int, view: View) -> None:
    mask = content(name, (61, 53, 23))
    axis = ["sagittal", "coronal", "axial"].index(view)
    found = find_components(mask, view, connectivity=connectivity, mass=True)
    for index in range(mask.shape[axis]):
        image = mask.take(index, axis)  # rows, columns
        mine = found.select(found.start[:, axis] == index)
        numbered, count = ndimage.label(image, ndimage.generate_binary_structure(2, connectivity))
        boxes = [[(s.start, s.stop) for s in box] for box in ndimage.find_objects(numbered) if box]
        start, stop = (np.delete(values, axis, 1) for values in (mine.start, mine.stop))
        assert len(mine) == count
        assert np.stack([start, stop], -1).tolist() == [[list(pair) for pair in box] for box in boxes]
        assert mine.count.tolist() == np.bincount(numbered.ravel())[1:].tolist()
        regions = measure_regions(measure_label(image, connectivity=connectivity))
        assert sorted(map(tuple, np.delete(mine.mass_center, axis, 1).round(9).tolist())) == sorted(
            tuple(np.round(region.centroid, 9).tolist()) for region in regions
        )


@pytest.mark.parametrize("connectivity", [1, 2, 3])
@pytest.mark.parametrize("name", ["organ_blobs", "noise50", "atlas"])
def test_label_volumes_agree_with_skimage_in_3d(name: str, connectivity: int) -> None:
    labels = content(name, (40, 37, 29))
    found = find_components(labels, "axial", extent="volume", connectivity=connectivity)
    regions = measure_regions(measure_label(labels, background=0, connectivity=connectivity))
    expected = sorted((*region.bbox, int(region.area), int(labels[tuple(region.coords[0])])) for region in regions)
    got = np.column_stack([found.start, found.stop, found.count, found.label])
    assert sorted(map(tuple, got.tolist())) == expected


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("columns", [7, 8, 9, 16, 24])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
def test_runs_do_not_cross_rows_planes_or_words(columns: int, dtype: str) -> None:
    """Foreground at both ends of every line, where memory alone would see one run."""
    labels = np.zeros((columns, 5, 4), dtype, order="F")
    labels[[0, -1]] = 1
    for view in VIEWS:
        check(labels, view, "slice", None, "components")
        check(labels, view, "volume", 1, "components")
    labels[:, [0, -1]] = 3
    for view in VIEWS:
        check(labels, view, "slice", None, "components")


@pytest.mark.parametrize("view", VIEWS)
def test_a_snake_that_needs_many_unions(view: View) -> None:
    """Columns that are joined only at their ends, in turn: the longest chain of late unions."""
    comb = np.zeros((65, 64), np.uint8)
    comb[:, ::2] = 1
    comb[0, 1::4] = comb[-1, 3::4] = 1
    row, column, index = oracles.AXES[view]
    labels = np.zeros((3, 3, 3), np.uint8)
    for turned in (comb, comb.T, comb[::-1], comb[:, ::-1]):
        shape = [2, 2, 2]
        shape[row], shape[column] = turned.shape
        labels = np.zeros(shape, np.uint8, order="F")
        np.moveaxis(labels, (row, column, index), (0, 1, 2))[:, :, 1] = turned
        found = find_components(labels, view)
        assert len(found) == 1
        assert found.count[0] == turned.sum()
        assert len(find_components(labels, view, extent="volume")) == 1


def test_wide_labels_keep_their_dtype_and_every_bit() -> None:
    ids = np.array([2**64 - 1, 2**63, 2**53 + 1, 2**53], np.uint64)
    labels = np.zeros((4, 2, 2), np.uint64)
    labels[:, 0, 0] = ids
    for objects in OBJECTS:
        found = find_components(labels, "axial", objects=objects)
        assert found.label.dtype == np.uint64
        assert found.label.tolist() == ids.tolist()


def test_negative_labels_are_background() -> None:
    labels = np.array([[[np.iinfo(np.int64).min, -1, 0, 1, np.iinfo(np.int64).max, -1, 1]]])
    found = find_components(labels, "coronal")
    assert found.label.tolist() == [1, np.iinfo(np.int64).max, 1]
    assert find_components(labels, "coronal", objects="labels").count.tolist() == [2, 1]


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, 0, 4), (4, 4, 0), (0, 0, 0)])
def test_a_volume_without_voxels_has_no_components(shape: tuple[int, int, int]) -> None:
    for extent in ("slice", "volume"):
        found = find_components(np.zeros(shape, np.uint16), "axial", extent=extent, mass=True)
        assert len(found) == 0
        assert found.start.shape == found.stop.shape == (0, 3)
        assert found.label.dtype == np.uint16
        assert found.total is not None
        assert found.total.shape == (0, 3)


def test_sums_are_none_unless_asked_for() -> None:
    assert find_components(np.ones((2, 2, 2), np.uint8), "axial").total is None


@pytest.mark.parametrize("view", VIEWS)
def test_indices_past_two_to_the_31(view: View) -> None:
    """2.2e9 voxels: memory that is zero until it is written to costs nothing but the look at it."""
    labels = np.zeros((1300, 1300, 1300), np.uint8, order="F")
    labels[-3:, -3:, -3:] = 1
    labels[0, 0, 0] = labels[1, 1, 0] = 2
    found = find_components(labels, view, extent="volume", mass=True)
    assert found.start.tolist() == [[0, 0, 0], [1297, 1297, 1297]]
    assert found.stop.tolist() == [[2, 2, 1], [1300, 1300, 1300]]
    assert found.count.tolist() == [2, 27]
    assert found.mass_center.tolist() == [[0.5, 0.5, 0.0], [1298.0, 1298.0, 1298.0]]
    per_slice = find_components(labels, view)
    axis = ["sagittal", "coronal", "axial"].index(view)
    assert per_slice.start[:, axis].tolist() == ([0, 1] if view != "axial" else [0]) + [1297, 1298, 1299]


def test_sums_past_two_to_the_31() -> None:
    """One component of 2**25 voxels; its coordinate sums need more than 32 bits."""
    side = 1 << 13
    labels = np.broadcast_to(np.uint8(1), (side, 1 << 12, 1))
    found = find_components(labels, "axial", mass=True)
    count = side << 12
    assert found.count.tolist() == [count]
    assert found.total is not None
    assert found.total.tolist() == [[count * (side - 1) // 2, count * ((1 << 12) - 1) // 2, 0]]


@pytest.mark.parametrize(
    ("labels", "arguments", "words"),
    [
        (np.zeros((2, 2)), {}, r"2 axes \(2, 2\).*\(x, y, z\)"),
        (np.zeros((2, 2, 2)), {}, "float64.*integers or bool"),
        (np.zeros((2, 2, 2), complex), {}, "complex128"),
        (np.zeros((2, 2, 2), int), {"view": "oblique"}, "'oblique'.*'axial', 'coronal', 'sagittal'"),
        (np.zeros((2, 2, 2), int), {"extent": "plane"}, "'plane'.*'slice', 'volume'"),
        (np.zeros((2, 2, 2), int), {"objects": "things"}, "'things'.*'components', 'labels'"),
        (np.zeros((2, 2, 2), int), {"connectivity": 3}, "connectivity 3 in a slice; allowed: 1, 2$"),
        (np.zeros((2, 2, 2), int), {"connectivity": 8}, "connectivity 8 .*allowed: 1, 2$"),
        (np.zeros((2, 2, 2), int), {"connectivity": 0, "extent": "volume"}, "connectivity 0 .*allowed: 1, 2, 3$"),
    ],
)
def test_errors_say_what_was_found_and_what_is_allowed(
    labels: NDArray[Any], arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        find_components(labels, **({"view": "axial"} | arguments))


@pytest.mark.real
@pytest.mark.parametrize("objects", OBJECTS)
@pytest.mark.parametrize("name", ["jhu189", "HarvardOxford-cort-maxprob-thr0-1mm"])
def test_real_atlases_agree_with_scipy(name: str, objects: Objects) -> None:
    import nibabel as nib

    path = REAL / f"{name}.nii.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    image: Any = nib.load(path)
    labels = np.asarray(image.dataobj)
    found = find_components(labels, "coronal", objects=objects)
    structure = np.zeros((3, 3, 3), int)
    structure[:, 1, :] = 1
    expected = []
    value_boxes: list[Any] = list(ndimage.find_objects(labels))
    for value, box in enumerate(value_boxes, start=1):
        if box is None:
            continue
        inside = labels[box] == value
        numbered = (
            ndimage.label(inside, structure)[0]
            if objects == "components"
            else inside * (np.arange(1, inside.shape[1] + 1)[None, :, None])
        )
        counts = np.bincount(numbered.ravel())
        for number, piece in enumerate(ndimage.find_objects(numbered), start=1):
            if piece is not None:
                corners = [(s.start + b.start, s.stop + b.start) for s, b in zip(piece, box, strict=True)]
                expected.append((*(a for a, _ in corners), *(b for _, b in corners), value, int(counts[number])))
    got = np.column_stack([found.start, found.stop, found.label, found.count])
    assert sorted(map(tuple, got.tolist())) == sorted(expected)
    assert (np.diff(found.start[:, 1]) >= 0).all()  # raster order: by slice first


@settings(max_examples=20)
@given(labels=masks(max_side=6), view=views)
def test_nothing_is_written_to_the_labels(labels: NDArray[Any], view: View) -> None:
    before = labels.copy()
    find_components(labels, view)
    assert np.array_equal(labels, before)


# ------------------------------------------------------------------------------------------------------- in chunks


def chunked(labels: NDArray[Any], side: tuple[int, int, int], keep_empty: bool) -> list[list[tuple[Any, NDArray[Any]]]]:
    """Cut a volume into chunks as sparse stores hold them: layers along z, in no order within a layer."""
    layers = []
    for z in range(0, labels.shape[2], side[2]):
        layer = []
        for y in range(0, labels.shape[1], side[1]):
            for x in range(0, labels.shape[0], side[0]):
                chunk = labels[x : x + side[0], y : y + side[1], z : z + side[2]]
                if keep_empty or (chunk > 0).any():
                    layer.append(((x, y, z), chunk))
        layers.append(layer[::-1])
    return layers


@given(
    labels=hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.uint64, np.bool_]),
        st.tuples(*[st.integers(1, 7)] * 3),
        elements=st.integers(0, 1) | st.just(0),
    ),
    side=st.tuples(*[st.integers(1, 4)] * 3),
    view=st.sampled_from(VIEWS),
    extent=st.sampled_from(["slice", "volume"]),
    connectivity=st.sampled_from([None, 1, 2]),
    objects=st.sampled_from(["components", "labels"]),
    keep_empty=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_chunks_give_what_the_whole_volume_gives(
    labels: NDArray[Any], side: Any, view: Any, extent: Any, connectivity: Any, objects: Any, keep_empty: bool
) -> None:
    words: dict[str, Any] = {"extent": extent, "connectivity": connectivity, "objects": objects, "mass": True}
    whole = find_components(labels, view, **words)
    layers = chunked(labels, side, keep_empty)
    found = find_components_in_chunks(layers, labels.shape, labels.dtype, view, **words)
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(found.columns[name], column)
        if name != "label" or labels.dtype != np.bool_:
            assert found.columns[name].dtype == column.dtype


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("extent", ["slice", "volume"])
def test_a_component_through_many_chunks_far_out_in_a_huge_volume(view: Any, extent: Any) -> None:
    rng = np.random.default_rng(2)
    labels = (rng.random((40, 37, 30)) < 0.6).astype(np.uint32) * 2504698
    shape, origin = (120_000, 90_000, 7_000), (100_000, 64, 6_400)
    layers = [
        [((x + origin[0], y + origin[1], z + origin[2]), chunk) for (x, y, z), chunk in layer]
        for layer in chunked(labels, (16, 16, 8), keep_empty=False)
    ]
    found = find_components_in_chunks(layers, shape, np.uint32, view, extent=extent, mass=True)
    whole = find_components(labels, view, extent=extent, mass=True)
    np.testing.assert_array_equal(found.start, whole.start + origin)
    np.testing.assert_array_equal(found.stop, whole.stop + origin)
    np.testing.assert_array_equal(found.count, whole.count)
    assert found.total is not None
    np.testing.assert_array_equal(found.total, whole.total + whole.count[:, None] * np.array(origin))


def test_chunks_of_a_volume_that_cannot_be_counted() -> None:
    with pytest.raises(InvalidInput, match="more than int64 can count"):
        find_components_in_chunks([], (2**30, 2**30, 2**30), np.uint8, "axial")
    assert len(find_components_in_chunks([], (2**20, 2**20, 2**20), np.uint8, "axial")) == 0
