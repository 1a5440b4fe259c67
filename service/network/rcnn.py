"""The one network of all models, with the catalogue's fields; its names are the checkpoints'.

Shape letters: N images, H W = their padded height and width, B boxes of one image, R boxes of all
images, P proposals and D detections of one image, K classes.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_store.catalogue import Architecture
from service.network.backbone import FeaturePyramid
from service.network.densepose_head import (
    ChartPredictor,
    Decoder,
    DensePoseHead,
    Embedder,
    EmbeddingPredictor,
    HeadOutput,
)
from service.network.faster_rcnn import (
    BoxPredictor,
    RegionProposalNetwork,
    box_head,
    rank_detections,
)
from service.network.kernels import has_kernels
from service.network.roi_align import RoIPooler

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
        box_channels = int(1024 * architecture.width)
        self.box_head = box_head(channels * box_pooler.resolution**2, box_channels)
        self.box_predictor = BoxPredictor(box_channels, architecture.num_classes)
        self.decoder = Decoder(channels) if architecture.decoder else nn.Identity()
        self.densepose_pooler = RoIPooler(architecture.densepose_pooler)
        head_channels = int(512 * architecture.width)
        self.densepose_head = DensePoseHead(
            channels, head_channels, is_deeplab=architecture.densepose_head == "deeplab"
        )
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

    def round_weights(self, dtype: torch.dtype) -> None:
        """Compute in `dtype` from here on, but for what gives boxes, scores, labels, coordinates.

        The last layers are a fiftieth of the arithmetic, and what they say is not averaged again.
        """
        exact = (self.roi_heads.box_predictor, self.roi_heads.densepose_predictor)
        kept = {parameter for module in exact for parameter in module.parameters()}
        for parameter in self.parameters():
            if parameter not in kept:
                parameter.data = parameter.data.to(dtype)

    def extract(self, images_N3HW: Tensor) -> list[Tensor]:
        """p2 to p6 of images (B, G, R, mean subtracted, padded with 0 to multiples of 32)."""
        pyramid: list[Tensor] = self.backbone(images_N3HW)
        return pyramid

    def detect(self, pyramid: list[Tensor], sizes_N2: Tensor, min_scores_N: Tensor) -> Tensor:
        """What stands in each image, best first: float32 [N, D, 6], as `rank_detections` has it.

        `sizes_N2` are the images' heights and widths without the padding, float32.
        """
        heads = self.roi_heads
        proposals_NP4, is_proposal_NP = self.proposal_generator(pyramid, sizes_N2)
        if not has_kernels(proposals_NP4):
            # Where they were counted already, none but they are looked at.
            most = int(is_proposal_NP.sum(dim=1).amax())
            proposals_NP4, is_proposal_NP = proposals_NP4[:, :most], is_proposal_NP[:, :most]
        index_N11 = torch.arange(len(proposals_NP4), device=proposals_NP4.device)[:, None, None]
        index_NP1 = index_N11.expand(-1, proposals_NP4.shape[1], -1)
        rois_R5 = torch.cat((index_NP1.float(), proposals_NP4), dim=2).flatten(0, 1)
        hidden = heads.box_head(heads.box_pooler(pyramid[:4], rois_R5))
        boxes_RK4, scores_RK = heads.box_predictor(hidden, rois_R5[:, 1:])
        images = is_proposal_NP.shape
        return rank_detections(
            boxes_RK4.unflatten(0, images),
            scores_RK.unflatten(0, images),
            is_proposal_NP,
            sizes_N2,
            min_scores_N,
        )

    def fuse(self, pyramid: list[Tensor]) -> list[Tensor]:
        """The maps that the DensePose head reads: the decoder's one, or p2 to p5."""
        fused: list[Tensor] = self.roi_heads.decoder(pyramid[:4])
        return fused

    def describe(self, fused: list[Tensor], rois_R5: Tensor, fields: Collection[str]) -> HeadOutput:
        """The DensePose head's named outputs for each box."""
        return self.describe_pooled(self.roi_heads.densepose_pooler(fused, rois_R5), fields)

    def describe_pooled(self, pooled_RCPP: Tensor, fields: Collection[str]) -> HeadOutput:
        """The same of what was read for each box."""
        heads = self.roi_heads
        described: HeadOutput = heads.densepose_predictor(heads.densepose_head(pooled_RCPP), fields)
        return described
