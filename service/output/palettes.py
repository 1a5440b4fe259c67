"""The palettes that pictures are drawn with: a colour for every value of 0..255."""

from collections.abc import Mapping
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from service.output.parts import NUM_PARTS


class Palette(StrEnum):
    """The palettes by their names in the API."""

    PARULA = "parula"
    VIRIDIS = "viridis"
    JET = "jet"
    TURBO = "turbo"
    CVTON = "cvton"


_OPENCV: Mapping[Palette, int] = {
    Palette.PARULA: cv2.COLORMAP_PARULA,
    Palette.VIRIDIS: cv2.COLORMAP_VIRIDIS,
    Palette.JET: cv2.COLORMAP_JET,
    Palette.TURBO: cv2.COLORMAP_TURBO,
}
# One per label, background first. C-VTON, dataloaders/VitonDataset.py: semantic_densepose_labels
_CVTON = """
000000 696969 556b2f 8b4513 483d8b 008000 9acd32 00008b ff4500 ffa500 ffff00 00ff00 ba55d3
00ff7f dc143c 00bfff 0000ff d8bfd8 ff00ff 1e90ff db7093 f0e68c ff1493 ffa07a 7fffd4
"""

# The value that each label is coloured by. densepose/vis/densepose_results.py: val_scale
LABEL_VALUES: NDArray[np.uint8] = (np.arange(NUM_PARTS + 1) * 255 / NUM_PARTS).astype(np.uint8)
_VALUE_TABLE = np.pad(LABEL_VALUES, (0, 256 - len(LABEL_VALUES)))


def colours_of(palette: Palette) -> NDArray[np.uint8]:
    """R, G and B of every value, uint8 [256, 3]."""
    values_P1 = np.arange(256, dtype=np.uint8)[:, None]
    if palette is Palette.CVTON:
        colours = np.frombuffer(bytes.fromhex(_CVTON), np.uint8).reshape(NUM_PARTS + 1, 3)
        return colours[np.searchsorted(LABEL_VALUES, values_P1[:, 0], side="right") - 1]
    return np.asarray(cv2.applyColorMap(values_P1, _OPENCV[palette])[:, 0, ::-1], np.uint8)


def values_of(labels_hw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The values that labels are coloured by."""
    return np.asarray(cv2.LUT(labels_hw, _VALUE_TABLE), np.uint8)


def label_colours(palette: Palette) -> NDArray[np.uint8]:
    """R, G and B of every label, background first, uint8 [25, 3]."""
    return colours_of(palette)[LABEL_VALUES]
