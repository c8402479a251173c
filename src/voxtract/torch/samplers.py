"""The order in which slices of many volumes are best asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Sampler

from voxtract.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxtract.torch.volumes import VolumeDataset


class VolumeSampler(Sampler[list[int]]):
    """Batches of slices such that each volume is decoded about once per epoch, whatever the number of workers.

    A shuffle over all slices asks for another volume with each slice, and a `DataLoader` deals its batches out to its
    workers in turn, so that each of them meets every volume. Here volumes are shuffled, the slices of `window` volumes
    at a time are shuffled among themselves, and the batches are ordered so that each worker is dealt volumes of its
    own. Where the share of one worker ends inside a volume, the next decodes it too::

        sampler = VolumeSampler(data, batch_size=8, num_workers=4, window=2)
        loader = DataLoader(
            data, batch_sampler=sampler, num_workers=4, collate_fn=collate, persistent_workers=True
        )

    Slices of one volume resemble each other: a larger `window` mixes more volumes into a batch, and needs a cache that
    holds as many. Persistent workers keep their cache from epoch to epoch.

    Parameters
    ----------
    dataset : VolumeDataset
    batch_size : int
    num_workers : int
        The same as of the `DataLoader`. With another number all is served too, but volumes are decoded more often.
    shuffle : bool
        Otherwise the slices come in the order of the data set, apart from the dealing out.
    window : int
        Volumes whose slices are mixed.
    drop_last : bool
        Leave out the batch that is not full.
    generator : torch.Generator, optional
        Source of the shuffles, each epoch another; torch's own (`torch.manual_seed`) by default.

    Raises
    ------
    InvalidInput
        A number that is too small, or a window of volumes that the cache does not hold.
    """

    def __init__(
        self,
        dataset: VolumeDataset,
        batch_size: int,
        *,
        num_workers: int = 0,
        shuffle: bool = True,
        window: int = 1,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
    ):
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("window", window, 1),
        ):
            if value < least:
                raise InvalidInput(f"{name} {value} must be at least {least}")
        need = sum(sorted(dataset.volume_bytes)[-window:])
        if shuffle and window > 1 and need > dataset.cache_bytes:
            raise InvalidInput(
                f"window={window} mixes volumes of up to {need:,} bytes together, but cache_bytes is "
                f"{dataset.cache_bytes:,}: they would be decoded again and again; "
                f"pass VolumeDataset(…, cache_bytes={need}) or a smaller window"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.shuffle = shuffle
        self.window = window
        self.drop_last = drop_last
        self.generator = generator

    def __len__(self) -> int:
        count = len(self.dataset) / self.batch_size
        return math.floor(count) if self.drop_last else math.ceil(count)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        shares = np.array_split(np.arange(len(self)), max(1, self.num_workers))  # the first ones are the longer ones
        for turn in range(len(self)):
            number = int(shares[turn % len(shares)][turn // len(shares)])
            yield order[number * self.batch_size : (number + 1) * self.batch_size].tolist()

    def _order(self) -> NDArray[np.int64]:
        order = np.arange(len(self.dataset))
        if not self.shuffle:
            return order
        volumes = np.split(order, self.dataset.volume_starts[1:])
        seed = int(torch.empty((), dtype=torch.int64).random_(generator=self.generator).item())
        rng = np.random.default_rng(seed)
        shuffled = [volumes[i] for i in rng.permutation(len(volumes))]
        windows = [shuffled[i : i + self.window] for i in range(0, len(shuffled), self.window)]
        return np.concatenate([rng.permutation(np.concatenate(window)) for window in windows])
