"""The pixels of all regions, one after the other, and where each lies among the head's cells.

A pixel's place is that of its row and that of its column, so both are worked out once for each
side of a region, and only put together for each pixel.

Shape letters: R regions, Y rows and X columns of all regions, S = side of the head's output,
T pixels of one tile, B some of them, C channels, N = R S S cells; P pixels, K scores of each.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from service.datatypes import RegionXYWH
from service.inference.devices import traits_of

# Pixels whose scores are laid out together: they fit the first cache.
BLOCK_PIXELS = 256


@dataclass(frozen=True, slots=True)
class Spots:
    """Points between cells: the four cells around each, and their weights.

    `cells_P4` is int32 and counts the cells region by region, row by row.
    """

    cells_P4: Tensor
    weights_P4: Tensor

    def sample(self, table_NC: Tensor, cells_P4: Tensor | None = None) -> Tensor:
        """The bilinear mean [P, C] of a table with one row per cell, or of the rows named."""
        return F.embedding_bag(
            self.cells_P4 if cells_P4 is None else cells_P4,
            table_NC,
            per_sample_weights=self.weights_P4,
            mode="sum",
        )

    def at(self, chosen_B: Tensor) -> "Spots":
        """Some of them."""
        return Spots(
            self.cells_P4.index_select(0, chosen_B), self.weights_P4.index_select(0, chosen_B)
        )


@dataclass(frozen=True, slots=True)
class Tile:
    """Some consecutive pixels: their place among all, their spots, and their region."""

    pixels: slice
    spots: Spots
    row_T: Tensor
    region_Y: Tensor

    def regions_of(self, chosen_B: Tensor) -> Tensor:
        """The regions [B] that some of its pixels are in."""
        return self.region_Y.index_select(0, self.row_T.index_select(0, chosen_B))


def as_table(values_RCSS: Tensor) -> Tensor:
    """One row per cell, one column per channel: [N, C]; no copy where channels are last."""
    return values_RCSS.permute(0, 2, 3, 1).reshape(-1, values_RCSS.shape[1])


def num_pixels(regions: Sequence[RegionXYWH]) -> int:
    """The sum of the regions' areas."""
    return sum(width * height for _, _, width, height in regions)


def tiles(
    regions: Sequence[RegionXYWH], side: int, max_pixels: int, device: torch.device
) -> Iterator[Tile]:
    """The regions' pixels in whole rows, `max_pixels` at a time: in each region row by row.

    A row of more pixels than that is a tile of its own.
    """
    sizes_R2 = torch.tensor([region[2:] for region in regions], dtype=torch.int64).reshape(-1, 2)
    widths_R, heights_R = sizes_R2.unbind(1)
    region_Y, top_Y, bottom_Y, down_Y = _neighbours(heights_R, side)
    _, left_X, right_X, along_X = _neighbours(widths_R, side)
    top_Y, bottom_Y = (region_Y * side + top_Y) * side, (region_Y * side + bottom_Y) * side
    row_cells_Y4 = torch.stack((top_Y, top_Y, bottom_Y, bottom_Y), dim=1).int().to(device)
    row_weights_Y4 = torch.stack((1 - down_Y, 1 - down_Y, down_Y, down_Y), dim=1).to(device)
    column_cells_X4 = torch.stack((left_X, right_X, left_X, right_X), dim=1).int().to(device)
    column_weights_X4 = torch.stack((1 - along_X, along_X, 1 - along_X, along_X), 1).to(device)
    width_Y = widths_R[region_Y]
    end_Y = width_Y.cumsum(0)
    # What is to be added to a pixel's number for that of its column.
    first_column_Y = ((widths_R.cumsum(0) - widths_R)[region_Y] - (end_Y - width_Y)).to(device)
    ends = end_Y.tolist()
    region_Y, width_Y = region_Y.to(device), width_Y.to(device)
    for rows, pixels in _whole_rows(ends, max_pixels):
        count = pixels.stop - pixels.start
        row_T = torch.arange(rows.start, rows.stop, device=device).repeat_interleave(
            width_Y[rows], output_size=count
        )
        column_T = torch.arange(pixels.start, pixels.stop, device=device)
        column_T += first_column_Y.index_select(0, row_T)
        cells_T4 = row_cells_Y4.index_select(0, row_T)
        cells_T4 += column_cells_X4.index_select(0, column_T)
        weights_T4 = row_weights_Y4.index_select(0, row_T)
        weights_T4 *= column_weights_X4.index_select(0, column_T)
        yield Tile(pixels, Spots(cells_T4, weights_T4), row_T, region_Y)


