"""Batch norms made part of the convolutions before them, once the weights are loaded."""

import torch
from torch import nn

from service.network.layers import BATCH_NORM_EPSILON, FrozenBatchNorm2d, NormedConv2d


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
