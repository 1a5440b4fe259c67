"""The region proposal network: Ren et al., Faster R-CNN, arXiv 1506.01497.

Shape letters: N images, C channels, A = 3 anchors a cell, H W = one level's height and width,
L = H W A anchors of one level, T = the best of one level or of all, P proposals of one image.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.network.boxes import apply_deltas, are_boxes, clip, suppress
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
        return scores_NT, deltas_NT4, self._anchors(index, best_NT, width=level_NCHW.shape[3])

    def _anchors(self, index: int, anchor_NT: Tensor, width: int) -> Tensor:
        cells: Tensor = self.get_buffer(f"cell_anchors{index}")
        cell_NT = anchor_NT // len(ASPECT_RATIOS)
        corner = torch.stack((cell_NT % width, cell_NT // width), dim=-1) * STRIDES[index]
        return cells[anchor_NT % len(ASPECT_RATIOS)] + corner.repeat(1, 1, 2)

    @staticmethod
    def _suppress(boxes_NT4: Tensor, is_box_NT: Tensor, counts: list[int]) -> Tensor:
        """Which boxes stay, the levels apart and all together."""
        boxes = [F.pad(b, (0, 0, 0, max(counts) - b.shape[1])) for b in boxes_NT4.split(counts, 1)]
        is_box = [F.pad(i, (0, max(counts) - i.shape[1])) for i in is_box_NT.split(counts, 1)]
        is_kept = suppress(torch.cat(boxes), torch.cat(is_box), MAX_IOU).chunk(len(counts))
        return torch.cat([k[:, :count] for k, count in zip(is_kept, counts, strict=True)], dim=1)
