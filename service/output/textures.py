"""An atlas of the body's parts, drawn on a body."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.datatypes import TEXTURE_COLUMNS, TEXTURE_ROWS


def look_up_texels(
    atlas: NDArray[np.uint8], labels_hw: NDArray[np.uint8], uv_2hw: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """R, G and B, uint8 [h, w, 3], and opacity, 0..1 [h, w], that the atlas has for each pixel.

    The atlas is uint8 [6 N, 4 N, 3 or 4], R, G, B and perhaps alpha; without it, black texels are
    transparent. Off the body they mean nothing. In the order of floating-point operations of
    detectron2's densepose/vis/densepose_results_textures.py.
    """
    side = atlas.shape[0] // TEXTURE_ROWS
    u_hw, v_hw = uv_2hw
    part_hw = np.maximum(labels_hw, 1).astype(np.intp) - 1
    columns_hw = part_hw // TEXTURE_ROWS * side + (u_hw * (side - 1)).astype(np.intp)
    rows_hw = part_hw % TEXTURE_ROWS * side + ((1 - v_hw) * (side - 1)).astype(np.intp)
    texels = atlas.reshape(-1, atlas.shape[2]).take(rows_hw * atlas.shape[1] + columns_hw, axis=0)
    if texels.shape[-1] == 4:
        return texels[..., :3], texels[..., 3] / 255.0
    return texels, texels.any(axis=-1).astype(np.float64)


def is_atlas_shape(height: int, width: int) -> bool:
    """Whether a picture of this size can be an atlas: 6 N high and 4 N wide."""
    side = height // TEXTURE_ROWS
    return side > 0 and (height, width) == (TEXTURE_ROWS * side, TEXTURE_COLUMNS * side)
