"""Images per second of a PyTorch DataLoader: slices of volumes, against MONAI reading the same volumes.

Two CT-like int16 volumes and their masks as ``.nii.gz`` (see bench_pipeline.py). Every contestant delivers all axial
slices once, as float32 of (1, 512, 512), in batches; volumes are decoded anew each time.

- ``SliceDataset`` reads the slice images of an extraction made before, which is not in the time.
- ``VolumeDataset`` with ``VolumeSampler(shuffle=False)`` decodes each volume once.
- ``monai patches`` is what MONAI's tutorial for 2D slices of 3D volumes does: `GridPatchDataset` over `LoadImaged`,
  `PatchIterd` with patches of one slice. Each volume is decoded once.
- ``monai by slice`` is `monai.data.Dataset` with an entry for each slice: `LoadImaged`, then the slice is taken. Each
  slice decodes its volume, so only the first and the middle slice of each are asked for.

With ``labels`` the masks are read too: ours come as boxes of each slice's components, MONAI's as slices of the mask.
Needs MONAI (``pip install monai``).
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_pipeline import make_inputs, settle

BATCH = 8
Loader = Callable[[], Any]  # makes a DataLoader anew


def main(repeat: int = 5, shape: tuple[int, int, int] = (512, 512, 160), workers: int = 2) -> dict[str, Any]:
    """Measure, and return a JSON-ready result."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        content = make_inputs(root, shape)
        _extract(root)
        result: dict[str, Any] = {"content": content, "batch": BATCH, "repeat": repeat}
        for kind, labels in (("images", False), ("labels", True)):
            for number in (0, workers):
                name = f"{kind}, {number} workers" if number else f"{kind}, in the main process"
                result[name] = _compare(_loaders(root, labels, number), repeat, labels=labels)
        return result


def _extract(root: Path) -> None:
    import voxtract

    source = voxtract.open_source(image=root / "images", labels=root / "masks")
    voxtract.extract(source, root / "out", annotations=None, progress=False)


def _loaders(root: Path, labels: bool, workers: int) -> dict[str, Loader]:
    return {
        "SliceDataset": partial(_slices, root, workers),
        "VolumeDataset": partial(_volumes, root, labels, workers),
        "monai patches": partial(_monai_patches, root, labels, workers),
        "monai by slice": partial(_monai_by_slice, root, labels, workers),
    }


def _slices(root: Path, workers: int) -> Any:
    from torch.utils.data import DataLoader

    from voxtract.torch import SliceDataset, collate

    return DataLoader(SliceDataset(root / "out"), BATCH, num_workers=workers, collate_fn=collate)


def _volumes(root: Path, labels: bool, workers: int) -> Any:
    from torch.utils.data import DataLoader

    import voxtract
    from voxtract.torch import VolumeDataset, VolumeSampler, collate

    data = VolumeDataset(voxtract.open_source(image=root / "images", labels=root / "masks" if labels else None))
    sampler = VolumeSampler(data, BATCH, num_workers=workers, shuffle=False)
    return DataLoader(data, batch_sampler=sampler, num_workers=workers, collate_fn=collate)


def _files(root: Path, labels: bool) -> list[dict[str, Any]]:
    names = sorted(path.name for path in (root / "images").iterdir())
    kinds = {"image": "images", "label": "masks"} if labels else {"image": "images"}
    return [{key: str(root / folder / name) for key, folder in kinds.items()} for name in names]


def _monai_patches(root: Path, labels: bool, workers: int) -> Any:
    from monai.data import DataLoader, Dataset, GridPatchDataset, PatchIterd
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, SqueezeDimd

    files = _files(root, labels)
    keys = list(files[0])
    volumes = Dataset(files, Compose([LoadImaged(keys), EnsureChannelFirstd(keys)]))
    patches = PatchIterd(keys, patch_size=(None, None, 1))
    data = GridPatchDataset(volumes, patches, SqueezeDimd(keys, dim=-1), with_coordinates=False)
    return DataLoader(data, batch_size=BATCH, num_workers=workers)


def _monai_by_slice(root: Path, labels: bool, workers: int) -> Any:
    import nibabel
    from monai.data import DataLoader, Dataset
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

    items = []
    for files in _files(root, labels):
        count = nibabel.nifti1.load(files["image"]).shape[2]
        items += [{**files, "slice": index} for index in (0, count // 2)]
    keys = list(_files(root, labels)[0])
    transform = Compose([LoadImaged(keys), EnsureChannelFirstd(keys), partial(_slice_of, keys=keys)])
    return DataLoader(Dataset(items, transform), batch_size=BATCH, num_workers=workers)


def _slice_of(item: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    return {key: item[key][..., item["slice"]] for key in keys}


def _images(loader: Any) -> Iterator[Any]:
    """Single images of batches, (1, height, width); of ours a list, of MONAI's one tensor."""
    for batch in loader:
        yield from batch["image"] if isinstance(batch, dict) else batch[0]


def _checked(loaders: dict[str, Loader]) -> str:
    """Compare the images of all contestants; workers deliver them in another order, so by what is in them."""
    seen: dict[str, dict[bytes, NDArray[Any]]] = {}
    for name, make in loaders.items():
        arrays = [np.ascontiguousarray(image) for image in _images(make())]
        seen[name] = {array.tobytes(): array for array in arrays}
        assert all(array.dtype == np.float32 and array.shape[0] == 1 for array in arrays)
        assert len(seen[name]) == len(arrays), "an image came twice"
    ours = seen["SliceDataset"].keys()
    assert ours == seen["VolumeDataset"].keys() == seen["monai patches"].keys()
    assert seen["monai by slice"].keys() <= ours
    return f"the same {len(ours)} float32 images, bit for bit"


def _checked_labels(loaders: dict[str, Loader]) -> str:
    """Compare what is labelled: the pixels of our components against those of MONAI's masks."""
    ours = sum(float(target["area"].sum()) for _, targets in loaders["VolumeDataset"]() for target in targets)
    theirs = sum(int((batch["label"] > 0).sum()) for batch in loaders["monai patches"]())
    assert ours == theirs > 0
    return f"the components have the {theirs} labelled pixels of MONAI's masks; images as without labels"


def _compare(loaders: dict[str, Loader], repeat: int, *, labels: bool) -> dict[str, Any]:
    logging.getLogger("monai").setLevel(logging.ERROR)
    if labels:
        del loaders["SliceDataset"]  # its annotations are ready made
    checked = _checked_labels(loaders) if labels else _checked(loaders)
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(repeat):
        for name, make in loaders.items():
            settle()
            begin = time.perf_counter()
            count = sum(1 for _ in _images(make()))
            rates[name].append(count / (time.perf_counter() - begin))
    ours = [name for name in loaders if not name.startswith("monai")]
    return {
        "checked": checked,
        "images_per_s": {name: round(statistics.median(rate), 1) for name, rate in rates.items()},
        "times as many as": {
            mine: {
                peer: round(statistics.median(a / b for a, b in zip(rates[mine], rates[peer], strict=True)), 1)
                for peer in loaders
                if peer.startswith("monai")
            }
            for mine in ours
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    print(json.dumps(main(arguments.repeat, workers=arguments.workers), indent=2))
