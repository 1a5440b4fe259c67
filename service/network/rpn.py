"""The region proposal network: Ren et al., Faster R-CNN, arXiv 1506.01497.

Shape letters: N images, C channels, A = 3 anchors a cell, H W = one level's height and width,
L = H W A anchors of one level, T = the best of them, B proposals of one image.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.network.boxes import apply_deltas, are_boxes, clip, nms_by_group
from service.network.fpn import STRIDES

ANCHOR_SIDES = (32, 64, 128, 256, 512)
ASPECT_RATIOS = (0.5, 1.0, 2.0)
MAX_PER_LEVEL = 1000
MAX_PROPOSALS = 1000
MAX_IOU = 0.7


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

    def forward(self, pyramid: list[Tensor], sizes_hw: list[tuple[int, int]]) -> list[Tensor]:
        """At most 1000 proposals of each image, best first: float32 [B, 4] in the input's pixels.

        `sizes_hw` are the images' sizes without the padding.
        """
        boxes, scores, levels = [], [], []
        for index, level_NCHW in enumerate(pyramid):
            boxes_NT4, scores_NT = self._best_of_level(index, level_NCHW)
            boxes.append(boxes_NT4)
            scores.append(scores_NT)
            levels.append(torch.full_like(scores_NT[0], index, dtype=torch.int64))
        level_of = torch.cat(levels)
        return [
            self._suppress(boxes_B4, scores_B, level_of, size_hw)
            for boxes_B4, scores_B, size_hw in zip(
                torch.cat(boxes, dim=1), torch.cat(scores, dim=1), sizes_hw, strict=True
            )
        ]

    def _best_of_level(self, index: int, level_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        logits_NL, deltas_NL4 = self.rpn_head(level_NCHW)
        scores_NT, best_NT = logits_NL.topk(min(MAX_PER_LEVEL, logits_NL.shape[1]), dim=1)
        deltas_NT4 = deltas_NL4.gather(1, best_NT[..., None].expand(-1, -1, 4))
        anchors_NT4 = self._anchors(index, best_NT, width=level_NCHW.shape[3])
        boxes = apply_deltas(
            deltas_NT4.reshape(-1, 1, 4), anchors_NT4.reshape(-1, 4), (1.0, 1.0, 1.0, 1.0)
        )
        return boxes.reshape(deltas_NT4.shape), scores_NT

    def _anchors(self, index: int, anchor_NT: Tensor, width: int) -> Tensor:
        cells: Tensor = self.get_buffer(f"cell_anchors{index}")
        cell_NT = anchor_NT // len(ASPECT_RATIOS)
        corner = torch.stack((cell_NT % width, cell_NT // width), dim=-1) * STRIDES[index]
        return cells[anchor_NT % len(ASPECT_RATIOS)] + corner.repeat(1, 1, 2)

    @staticmethod
    def _suppress(
        boxes_B4: Tensor, scores_B: Tensor, level_of_B: Tensor, size_hw: tuple[int, int]
    ) -> Tensor:
        boxes_B4 = clip(boxes_B4, size_hw)
        valid = are_boxes(boxes_B4) & scores_B.isfinite()
        boxes_B4, scores_B, level_of_B = boxes_B4[valid], scores_B[valid], level_of_B[valid]
        kept = nms_by_group(boxes_B4, scores_B, level_of_B, MAX_IOU)
        return boxes_B4[kept[:MAX_PROPOSALS]]
