"""The pixels of each instance, gathered into the squares of its parts.

Shape letters: P pixels of one region, B pixels of its body, H W = the client's image, N = side of
a part's square, T = 24 N N texels.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.datatypes import (
    TEXTURE_COLUMNS,
    TEXTURE_ROWS,
    TEXTURE_SIDE,
    Output,
    RegionXYWH,
    Sample,
)
from service.inference.map_buffer import MapBuffer

# Of a region, at once: what is worked out of each takes some 60 bytes.
MAX_PIXELS = 2**20


def gather_textures(
    painted: Sequence[tuple[Sample, Sequence[RegionXYWH]]], maps: MapBuffer
) -> Iterator[NDArray[np.uint8]]:
    """On the host, a texture for each instance of the samples that ask for them, in their order.

    `maps` has the labels, U and V of all regions, one after the other.
    """
    first = 0
    for sample, regions in painted:
        places = []
        for region in regions:
            places.append(slice(first, first + region[2] * region[3]))
            first = places[-1].stop
        if Output.TEXTURE not in sample.query.outputs or not regions:
            continue
        assert sample.photo is not None
        photo_HW3 = torch.as_tensor(sample.photo.pixels_HW3).to(maps[Output.LABELS].device)
        for region, place in zip(regions, places, strict=True):
            label_P, uv_2P = maps[Output.LABELS][place], maps[Output.UV][:, place]
            yield gather_texture(label_P, uv_2P, region, photo_HW3).cpu().numpy()


def gather_texture(
    label_P: Tensor, uv_2P: Tensor, region_xywh: RegionXYWH, photo_HW3: Tensor
) -> Tensor:
    """R, G, B and coverage, uint8 [6 N, 4 N, 4]: 255 where a pixel fell, else all channels are 0.

    The part's square is read as detectron2 does it: x = U (N - 1), y = (1 - V) (N - 1), truncated.
    densepose/vis/densepose_results_textures.py. Of several pixels, the last one of the image stays.
    """
    left, top, width, _ = region_xywh
    height_px, width_px = TEXTURE_ROWS * TEXTURE_SIDE, TEXTURE_COLUMNS * TEXTURE_SIDE
    source_T = torch.full((height_px * width_px,), -1, device=label_P.device)
    for first in range(0, len(label_P), MAX_PIXELS):
        body_B = torch.nonzero(label_P[first : first + MAX_PIXELS])[:, 0] + first
        part_B = label_P[body_B].long() - 1
        u_B, v_B = uv_2P[:, body_B]
        x_B = part_B // TEXTURE_ROWS * TEXTURE_SIDE + (u_B * (TEXTURE_SIDE - 1)).long()
        y_B = part_B % TEXTURE_ROWS * TEXTURE_SIDE + ((1 - v_B) * (TEXTURE_SIDE - 1)).long()
        source_B = (top + body_B // width) * photo_HW3.shape[1] + left + body_B % width
        # The largest index, and not whichever is written last, so that every device agrees.
        source_T.scatter_reduce_(0, y_B * width_px + x_B, source_B, "amax")
    covered = torch.nonzero(source_T >= 0)[:, 0]
    texture_T4 = torch.zeros(len(source_T), 4, dtype=torch.uint8, device=label_P.device)
    texture_T4[covered, :3] = photo_HW3.reshape(-1, 3)[source_T[covered]].flip(1)
    texture_T4[covered, 3] = 255
    return texture_T4.view(height_px, width_px, 4)
