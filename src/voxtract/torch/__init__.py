"""Slices and their boxes as PyTorch data sets; needs ``pip install 'voxtract[torch]'``.

:class:`SliceDataset` serves what :func:`voxtract.extract` has written, :class:`VolumeDataset` cuts slices straight out
of the volumes, and :class:`VolumeSampler` deals them out so that each volume is decoded once. An item is
``(image, target)`` as torchvision's detection models take them::

    import voxtract.torch
    from torch.utils.data import DataLoader

    data = voxtract.torch.SliceDataset("out/training", split="train", empty=False)
    for images, targets in DataLoader(data, 8, shuffle=True, num_workers=4, collate_fn=voxtract.torch.collate):
        ...

``image`` is (1, height, width) float32 with the values of the slice image. ``target`` is a dictionary:

============  ==========================================================================================
``boxes``     (n, 4) float32: x1, y1, x2, y2 in pixels, half-open: ``image[0, y1:y2, x1:x2]`` is the box
``labels``    (n,) int64: class ids, from 1; 0 is torchvision's background
``area``      (n,) float32: pixels of the component
``iscrowd``   (n,) int64: 0
``image_id``  int: position in the data set, which ``origin`` turns into case, view and slice
``masks``     (n, height, width) uint8, only where asked for
============  ==========================================================================================

A slice without annotations has n = 0.
"""

from __future__ import annotations

from voxtract.errors import InvalidInput

try:
    import torch  # noqa: F401
except ModuleNotFoundError as why:
    if why.name != "torch":  # it is there, and something that it needs is not
        raise
    raise InvalidInput("voxtract.torch needs PyTorch, which is not installed; pip install 'voxtract[torch]'") from why

from voxtract.torch.dicts import monai_dicts
from voxtract.torch.samplers import VolumeSampler
from voxtract.torch.slices import SliceDataset
from voxtract.torch.tensors import Origin, collate, to_tensor
from voxtract.torch.volumes import VolumeDataset, VolumeOptions

__all__ = [
    "Origin",
    "SliceDataset",
    "VolumeDataset",
    "VolumeOptions",
    "VolumeSampler",
    "collate",
    "monai_dicts",
    "to_tensor",
]
