"""RoIAlign from all levels of a pyramid in one kernel: He et al., arXiv 1703.06870, section 3.

One program for each bin of each box, all channels of a cell side by side. What is read is added up
in float32, in whatever precision it was kept.

Shape letters: N images, C channels, H W = a level's height and width, R boxes, P = side.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from service.network.backbone import LEVELS

# By which the kernel is not built anew for every shape of a picture.
SIZES = [f"{side}{level}" for level in LEVELS for side in ("height", "width")]


def align_on_device(
    levels: list[Tensor],
    rois_R5: Tensor,
    which_R: Tensor,
    *,
    side: int,
    sampling_ratio: int,
    is_aligned: bool,
) -> Tensor:
    """As `RoIPooler` in service/network/roi_align.py, [R, C, P, P], channels last in memory.

    `levels` are p2 .. p5, or p2 alone; `which_R` counts them from 0.
    """
    tables = [level.permute(0, 2, 3, 1).contiguous() for level in levels]
    tables += [tables[-1]] * (4 - len(tables))
    channels = tables[0].shape[3]
    pooled_RPPC = tables[0].new_empty(len(rois_R5), side, side, channels)
    if len(rois_R5):
        _align_bin[(len(rois_R5), side * side)](
            *tables,
            *(size for table in tables for size in table.shape[1:3]),
            rois_R5.contiguous(),
            which_R.to(torch.int32),
            pooled_RPPC,
            channels,
            SIDE=side,
            RATIO=sampling_ratio,
            IS_ALIGNED=is_aligned,
            BLOCK=triton.next_power_of_2(channels),
            num_warps=1,
            # Places are rounded as on the CPU; sums of products are not a matter of one bit.
            enable_fp_fusion=False,
        )
    return pooled_RPPC.permute(0, 3, 1, 2)


@triton.jit
def _pick(which, first, second, third, fourth):
    """The one of four that is counted from 0."""
    return tl.where(
        which == 0, first, tl.where(which == 1, second, tl.where(which == 2, third, fourth))
    )


@triton.jit
def _axis(place, size):
    """The cells around a place, the share of the second one, and 0 outside the map."""
    is_inside = (place >= -1.0) & (place <= size)
    place = tl.minimum(tl.maximum(place, 0.0), size - 1.0)
    first = place.to(tl.int32)
    second = tl.minimum(first + 1, size - 1)
    return first, second, place - first, is_inside.to(tl.float32)


@triton.jit(do_not_specialize=SIZES)
def _align_bin(
    p2_ptr,
    p3_ptr,
    p4_ptr,
    p5_ptr,
    height2,
    width2,
    height3,
    width3,
    height4,
    width4,
    height5,
    width5,
    rois_ptr,
    which_ptr,
    pooled_ptr,
    channels,
    SIDE: tl.constexpr,
    RATIO: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    roi = tl.program_id(0)
    one = tl.program_id(1)
    which = tl.load(which_ptr + roi)
    table_ptr = p2_ptr
    if which == 1:
        table_ptr = p3_ptr
    if which == 2:
        table_ptr = p4_ptr
    if which == 3:
        table_ptr = p5_ptr
    height = _pick(which, height2, height3, height4, height5)
    width = _pick(which, width2, width3, width4, width5)
    scale = _pick(which, 0.25, 0.125, 0.0625, 0.03125)
    image = tl.load(rois_ptr + roi * 5).to(tl.int64)
    x0 = tl.load(rois_ptr + roi * 5 + 1) * scale
    y0 = tl.load(rois_ptr + roi * 5 + 2) * scale
    x1 = tl.load(rois_ptr + roi * 5 + 3) * scale
    y1 = tl.load(rois_ptr + roi * 5 + 4) * scale
    if IS_ALIGNED:
        box_height, box_width = (y1 - 0.5) - (y0 - 0.5), (x1 - 0.5) - (x0 - 0.5)
        x0, y0 = x0 - 0.5, y0 - 0.5
    else:
        box_height, box_width = tl.maximum(y1 - y0, 1.0), tl.maximum(x1 - x0, 1.0)
    bin_height = tl.div_rn(box_height, SIDE * 1.0)
    bin_width = tl.div_rn(box_width, SIDE * 1.0)
    # As many samples as the bin has cells, where their number is not fixed.
    if RATIO == 0:
        down = tl.ceil(bin_height).to(tl.int32)
        along = tl.ceil(bin_width).to(tl.int32)
    else:
        down = tl.full((), RATIO, tl.int32)
        along = tl.full((), RATIO, tl.int32)

    channel = tl.arange(0, BLOCK)
    is_in = channel < channels
    rows_ptr = table_ptr + image * height * width * channels + channel
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for i in range(down):
        y = y0 + (one // SIDE) * bin_height + tl.div_rn((i + 0.5) * bin_height, down.to(tl.float32))
        top, bottom, low, is_inside_y = _axis(y, height)
        for j in range(along):
            x = (
                x0
                + (one % SIDE) * bin_width
                + tl.div_rn((j + 0.5) * bin_width, along.to(tl.float32))
            )
            left, right, far, is_inside_x = _axis(x, width)
            share = is_inside_y * is_inside_x
            above = rows_ptr + top * width * channels
            below = rows_ptr + bottom * width * channels
            a = tl.load(above + left * channels, mask=is_in, other=0.0).to(tl.float32)
            b = tl.load(above + right * channels, mask=is_in, other=0.0).to(tl.float32)
            c = tl.load(below + left * channels, mask=is_in, other=0.0).to(tl.float32)
            d = tl.load(below + right * channels, mask=is_in, other=0.0).to(tl.float32)
            total += (share * (1.0 - low) * (1.0 - far)) * a
            total += (share * (1.0 - low) * far) * b
            total += (share * low * (1.0 - far)) * c
            total += (share * low * far) * d
    mean = total / tl.maximum(down * along, 1)
    pooled_ptr += (roi.to(tl.int64) * SIDE * SIDE + one) * channels + channel
    tl.store(pooled_ptr, mean.to(pooled_ptr.dtype.element_ty), mask=is_in)
