"""Non-maximum suppression of many groups of boxes at once, without a word to the host.

Shape letters: G groups, T boxes of each, sorted best first.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


def suppress_on_device(boxes_GT4: Tensor, is_box_GT: Tensor, max_iou: float) -> Tensor:
    """As `suppress` in service/network/faster_rcnn.py, one program for each group."""
    num_groups, num_boxes = is_box_GT.shape
    is_kept_GT = torch.empty_like(is_box_GT, dtype=torch.uint8)
    if num_groups and num_boxes:
        _suppress_group[(num_groups,)](
            boxes_GT4.contiguous(),
            is_box_GT.to(torch.uint8),
            is_kept_GT,
            num_boxes,
            max_iou,
            BLOCK=triton.next_power_of_2(num_boxes),
            num_warps=4,
            # Rounded as on the CPU.
            enable_fp_fusion=False,
        )
    return is_kept_GT.bool()


# Not built anew for every number of boxes.
@triton.jit(do_not_specialize=["num_boxes"])
def _suppress_group(boxes_ptr, is_box_ptr, is_kept_ptr, num_boxes, max_iou, BLOCK: tl.constexpr):
    first = tl.program_id(0) * num_boxes
    index = tl.arange(0, BLOCK)
    is_in = index < num_boxes
    box_ptr = boxes_ptr + (first + index) * 4
    x0 = tl.load(box_ptr, mask=is_in, other=0.0)
    y0 = tl.load(box_ptr + 1, mask=is_in, other=0.0)
    x1 = tl.load(box_ptr + 2, mask=is_in, other=0.0)
    y1 = tl.load(box_ptr + 3, mask=is_in, other=0.0)
    area = (x1 - x0) * (y1 - y0)
    is_kept = tl.load(is_box_ptr + first + index, mask=is_in, other=0).to(tl.int32)
    for better in range(num_boxes):
        if tl.sum(tl.where(index == better, is_kept, 0)) > 0:
            better_ptr = boxes_ptr + (first + better) * 4
            left = tl.load(better_ptr)
            top = tl.load(better_ptr + 1)
            right = tl.load(better_ptr + 2)
            bottom = tl.load(better_ptr + 3)
            width = tl.maximum(tl.minimum(x1, right) - tl.maximum(x0, left), 0.0)
            height = tl.maximum(tl.minimum(y1, bottom) - tl.maximum(y0, top), 0.0)
            overlap = width * height
            iou = tl.div_rn(overlap, (right - left) * (bottom - top) + area - overlap)
            is_kept = tl.where((index > better) & (iou > max_iou), 0, is_kept)
    tl.store(is_kept_ptr + first + index, is_kept.to(tl.uint8), mask=is_in)
