"""Box arithmetic, in float32 always; boxes are x0, y0, x1, y1 in pixels of the network's input.

Shape letters: B boxes, K classes, G groups of boxes, T boxes of each.
"""

import math

import torch
from torch import Tensor

from service.network.compiled_operators import nms
from service.network.kernels import has_kernels

# No regression turns a 16 px anchor into more than 1000 px. detectron2/modeling/box_regression.py
MAX_LOG_SCALE = math.log(1000 / 16)


def apply_deltas(
    deltas_BK4: Tensor, boxes_B4: Tensor, weights: tuple[float, float, float, float]
) -> Tensor:
    """The boxes, moved and scaled by each class's regression: float32 [B, K, 4].

    Girshick et al., R-CNN, arXiv 1311.2524, appendix C.
    """
    x0, y0, x1, y1 = boxes_B4.float()[:, None].unbind(-1)
    widths, heights = x1 - x0, y1 - y0
    center_x, center_y = x0 + 0.5 * widths, y0 + 0.5 * heights
    dx, dy, dw, dh = deltas_BK4.float().unbind(-1)
    wx, wy, ww, wh = weights
    new_x = dx / wx * widths + center_x
    new_y = dy / wy * heights + center_y
    half_w = 0.5 * (torch.exp((dw / ww).clamp(max=MAX_LOG_SCALE)) * widths)
    half_h = 0.5 * (torch.exp((dh / wh).clamp(max=MAX_LOG_SCALE)) * heights)
    return torch.stack((new_x - half_w, new_y - half_h, new_x + half_w, new_y + half_h), dim=-1)


def clip(boxes: Tensor, sizes_hw: Tensor) -> Tensor:
    """The parts of the boxes [..., 4] inside images of these heights and widths [..., 2]."""
    zero = torch.zeros_like(sizes_hw[..., 0])
    height, width = sizes_hw.unbind(-1)
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack(
        (
            x0.clamp(zero, width),
            y0.clamp(zero, height),
            x1.clamp(zero, width),
            y1.clamp(zero, height),
        ),
        dim=-1,
    )


def are_boxes(boxes: Tensor) -> Tensor:
    """True where a box [..., 4] has an inside; false for NaN."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return (x1 > x0) & (y1 > y0)


def suppress(boxes_GT4: Tensor, is_box_GT: Tensor, max_iou: float) -> Tensor:
    """True [G, T] for the boxes that no better one of their group, itself not covered, covers.

    Each group is sorted, best first; what is no box neither stays nor covers. Nothing here depends
    on how many there are, so that on CUDA the host need not wait.
    """
    if has_kernels(boxes_GT4):
        from service.network.nms_kernel import suppress_on_device  # noqa: PLC0415

        return suppress_on_device(boxes_GT4, is_box_GT, max_iou)
    is_kept_GT = torch.zeros_like(is_box_GT)
    for boxes_T4, is_box_T, is_kept_T in zip(boxes_GT4, is_box_GT, is_kept_GT, strict=True):
        members = torch.nonzero(is_box_T)[:, 0]
        # They stand in the order of their scores already.
        order = torch.arange(len(members), 0, -1, dtype=torch.float32, device=boxes_GT4.device)
        is_kept_T[members[nms(boxes_T4[members], order, max_iou)]] = True
    return is_kept_GT
