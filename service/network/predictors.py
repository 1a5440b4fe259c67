"""The last layers: logits, chart coordinates, confidences, embeddings of each box.

They compute in float32 whatever came before them: bfloat16 has 128 steps between 1/2 and 1, where
half of U and V are.

Shape letters: R boxes, C channels, P = side of the hidden layer, S = 4 P = side of the output,
s = S / 2.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_store.catalogue import Architecture

# Background and 24 charts.
NUM_LABELS = 25
# The least segmentation confidence. densepose/config.py: SEGM_CONFIDENCE.EPSILON
MIN_SEGM_CONFIDENCE = 0.01
# Twice the side. densepose/modeling/predictors/chart.py
DECONV_STRIDE, DECONV_PADDING = 2, 1
# What the checkpoints call the layers otherwise than the fields.
LAYER_OF = {"coarse_segm": "ann_index_lowres", "fine_segm": "index_uv_lowres"}


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """All fields of some boxes side by side: float32 [R, C, S, S], channels last in memory.

    A cell's channels are one row, so that the whole is a table to look up without a copy.
    """

    values_RCSS: Tensor
    channels: Mapping[str, slice]

    def __contains__(self, field: str) -> bool:
        return field in self.channels

    def __getitem__(self, field: str) -> Tensor:
        return self.values_RCSS[:, self.channels[field]]


def _deconv(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(
        in_channels, out_channels, 4, stride=DECONV_STRIDE, padding=DECONV_PADDING
    )


def _layer(field: str) -> str:
    return LAYER_OF.get(field, f"{field}_lowres")


def _describe(hidden_RCPP: Tensor, layers: Mapping[str, nn.ConvTranspose2d]) -> HeadOutput:
    """The fields of these layers, by one convolution for all, upsampled by 2."""
    channels, end = {}, 0
    for field, layer in layers.items():
        channels[field] = slice(end, end + layer.out_channels)
        end += layer.out_channels
    low_RCss = F.conv_transpose2d(
        hidden_RCPP.float(),
        torch.cat([layer.weight for layer in layers.values()], dim=1),
        torch.cat([layer.bias for layer in layers.values() if layer.bias is not None]),
        stride=DECONV_STRIDE,
        padding=DECONV_PADDING,
    )
    low_RCss = low_RCss.contiguous(memory_format=torch.channels_last)
    return HeadOutput(F.interpolate(low_RCss, scale_factor=2.0, mode="bilinear"), channels)


class ChartPredictor(nn.Module):
    """Coarse and fine segmentation, U and V of every chart, and what confidences there are."""

    def __init__(self, in_channels: int, architecture: Architecture) -> None:
        super().__init__()
        self.fields = ("coarse_segm", "fine_segm", "u", "v", *architecture.confidence_fields)
        for field in self.fields:
            channels = NUM_LABELS
            if field.endswith("_segm_confidence"):
                channels = 1
            elif field == "coarse_segm":
                channels = architecture.coarse_channels
            self.add_module(_layer(field), _deconv(in_channels, channels))

    def _layers(self, fields: Collection[str]) -> dict[str, nn.ConvTranspose2d]:
        layers = {}
        for field in self.fields:
            if field in fields or field.removesuffix("_confidence") in fields:
                layer = self.get_submodule(_layer(field))
                assert isinstance(layer, nn.ConvTranspose2d)
                layers[field] = layer
        return layers

    def forward(self, hidden_RCPP: Tensor, fields: Collection[str]) -> HeadOutput:
        """The named fields, and the confidences that weight them.

        A model with segmentation confidences multiplies its segmentation logits with them:
        densepose/modeling/predictors/chart_confidence.py.
        """
        output = _describe(hidden_RCPP, self._layers(fields))
        for field in ("fine_segm", "coarse_segm"):
            if (confidence := f"{field}_confidence") in output:
                output[confidence][:] = F.softplus(output[confidence]) + MIN_SEGM_CONFIDENCE
                if field in output:
                    output[field].mul_(output[confidence])
        return output


class EmbeddingPredictor(nn.Module):
    """Coarse segmentation and an embedding of every pixel: Neverova et al., arXiv 2011.12438."""

    def __init__(self, in_channels: int, architecture: Architecture) -> None:
        super().__init__()
        self.coarse_segm_lowres = _deconv(in_channels, architecture.coarse_channels)
        self.embed_lowres = _deconv(in_channels, architecture.embed_size)

    def forward(self, hidden_RCPP: Tensor, fields: Collection[str]) -> HeadOutput:
        """The named fields of `coarse_segm` and `embedding`."""
        layers = {"coarse_segm": self.coarse_segm_lowres, "embedding": self.embed_lowres}
        return _describe(hidden_RCPP, {field: layers[field] for field in fields})
