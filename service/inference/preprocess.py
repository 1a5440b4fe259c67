"""Resized pictures of one padded size to the network's input."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.datatypes import Sample
from service.inference.transfer import to_device

# Of the B, G and R channel over ImageNet. detectron2/config/defaults.py: MODEL.PIXEL_MEAN
PIXEL_MEAN_BGR = (103.53, 116.28, 123.675)


def pixel_mean(device: torch.device) -> Tensor:
    """The mean [3] of B, G and R."""
    return to_device(torch.tensor(PIXEL_MEAN_BGR), device)


def stack_samples(samples: Sequence[Sample], device: torch.device, dtype: torch.dtype) -> Tensor:
    """[N, 3, H, W] on the device: mean subtracted, padded with 0 at the right and the bottom.

    Channels last in memory.
    """
    height, width = samples[0].padded_size_hw
    batch_NHW3 = torch.zeros(len(samples), height, width, 3, device=device)
    mean_3 = pixel_mean(device)
    for image_HW3, sample in zip(batch_NHW3, samples, strict=True):
        pixels_hw3 = to_device(torch.as_tensor(sample.pixels_hw3), device)
        h, w = pixels_hw3.shape[:2]
        image_HW3[:h, :w] = pixels_hw3 - mean_3
    return batch_NHW3.permute(0, 3, 1, 2).to(dtype)


def write_samples(samples: Sequence[Sample], out_NHW3: Tensor) -> None:
    """Write the pictures into the corners of these; what lies beside them stays as it was."""
    for image_HW3, sample in zip(out_NHW3, samples, strict=True):
        pixels_hw3 = torch.as_tensor(sample.pixels_hw3)
        image_HW3[: pixels_hw3.shape[0], : pixels_hw3.shape[1]] = pixels_hw3


def normalise(pixels_NHW3: Tensor, sizes_N2: Tensor, mean_3: Tensor, dtype: torch.dtype) -> Tensor:
    """What `stack_samples` gives, of pictures of these heights and widths that lie in the corners.

    Nothing in it depends on the sizes but the values, so that it can be recorded.
    """
    device = pixels_NHW3.device
    is_row_NH = torch.arange(pixels_NHW3.shape[1], device=device) < sizes_N2[:, :1]
    is_column_NW = torch.arange(pixels_NHW3.shape[2], device=device) < sizes_N2[:, 1:]
    is_inside_NHW1 = is_row_NH[:, :, None, None] & is_column_NW[:, None, :, None]
    images_NHW3 = (pixels_NHW3 - mean_3).masked_fill(~is_inside_NHW1, 0.0)
    return images_NHW3.permute(0, 3, 1, 2).to(dtype)
