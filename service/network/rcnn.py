"""The one network of all models, with the catalogue's fields; its names are the checkpoints'.

Shape letters: N images, H W = their padded height and width, B boxes of one image, R boxes of all
images, S = side of the DensePose head's output.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_store.catalogue import Architecture
from service.network.box_head import BoxHead, BoxPredictor, Detections, select_detections
from service.network.densepose_head import Decoder, DeepLabHead, V1ConvXHead
from service.network.embedder import Embedder
from service.network.fpn import FeaturePyramid
from service.network.predictors import ChartPredictor, EmbeddingPredictor, HeadOutput
from service.network.roi_align import RoIPooler
from service.network.rpn import RegionProposalNetwork

HEADS = {"v1convx": V1ConvXHead, "deeplab": DeepLabHead}
PREDICTORS = {"chart": ChartPredictor, "cse": EmbeddingPredictor}


def as_rois(boxes_of: Mapping[int, Tensor]) -> Tensor:
    """The boxes [B, 4] of some images as [R, 5]: the image's index, then the box."""
    return torch.cat([F.pad(boxes_B4, (1, 0), value=index) for index, boxes_B4 in boxes_of.items()])


class RoIHeads(nn.Module):
    """All that looks at a box rather than at the image."""

    def __init__(self, architecture: Architecture, channels: int) -> None:
        super().__init__()
        box_pooler = architecture.box_pooler
        self.box_pooler = RoIPooler(box_pooler)
        self.box_head = BoxHead(channels, box_pooler.resolution, architecture.width)
        self.box_predictor = BoxPredictor(self.box_head.out_channels, architecture.num_classes)
        self.decoder = Decoder(channels) if architecture.decoder else nn.Identity()
        self.densepose_pooler = RoIPooler(architecture.densepose_pooler)
        head_channels = int(512 * architecture.width)
        self.densepose_head = HEADS[architecture.densepose_head](channels, head_channels)
        self.densepose_predictor = PREDICTORS[architecture.predictor](head_channels, architecture)
        if architecture.predictor == "cse":
            self.embedder = Embedder(
                architecture.meshes, architecture.vertex_feature_dim, architecture.embed_size
            )


class DensePoseRCNN(nn.Module):
    """An image's pyramid, the boxes in it, and what DensePose says of each box.

    The three steps are apart because between them the caller decides how many boxes are described.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.backbone = FeaturePyramid(architecture.backbone_depth, architecture.width)
        self.proposal_generator = RegionProposalNetwork(self.backbone.channels)
        self.roi_heads = RoIHeads(architecture, self.backbone.channels)

    def extract(self, images_N3HW: Tensor) -> list[Tensor]:
        """p2 to p6 of images (B, G, R, mean subtracted, padded with 0 to multiples of 32)."""
        pyramid: list[Tensor] = self.backbone(images_N3HW)
        return pyramid

    def detect(
        self,
        pyramid: list[Tensor],
        sizes_hw: list[tuple[int, int]],
        *,
        min_scores: list[float],
        max_instances: list[int],
    ) -> list[Detections]:
        """What stands in each image, in the pixels of the network's input without its padding."""
        heads = self.roi_heads
        proposals = self.proposal_generator(pyramid, sizes_hw)
        rois_R5 = as_rois(dict(enumerate(proposals)))
        hidden = heads.box_head(heads.box_pooler(pyramid[:4], rois_R5))
        boxes_RK4, scores_RK = heads.box_predictor(hidden, rois_R5[:, 1:])
        counts = [len(boxes) for boxes in proposals]
        return [
            select_detections(
                boxes_BK4, scores_BK, size_hw, min_score=min_score, max_instances=limit
            )
            for boxes_BK4, scores_BK, size_hw, min_score, limit in zip(
                boxes_RK4.split(counts),
                scores_RK.split(counts),
                sizes_hw,
                min_scores,
                max_instances,
                strict=True,
            )
        ]

    def fuse(self, pyramid: list[Tensor]) -> list[Tensor]:
        """The maps that the DensePose head reads: the decoder's one, or p2 to p5."""
        fused: list[Tensor] = self.roi_heads.decoder(pyramid[:4])
        return fused

    def describe(self, fused: list[Tensor], rois_R5: Tensor, fields: Collection[str]) -> HeadOutput:
        """The DensePose head's named outputs for each box."""
        heads = self.roi_heads
        hidden = heads.densepose_head(heads.densepose_pooler(fused, rois_R5))
        described: HeadOutput = heads.densepose_predictor(hidden, fields)
        return described