def _whole_rows(ends: Sequence[int], max_pixels: int) -> Iterator[tuple[slice, slice]]:
    """As many consecutive rows as have no more pixels, and these; `ends` are the rows' ends."""
    row = pixel = 0
    while row < len(ends):
        last = max(bisect_right(ends, pixel + max_pixels), row + 1)
        yield slice(row, last), slice(pixel, ends[last - 1])
        row, pixel = last, ends[last - 1]


def _neighbours(sizes_R: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Along one axis, for the pixels of all regions: the region, the two cells around, the way.

    The way from the first cell to the second is 0 to 1. Half-pixel centres, in the order and
    rounding of torch's `interpolate(align_corners=False)`.
    """
    region_P = torch.arange(len(sizes_R)).repeat_interleave(sizes_R)
    place_P = torch.arange(len(region_P)) - (sizes_R.cumsum(0) - sizes_R)[region_P]
    size_P = sizes_R[region_P].float()
    # Not `side / size_P`, which torch computes as side * (1 / size), rounded twice.
    scale_P = torch.full_like(size_P, side) / size_P
    source_P = (scale_P * (place_P + 0.5) - 0.5).clamp(min=0)
    first_P = source_P.long().clamp(max=side - 1)
    return region_P, first_P, (first_P + 1).clamp(max=side - 1), source_P - first_P


def argmax_of_rows(scores_PK: Tensor) -> Tensor:
    """`scores_PK.argmax(dim=1)`, for scores without NaN: the first of equals.

    `Tensor.argmax` compares one number at a time on the CPU, where the numbers of a pixel lie side
    by side. Max pooling is the one operator that compares many pixels at a time and returns
    indices: it takes the pixels for channels and the scores for the rows of a picture.
    """
    num_pixels, num_scores = scores_PK.shape
    num_blocks = num_pixels // BLOCK_PIXELS
    if traits_of(scores_PK.device).has_fast_argmax or not num_blocks:
        return scores_PK.argmax(dim=1)
    whole, rest = scores_PK.tensor_split([num_blocks * BLOCK_PIXELS])
    blocks = whole.reshape(num_blocks, BLOCK_PIXELS, num_scores).transpose(1, 2).contiguous()
    found_P = _argmax_of_heights(blocks[:, :, None]).flatten()
    return torch.cat((found_P, rest.argmax(dim=1))) if len(rest) else found_P


def argmax_of_columns(scores_KP: Tensor) -> Tensor:
    """`scores_KP.argmax(dim=0)`, for scores without NaN: the first of equals."""
    num_scores, num_pixels = scores_KP.shape
    if traits_of(scores_KP.device).has_fast_argmax or not num_pixels:
        return scores_KP.argmax(dim=0)
    # Pooling is parallel over the pixels that it returns: a column of the picture for each thread.
    threads = torch.get_num_threads()
    width = threads if num_pixels % threads == 0 else 1
    picture = scores_KP.contiguous().view(1, num_scores, width, num_pixels // width)
    return _argmax_of_heights(picture).flatten() // width


def _argmax_of_heights(scores_NHWC: Tensor) -> Tensor:
    """What max pooling of whole columns calls the place of the maximum, [N, 1, W, C]."""
    scores_NCHW = scores_NHWC.permute(0, 3, 1, 2)
    window = (scores_NHWC.shape[1], 1)
    _, places_NC1W = F.max_pool2d(scores_NCHW, window, return_indices=True)
    return places_NC1W.permute(0, 2, 3, 1)
