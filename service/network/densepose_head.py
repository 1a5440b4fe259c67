"""From features to the hidden layer of the DensePose branch.

Güler et al., DensePose, arXiv 1802.00434; the DeepLab form after Chen et al., arXiv 1706.05587.
Shape letters: N images, C channels, H W = a level's height and width, R boxes, P = their side.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.network.fpn import LEVELS
from service.network.layers import NormedConv2d

NUM_CONVS = 8
NUM_GROUPS = 32
DILATIONS = (6, 12, 56)


class Decoder(nn.Module):
    """p2 to p5 brought to stride 4 and summed: Kirillov et al., Panoptic FPN, arXiv 1901.02446."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for level in LEVELS:
            num_doublings = level - LEVELS[0]
            layers: list[nn.Module] = []
            for _ in range(max(1, num_doublings)):
                # The checkpoints count the upsampling as a layer and the rectifier not.
                layers.append(RectifiedConv2d(channels, channels))
                if num_doublings:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear"))
            self.add_module(f"p{level}", nn.Sequential(*layers))
        self.predictor = nn.Conv2d(channels, channels, 1)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """The one map [N, C, H, W] at stride 4."""
        scaled = [
            self.get_submodule(f"p{level}")(x) for level, x in zip(LEVELS, levels, strict=True)
        ]
        summed: Tensor = scaled[0] + scaled[1] + scaled[2] + scaled[3]
        return [self.predictor(summed)]


class RectifiedConv2d(nn.Conv2d):
    """A 3x3 convolution and its rectifier, in one place of a sequence."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Rectified."""
        return F.relu_(super().forward(x_NCHW))


class V1ConvXHead(nn.Module):
    """Eight 3x3 convolutions."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        for index in range(NUM_CONVS):
            self.add_module(
                f"body_conv_fcn{index + 1}",
                RectifiedConv2d(in_channels if index == 0 else channels, channels),
            )

    def forward(self, pooled_RCPP: Tensor) -> Tensor:
        """[R, 512, P, P]."""
        x = pooled_RCPP
        for index in range(NUM_CONVS):
            x = self.get_submodule(f"body_conv_fcn{index + 1}")(x)
        return x


def normed_conv(
    in_channels: int, channels: int, *, kernel: int = 1, dilation: int = 1
) -> nn.Module:
    """A convolution, its group norm and its rectifier."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, padding=padding, dilation=dilation, bias=False),
        nn.GroupNorm(NUM_GROUPS, channels),
        nn.ReLU(inplace=True),
    )


class SpatialPyramidPooling(nn.Module):
    """What lies near, further, far, and the mean of all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                normed_conv(channels, channels),
                *(normed_conv(channels, channels, kernel=3, dilation=d) for d in DILATIONS),
                nn.Sequential(nn.AdaptiveAvgPool2d(1), *normed_conv(channels, channels).children()),
            ]
        )
        self.project = nn.Sequential(
            nn.Conv2d(5 * channels, channels, 1, bias=False), nn.ReLU(inplace=True)
        )

    def forward(self, x_RCPP: Tensor) -> Tensor:
        """Of the input's shape."""
        branches = [conv(x_RCPP) for conv in self.convs]
        branches[-1] = branches[-1].expand_as(x_RCPP)
        projected: Tensor = self.project(torch.cat(branches, dim=1))
        return projected


class DeepLabHead(nn.Module):
    """Atrous spatial pyramid pooling, then eight normalised 3x3 convolutions."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.ASPP = SpatialPyramidPooling(in_channels)
        for index in range(NUM_CONVS):
            conv = NormedConv2d(
                in_channels if index == 0 else channels,
                channels,
                3,
                norm=nn.GroupNorm(NUM_GROUPS, channels),
            )
            self.add_module(f"body_conv_fcn{index + 1}", conv)

    def forward(self, pooled_RCPP: Tensor) -> Tensor:
        """[R, 512, P, P]."""
        x: Tensor = self.ASPP(pooled_RCPP)
        for index in range(NUM_CONVS):
            x = F.relu_(self.get_submodule(f"body_conv_fcn{index + 1}")(x))
        return x
