"""Reading boxes out of feature maps: He et al., Mask R-CNN, arXiv 1703.06870, section 3.

Shape letters: N images, C channels, R boxes of all images, P = the side of what is read.
"""

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from model_store.catalogue import Pooler
from service.network.fpn import LEVELS

# A box of this side is read from p4. Lin et al., arXiv 1612.03144, equation 1.
CANONICAL_SIDE = 224
CANONICAL_LEVEL = 4


def pyramid_levels(boxes_R4: Tensor) -> Tensor:
    """The level, 2 to 5, that suits the size of each box."""
    x0, y0, x1, y1 = boxes_R4.unbind(-1)
    sides = ((x1 - x0) * (y1 - y0)).sqrt()
    levels = torch.floor(CANONICAL_LEVEL + torch.log2(sides / CANONICAL_SIDE + 1e-8))
    return levels.clamp(LEVELS[0], LEVELS[-1]).long()


class RoIPooler(nn.Module):
    """RoIAlign on the level that suits a box's size, or on the one level there is."""

    def __init__(self, pooler: Pooler) -> None:
        super().__init__()
        self.resolution = pooler.resolution
        self.sampling_ratio = pooler.sampling_ratio
        self.is_aligned = pooler.aligned

    def forward(self, levels: list[Tensor], rois_R5: Tensor) -> Tensor:
        """[R, C, P, P] of p2 .. p5, or of one map at stride 4.

        `rois_R5` holds the image's index and the box, in the network's input's pixels, float32.
        """
        if len(levels) == 1:
            return self._align(levels[0], rois_R5, LEVELS[0])
        level_of_R = pyramid_levels(rois_R5[:, 1:])
        channels, side = levels[0].shape[1], self.resolution
        pooled = levels[0].new_zeros(len(rois_R5), channels, side, side)
        for level, features_NCHW in zip(LEVELS, levels, strict=True):
            members = torch.nonzero(level_of_R == level)[:, 0]
            pooled[members] = self._align(features_NCHW, rois_R5[members], level)
        return pooled

    def _align(self, features_NCHW: Tensor, rois_R5: Tensor, level: int) -> Tensor:
        # In float32: box coordinates do not survive half precision.
        pooled: Tensor = roi_align(
            features_NCHW.float(),
            rois_R5,
            self.resolution,
            spatial_scale=2.0**-level,
            sampling_ratio=self.sampling_ratio,
            aligned=self.is_aligned,
        )
        return pooled.to(features_NCHW.dtype)
