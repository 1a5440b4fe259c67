"""The two layers that PyTorch does not have under the checkpoint's names."""

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
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

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
