"""From images to a pyramid of features, under the checkpoint's names.

The trunk: He et al., Deep Residual Learning, arXiv 1512.03385, table 1, as detectron2's checkpoints
have it: stride in the 1x1, frozen batch norms. The pyramid: Lin et al., Feature Pyramid Networks,
arXiv 1612.03144.

Shape letters: N images, C channels, H W = the input's height and width over the stride.
"""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# What detectron2's and Caffe2's frozen batch norms add to the variance.
BATCH_NORM_EPSILON = 1e-5


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with the statistics and the affine map of the checkpoint."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            self.register_buffer(name, torch.full((channels,), float(value)))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(x - mean) / sqrt(variance + epsilon) * weight + bias, per channel."""
        return F.batch_norm(
            x_NCHW,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            eps=BATCH_NORM_EPSILON,
        )


class NormedConv2d(nn.Conv2d):
    """A convolution without bias and the normalisation of its output, named as in a checkpoint."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, norm: nn.Module, stride: int = 1
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False
        )
        self.norm = norm

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The normalised convolution; no activation."""
        normalised: Tensor = self.norm(super().forward(x_NCHW))
        return normalised


NUM_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STAGES = ("res2", "res3", "res4", "res5")


def frozen_conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> NormedConv2d:
    """A convolution with a frozen batch norm."""
    norm = FrozenBatchNorm2d(out_channels)
    return NormedConv2d(in_channels, out_channels, kernel, norm=norm, stride=stride)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and the shortcut around them."""

    def __init__(
        self, in_channels: int, inner_channels: int, out_channels: int, stride: int
    ) -> None:
        super().__init__()
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = frozen_conv(in_channels, out_channels, 1, stride)
        self.conv1 = frozen_conv(in_channels, inner_channels, 1, stride)
        self.conv2 = frozen_conv(inner_channels, inner_channels, 3)
        self.conv3 = frozen_conv(inner_channels, out_channels, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The block's output, rectified."""
        inner = F.relu_(self.conv1(x_NCHW))
        inner = F.relu_(self.conv2(inner))
        inner = self.conv3(inner)
        return F.relu_(inner + self.shortcut(x_NCHW))


class ResNet(nn.Module):
    """The four stages of the trunk."""

    def __init__(self, depth: Literal[50, 101], width: float) -> None:
        super().__init__()
        channels = int(64 * width)
        # Stride 4.
        self.stem = nn.Sequential(
            OrderedDict(
                conv1=frozen_conv(3, channels, 7, stride=2),
                relu=nn.ReLU(inplace=True),
                pool=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
            )
        )
        self.out_channels: list[int] = []
        for index, (stage, num_blocks) in enumerate(zip(STAGES, NUM_BLOCKS[depth], strict=True)):
            inner_channels = int(64 * width) * 2**index
            out_channels = 4 * inner_channels
            blocks = []
            for block in range(num_blocks):
                stride = 2 if block == 0 and index > 0 else 1
                blocks.append(Bottleneck(channels, inner_channels, out_channels, stride))
                channels = out_channels
            self.add_module(stage, nn.Sequential(*blocks))
            self.out_channels.append(out_channels)

    def forward(self, images_N3HW: Tensor) -> list[Tensor]:
        """The outputs of res2 to res5, at strides 4, 8, 16, 32."""
        x = self.stem(images_N3HW)
        stages = []
        for stage in STAGES:
            x = self.get_submodule(stage)(x)
            stages.append(x)
        return stages


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


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> None:
    """Fold every frozen batch norm; what the network computes stays the same but for rounding."""
    for conv in network.modules():
        if isinstance(conv, NormedConv2d) and isinstance(conv.norm, FrozenBatchNorm2d):
            norm = conv.norm
            scale = norm.weight.double() / (norm.running_var.double() + BATCH_NORM_EPSILON).sqrt()
            weight = conv.weight.double() * scale[:, None, None, None]
            conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
            bias = norm.bias.double() - norm.running_mean.double() * scale
            conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
            conv.norm = nn.Identity()
