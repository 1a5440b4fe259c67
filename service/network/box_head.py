"""From proposals to detections: Girshick, Fast R-CNN, arXiv 1504.08083.

Shape letters: R proposals of all images, B boxes of one image, K classes, C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.network.boxes import apply_deltas, are_boxes, clip, nms_by_group

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
MAX_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Detections:
    """What was found in one image, best first; boxes in the network's input's pixels, float32."""

    boxes_B4: Tensor
    scores_B: Tensor
    class_ids_B: Tensor


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
    """Class scores, the background last, and one box per class."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(channels, num_classes + 1)
        self.bbox_pred = nn.Linear(channels, 4 * num_classes)

    def forward(self, hidden_RC: Tensor, proposals_R4: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [R, K, 4] and probabilities [R, K], float32."""
        scores_RK = self.cls_score(hidden_RC).float().softmax(dim=1)[:, :-1]
        deltas_RK4 = self.bbox_pred(hidden_RC).reshape(*scores_RK.shape, 4)
        return apply_deltas(deltas_RK4, proposals_R4, BOX_WEIGHTS), scores_RK


def select_detections(
    boxes_BK4: Tensor,
    scores_BK: Tensor,
    size_hw: tuple[int, int],
    *,
    min_score: float,
    max_instances: int,
) -> Detections:
    """The best boxes of one image that no better one of their class covers."""
    boxes_BK4 = clip(boxes_BK4, size_hw)
    valid_BK = (scores_BK >= min_score) & are_boxes(boxes_BK4)
    class_ids = torch.nonzero(valid_BK)[:, 1]
    boxes, scores = boxes_BK4[valid_BK], scores_BK[valid_BK]
    best = nms_by_group(boxes, scores, class_ids, MAX_IOU)[:max_instances]
    return Detections(boxes[best], scores[best], class_ids[best])
