"""Box arithmetic, in float32 always; boxes are x0, y0, x1, y1 in pixels of the network's input.

Shape letters: B boxes, K classes.
"""

import math

import torch
from torch import Tensor
from torchvision.ops import nms

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


def clip(boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """The parts of the boxes [..., 4] inside an image of this size."""
    height, width = size_hw
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack(
        (x0.clamp(0, width), y0.clamp(0, height), x1.clamp(0, width), y1.clamp(0, height)), dim=-1
    )


def are_boxes(boxes: Tensor) -> Tensor:
    """True where a box [..., 4] has an inside; false for NaN."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return (x1 > x0) & (y1 > y0)


def nms_by_group(boxes_B4: Tensor, scores_B: Tensor, groups_B: Tensor, max_iou: float) -> Tensor:
    """Indices of the boxes that no better one of their group covers, best first.

    One call per group rather than the trick of moving groups apart, which rounds the boxes.
    """
    kept = [
        members[nms(boxes_B4[members], scores_B[members], max_iou)]
        for members in (torch.nonzero(groups_B == group)[:, 0] for group in groups_B.unique())
    ]
    if not kept:
        return torch.zeros(0, dtype=torch.int64, device=boxes_B4.device)
    indices = torch.cat(kept)
    return indices[scores_B[indices].argsort(descending=True, stable=True)]
