"""Where a region's pixels lie among the head's cells: what regions.py has, for kernels.

Places and weights are rounded as there; sums of four are fused, as by PyTorch's own CUDA kernels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from service.inference.devices import to_device
from service.inference.map_buffer import Chunk


def regions_on_device(chunk: Chunk, device: torch.device) -> Tensor:
    """Width, height and the place of the first pixel among the batch's: int64 [R, 3]."""
    rows, first = [], chunk.first_pixel
    for _, _, width, height in chunk.regions:
        rows.append((width, height, first))
        first += width * height
    return to_device(torch.tensor(rows, dtype=torch.int64).reshape(-1, 3), device)


@triton.jit
def _neighbours(place, size, side):
    """The two cells around a pixel along one axis, and how far it is from the first."""
    scale = tl.div_rn(side.to(tl.float32), size.to(tl.float32))
    source = tl.maximum(scale * (place.to(tl.float32) + 0.5) - 0.5, 0.0)
    first = tl.minimum(source.to(tl.int32), side - 1)
    return first, tl.minimum(first + 1, side - 1), source - first.to(tl.float32)


@triton.jit
def find_cells(region, y, x, height, width, SIDE: tl.constexpr, CHANNELS: tl.constexpr):
    """Where the rows of the four cells around each pixel begin in the table, and their weights."""
    side = tl.full((), SIDE, tl.int32)
    top, bottom, down = _neighbours(y, height, side)
    left, right, along = _neighbours(x, width, side)
    top = (region * SIDE + top) * SIDE
    bottom = (region * SIDE + bottom) * SIDE
    cells = (
        (top + left) * CHANNELS,
        (top + right) * CHANNELS,
        (bottom + left) * CHANNELS,
        (bottom + right) * CHANNELS,
    )
    weights = (
        (1.0 - down) * (1.0 - along),
        (1.0 - down) * along,
        down * (1.0 - along),
        down * along,
    )
    return cells, weights


@triton.jit
def sample_one(table_ptr, cells, weights, column, mask):
    """The bilinear mean [T] of a column [T] of the table's."""
    total = tl.zeros_like(weights[0])
    for corner in tl.static_range(4):
        value = tl.load(table_ptr + cells[corner] + column, mask=mask, other=0.0)
        total = tl.fma(weights[corner], value, total)
    return total


@triton.jit
def sample_columns(
    table_ptr, cells, weights, mask, FIRST: tl.constexpr, NUM: tl.constexpr, BLOCK: tl.constexpr
):
    """The bilinear means [T, BLOCK] of the columns from FIRST on; after NUM of them, 0."""
    column = tl.arange(0, BLOCK)[None, :]
    is_in = mask[:, None] & (column < NUM)
    total = tl.zeros((mask.shape[0], BLOCK), dtype=tl.float32)
    for corner in tl.static_range(4):
        value = tl.load(table_ptr + cells[corner][:, None] + FIRST + column, mask=is_in, other=0.0)
        weight = tl.broadcast_to(weights[corner][:, None], (mask.shape[0], BLOCK))
        total = tl.fma(weight, value, total)
    return total


@triton.jit
def first_of_largest(values, NUM: tl.constexpr):
    """The place [T] of the largest of the first NUM of [T, BLOCK], the first one where they tie."""
    column = tl.arange(0, values.shape[1])[None, :]
    values = tl.where(column < NUM, values, -float("inf"))
    largest = tl.max(values, axis=1)
    return tl.min(tl.where(values == largest[:, None], column, NUM - 1), axis=1)


@triton.jit
def is_any_part(coarse, NUM: tl.constexpr):
    """Whether one of the coarse labels [T, BLOCK] after the first is larger than it."""
    column = tl.arange(0, coarse.shape[1])[None, :]
    background = tl.sum(tl.where(column == 0, coarse, 0.0), axis=1)
    others = tl.where((column > 0) & (column < NUM), coarse, -float("inf"))
    return tl.max(others, axis=1) > background
