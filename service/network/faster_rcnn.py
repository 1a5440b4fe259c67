"""From features to boxes: Ren et al., Faster R-CNN, arXiv 1506.01497.

Box arithmetic is in float32 always; boxes are x0, y0, x1, y1 in pixels of the network's input.

Shape letters: N images, C channels, B boxes, K classes, G groups of boxes, A = 3 anchors a cell,
H W = one level's height and width, L = H W A anchors of one level, T = the boxes of a group, of one
level or of all, P proposals of one image, R of all images, D detections of one image.
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.network.backbone import STRIDES
from service.network.kernels import has_kernels, nms

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


ANCHOR_SIDES = (32, 64, 128, 256, 512)
ASPECT_RATIOS = (0.5, 1.0, 2.0)
MAX_PER_LEVEL = 1000
MAX_PROPOSALS = 1000
PROPOSAL_MAX_IOU = 0.7


def cell_anchors(side: int) -> Tensor:
    """The anchors around the origin, float32 [A, 4]: one area, heights over widths of three.

    They are no parameters, so they are real even while the network is built on the meta device.
    """
    anchors = []
    for ratio in ASPECT_RATIOS:
        width = math.sqrt(side**2 / ratio)
        height = ratio * width
        anchors.append((-width / 2, -height / 2, width / 2, height / 2))
    return torch.tensor(anchors, device="cpu")


class RPNHead(nn.Module):
    """Objectness and box regression of every anchor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        num_anchors = len(ASPECT_RATIOS)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness_logits = nn.Conv2d(channels, num_anchors, 1)
        self.anchor_deltas = nn.Conv2d(channels, 4 * num_anchors, 1)

    def forward(self, level_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, L] and deltas [N, L, 4], cell by cell, float32."""
        hidden = F.relu_(self.conv(level_NCHW))
        logits_NL = self.objectness_logits(hidden).permute(0, 2, 3, 1).flatten(1)
        deltas = self.anchor_deltas(hidden).permute(0, 2, 3, 1)
        return logits_NL.float(), deltas.reshape(len(deltas), -1, 4).float()


class RegionProposalNetwork(nn.Module):
    """Where in the image something may be."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rpn_head = RPNHead(channels)
        for index, side in enumerate(ANCHOR_SIDES):
            self.register_buffer(f"cell_anchors{index}", cell_anchors(side), persistent=False)

    def forward(self, pyramid: list[Tensor], sizes_N2: Tensor) -> tuple[Tensor, Tensor]:
        """Proposals of each image, float32 [N, P, 4] in the input's pixels, and which are some.

        P is 1000, or as many anchors as there are; the proposals stand first, best first, and what
        follows is 0. `sizes_N2` are the images' heights and widths without the padding, float32.
        """
        best = [self._best_of_level(index, level) for index, level in enumerate(pyramid)]
        scores_NT, deltas_NT4, anchors_NT4 = (
            torch.cat(parts, dim=1) for parts in zip(*best, strict=True)
        )
        boxes_NT4 = apply_deltas(
            deltas_NT4.reshape(-1, 1, 4), anchors_NT4.reshape(-1, 4), (1.0, 1.0, 1.0, 1.0)
        ).reshape(deltas_NT4.shape)
        boxes_NT4 = clip(boxes_NT4, sizes_N2[:, None])
        is_box_NT = are_boxes(boxes_NT4) & scores_NT.isfinite()
        is_kept_NT = self._suppress(boxes_NT4, is_box_NT, [part[0].shape[1] for part in best])
        # Stable, so that equal scores keep the order of the levels.
        order_NT = scores_NT.masked_fill(~is_kept_NT, -torch.inf).sort(
            dim=1, descending=True, stable=True
        )[1]
        order_NP = order_NT[:, :MAX_PROPOSALS]
        is_proposal_NP = is_kept_NT.gather(1, order_NP)
        proposals_NP4 = boxes_NT4.gather(1, order_NP[..., None].expand(-1, -1, 4))
        return proposals_NP4.masked_fill(~is_proposal_NP[..., None], 0.0), is_proposal_NP

    def _best_of_level(self, index: int, level_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [N, T], deltas and anchors [N, T, 4] of the level's best anchors, best first."""
        logits_NL, deltas_NL4 = self.rpn_head(level_NCHW)
        scores_NT, best_NT = logits_NL.topk(min(MAX_PER_LEVEL, logits_NL.shape[1]), dim=1)
        deltas_NT4 = deltas_NL4.gather(1, best_NT[..., None].expand(-1, -1, 4))
        anchors_A4: Tensor = self.get_buffer(f"cell_anchors{index}")
        cell_NT, width = best_NT // len(ASPECT_RATIOS), level_NCHW.shape[3]
        corner_NT2 = torch.stack((cell_NT % width, cell_NT // width), dim=-1) * STRIDES[index]
        anchors_NT4 = anchors_A4[best_NT % len(ASPECT_RATIOS)] + corner_NT2.repeat(1, 1, 2)
        return scores_NT, deltas_NT4, anchors_NT4

    @staticmethod
    def _suppress(boxes_NT4: Tensor, is_box_NT: Tensor, counts: list[int]) -> Tensor:
        """Which boxes stay, the levels apart and all together."""
        boxes = [F.pad(b, (0, 0, 0, max(counts) - b.shape[1])) for b in boxes_NT4.split(counts, 1)]
        is_box = [F.pad(i, (0, max(counts) - i.shape[1])) for i in is_box_NT.split(counts, 1)]
        is_kept = suppress(torch.cat(boxes), torch.cat(is_box), PROPOSAL_MAX_IOU).chunk(len(counts))
        return torch.cat([k[:, :count] for k, count in zip(is_kept, counts, strict=True)], dim=1)


BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
DETECTION_MAX_IOU = 0.5
MAX_ROWS = 1000
# Less than any probability.
NO_SCORE = -1.0


def box_head(channels: int, hidden_channels: int) -> nn.Module:
    """Two fully connected layers on what RoIAlign read [R, C, P, P]: [R, 1024]."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(channels, hidden_channels),
            relu1=nn.ReLU(inplace=True),
            fc2=nn.Linear(hidden_channels, hidden_channels),
            relu2=nn.ReLU(inplace=True),
        )
    )


class BoxPredictor(nn.Module):
    """Class scores, the background last, and one box per class; in float32 whatever came before."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(channels, num_classes + 1)
        self.bbox_pred = nn.Linear(channels, 4 * num_classes)

    def forward(self, hidden_RC: Tensor, proposals_R4: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [R, K, 4] and probabilities [R, K], float32."""
        hidden_RC = hidden_RC.float()
        scores_RK = self.cls_score(hidden_RC).softmax(dim=1)[:, :-1]
        deltas_RK4 = self.bbox_pred(hidden_RC).reshape(*scores_RK.shape, 4)
        return apply_deltas(deltas_RK4, proposals_R4, BOX_WEIGHTS), scores_RK


def rank_detections(
    boxes_NPK4: Tensor,
    scores_NPK: Tensor,
    is_proposal_NP: Tensor,
    sizes_N2: Tensor,
    min_scores_N: Tensor,
) -> Tensor:
    """The boxes of each image that no better one of their class covers, best first: [N, D, 6].

    A row is a box in the input's pixels, its score and its class, float32; after the last one the
    scores are `NO_SCORE`. D is 1000, or as many as there are proposals and classes.
    """
    boxes_NPK4 = clip(boxes_NPK4, sizes_N2[:, None, None])
    is_good_NPK = (scores_NPK >= min_scores_N[:, None, None]) & are_boxes(boxes_NPK4)
    is_good_NPK &= is_proposal_NP[..., None]
    scores_NKP, order_NKP = (
        scores_NPK.masked_fill(~is_good_NPK, NO_SCORE)
        .transpose(1, 2)
        .sort(dim=2, descending=True, stable=True)
    )
    boxes_NKP4 = boxes_NPK4.transpose(1, 2).gather(2, order_NKP[..., None].expand(-1, -1, -1, 4))
    is_kept = suppress(
        boxes_NKP4.flatten(0, 1), scores_NKP.flatten(0, 1) != NO_SCORE, DETECTION_MAX_IOU
    )
    scores_NKP = scores_NKP.masked_fill(~is_kept.view(scores_NKP.shape), NO_SCORE)
    class_K1 = torch.arange(scores_NKP.shape[1], device=scores_NKP.device)[:, None]
    rows_NKP6 = torch.cat(
        (boxes_NKP4, scores_NKP[..., None], class_K1.expand_as(scores_NKP)[..., None]), dim=3
    )
    # Stable, so that equal scores keep the order of the classes.
    order_ND = scores_NKP.flatten(1).sort(dim=1, descending=True, stable=True)[1][:, :MAX_ROWS]
    return rows_NKP6.flatten(1, 2).gather(1, order_ND[..., None].expand(-1, -1, 6))
