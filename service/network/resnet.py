"""ResNet-50 and -101 as detectron2's checkpoints have it: stride in the 1x1, frozen batch norms.

Shape letters: N images, C channels, H W = the input's height and width over the stride.
Source: He et al., Deep Residual Learning, arXiv 1512.03385, table 1.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from service.network.layers import FrozenBatchNorm2d, NormedConv2d

NUM_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STAGES = ("res2", "res3", "res4", "res5")


def frozen_conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> NormedConv2d:
    """A convolution with a frozen batch norm."""
    norm = FrozenBatchNorm2d(out_channels)
    return NormedConv2d(in_channels, out_channels, kernel, norm=norm, stride=stride)


class Stem(nn.Module):
    """7x7 convolution and 3x3 max pooling: stride 4."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.conv1 = frozen_conv(3, out_channels, 7, stride=2)

    def forward(self, images_N3HW: Tensor) -> Tensor:
        """[N, 3, H, W] to [N, C, H/4, W/4]."""
        return F.max_pool2d(F.relu_(self.conv1(images_N3HW)), kernel_size=3, stride=2, padding=1)


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
        self.stem = Stem(channels)
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
