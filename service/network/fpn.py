"""The feature pyramid: Lin et al., Feature Pyramid Networks, arXiv 1612.03144."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from service.network.resnet import ResNet

# Strides of p2 to p6.
STRIDES = (4, 8, 16, 32, 64)
LEVELS = (2, 3, 4, 5)


class FeaturePyramid(nn.Module):
    """p2 to p5 of one channel count each, and p6 for the largest anchors."""

    def __init__(self, depth: Literal[50, 101], width: float) -> None:
        super().__init__()
        self.channels = int(256 * width)
        self.bottom_up = ResNet(depth, width)
        for level, in_channels in zip(LEVELS, self.bottom_up.out_channels, strict=True):
            self.add_module(f"fpn_lateral{level}", nn.Conv2d(in_channels, self.channels, 1))
            self.add_module(
                f"fpn_output{level}", nn.Conv2d(self.channels, self.channels, 3, padding=1)
            )

    def forward(self, images_N3HW: Tensor) -> list[Tensor]:
        """p2 to p6 of images whose sides are multiples of 32."""
        stages = self.bottom_up(images_N3HW)
        top_down: Tensor | None = None
        pyramid: list[Tensor] = []
        for level, stage in zip(reversed(LEVELS), reversed(stages), strict=True):
            lateral = self.get_submodule(f"fpn_lateral{level}")(stage)
            if top_down is not None:
                lateral = lateral + F.interpolate(top_down, scale_factor=2.0, mode="nearest")
            top_down = lateral
            pyramid.insert(0, self.get_submodule(f"fpn_output{level}")(lateral))
        # Every second pixel of p5. detectron2/modeling/backbone/fpn.py: LastLevelMaxPool
        pyramid.append(F.max_pool2d(pyramid[-1], kernel_size=1, stride=2))
        return pyramid
