"""The pixels of all regions, one after the other, and where each lies among the head's cells.

Shape letters: R regions, S = side of the head's output, T pixels of one tile, C channels,
N = R S S cells.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from service.datatypes import RegionXYWH


@dataclass(frozen=True, slots=True)
class Tile:
    """Some consecutive pixels: their place, their region, the four cells around each and weights.

    `cells_T4` counts the cells region by region, row by row.
    """

    pixels: slice
    region_T: Tensor
    cells_T4: Tensor
    weights_T4: Tensor

    def sample(self, table_NC: Tensor, cells_T4: Tensor | None = None) -> Tensor:
        """The bilinear mean [T, C] of a table with one row per cell, or of the rows named."""
        return F.embedding_bag(
            self.cells_T4 if cells_T4 is None else cells_T4,
            table_NC,
            per_sample_weights=self.weights_T4,
            mode="sum",
        )


def as_table(values_RCSS: Tensor) -> Tensor:
    """One row per cell, one column per channel: [N, C]; no copy where channels are last."""
    return values_RCSS.permute(0, 2, 3, 1).reshape(-1, values_RCSS.shape[1])


def num_pixels(regions: Sequence[RegionXYWH]) -> int:
    """The sum of the regions' areas."""
    return sum(width * height for _, _, width, height in regions)


def tiles(
    regions: Sequence[RegionXYWH], side: int, max_pixels: int, device: torch.device
) -> Iterator[Tile]:
    """The regions' pixels, `max_pixels` at a time: in each region row by row."""
    sizes_R2 = torch.tensor([region[2:] for region in regions], device=device).reshape(-1, 2)
    widths_R, heights_R = sizes_R2.unbind(1)
    ends_R = (widths_R * heights_R).cumsum(0)
    total = num_pixels(regions)
    for start in range(0, total, max_pixels):
        stop = min(start + max_pixels, total)
        pixel_T = torch.arange(start, stop, device=device)
        region_T = torch.searchsorted(ends_R, pixel_T, right=True)
        width_T, height_T = widths_R[region_T], heights_R[region_T]
        offset_T = pixel_T - (ends_R[region_T] - width_T * height_T)
        top_T, bottom_T, down_T = _neighbours(offset_T // width_T, height_T, side)
        left_T, right_T, along_T = _neighbours(offset_T % width_T, width_T, side)
        top_T = (region_T * side + top_T) * side
        bottom_T = (region_T * side + bottom_T) * side
        yield Tile(
            slice(start, stop),
            region_T,
            torch.stack(
                (top_T + left_T, top_T + right_T, bottom_T + left_T, bottom_T + right_T), dim=1
            ),
            torch.stack(
                (
                    (1 - down_T) * (1 - along_T),
                    (1 - down_T) * along_T,
                    down_T * (1 - along_T),
                    down_T * along_T,
                ),
                dim=1,
            ),
        )


def _neighbours(place_T: Tensor, size_T: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two cells around a pixel along one axis, and how far it is from the first.

    Half-pixel centres, in the order and rounding of torch's `interpolate(align_corners=False)`.
    """
    size_T = size_T.float()
    # Not `side / size_T`, which torch computes as side * (1 / size), rounded twice.
    scale_T = torch.full_like(size_T, side) / size_T
    source_T = (scale_T * (place_T + 0.5) - 0.5).clamp(min=0)
    first_T = source_T.long().clamp(max=side - 1)
    return first_T, (first_T + 1).clamp(max=side - 1), source_T - first_T
