"""From proposals to detections: Girshick, Fast R-CNN, arXiv 1504.08083.

Shape letters: R proposals of all images, N images, P proposals of one, K classes, C channels,
D detections of one image.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.network.boxes import apply_deltas, are_boxes, clip, suppress

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
MAX_IOU = 0.5
MAX_ROWS = 1000
# Less than any probability.
NO_SCORE = -1.0


class BoxHead(nn.Module):
    """Two fully connected layers on what RoIAlign read."""

    def __init__(self, channels: int, resolution: int, width: float) -> None:
        super().__init__()
        self.out_channels = int(1024 * width)
        self.fc1 = nn.Linear(channels * resolution**2, self.out_channels)
        self.fc2 = nn.Linear(self.out_channels, self.out_channels)

    def forward(self, pooled_RCPP: Tensor) -> Tensor:
        """[R, 1024]."""
        return F.relu_(self.fc2(F.relu_(self.fc1(pooled_RCPP.flatten(1)))))


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
    is_kept = suppress(boxes_NKP4.flatten(0, 1), scores_NKP.flatten(0, 1) != NO_SCORE, MAX_IOU)
    scores_NKP = scores_NKP.masked_fill(~is_kept.view(scores_NKP.shape), NO_SCORE)
    class_K1 = torch.arange(scores_NKP.shape[1], device=scores_NKP.device)[:, None]
    rows_NKP6 = torch.cat(
        (boxes_NKP4, scores_NKP[..., None], class_K1.expand_as(scores_NKP)[..., None]), dim=3
    )
    # Stable, so that equal scores keep the order of the classes.
    order_ND = scores_NKP.flatten(1).sort(dim=1, descending=True, stable=True)[1][:, :MAX_ROWS]
    return rows_NKP6.flatten(1, 2).gather(1, order_ND[..., None].expand(-1, -1, 6))
