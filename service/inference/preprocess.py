"""Resized pictures of one padded size to the network's input."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.datatypes import Sample

# Of the B, G and R channel over ImageNet. detectron2/config/defaults.py: MODEL.PIXEL_MEAN
PIXEL_MEAN_BGR = (103.53, 116.28, 123.675)


def stack_samples(samples: Sequence[Sample], device: torch.device, dtype: torch.dtype) -> Tensor:
    """[N, 3, H, W] on the device: mean subtracted, padded with 0 at the right and the bottom.

    Channels last in memory.
    """
    height, width = samples[0].padded_size_hw
    batch_N3HW = torch.zeros(len(samples), height, width, 3, device=device).permute(0, 3, 1, 2)
    mean_311 = torch.tensor(PIXEL_MEAN_BGR, device=device)[:, None, None]
    for image_3HW, sample in zip(batch_N3HW, samples, strict=True):
        pixels_hw3 = torch.as_tensor(sample.pixels_hw3).to(device)
        h, w = pixels_hw3.shape[:2]
        image_3HW[:, :h, :w] = pixels_hw3.permute(2, 0, 1) - mean_311
    return batch_N3HW.to(dtype)
