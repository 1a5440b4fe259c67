"""What DensePose says of each box: Güler et al., DensePose, arXiv 1802.00434.

The DeepLab form is after Chen et al., arXiv 1706.05587, embeddings after Neverova et al., arXiv
2011.12438. The last layers compute in float32 whatever came before them: bfloat16 has 128 steps
between 1/2 and 1, where half of U and V are.

Shape letters: N images, C channels, H W = a level's height and width, R boxes, P = side of their
hidden layer, S = 4 P = side of the output, s = S / 2, V vertices of a mesh, F = 256 features of a
vertex, D = 16 dimensions of an embedding.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_store.catalogue import Architecture
from service.network.backbone import LEVELS, NormedConv2d

NUM_CONVS = 8
NUM_GROUPS = 32
DILATIONS = (6, 12, 56)
# Background and 24 charts.
NUM_LABELS = 25
# The least segmentation confidence. densepose/config.py: SEGM_CONFIDENCE.EPSILON
MIN_SEGM_CONFIDENCE = 0.01
# Twice the side. densepose/modeling/predictors/chart.py
DECONV_STRIDE, DECONV_PADDING = 2, 1
# What the checkpoints call the layers otherwise than the fields.
LAYER_OF = {"coarse_segm": "ann_index_lowres", "fine_segm": "index_uv_lowres"}
# No vertex embedding is divided by less. densepose/modeling/cse/utils.py: normalize_embeddings
MIN_NORM = 1e-6


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


class DensePoseHead(nn.Module):
    """Eight 3x3 convolutions; DeepLab's are normalised, and come after its pyramid pooling."""

    def __init__(self, in_channels: int, channels: int, *, is_deeplab: bool) -> None:
        super().__init__()
        self.ASPP = SpatialPyramidPooling(in_channels) if is_deeplab else nn.Identity()
        for index in range(NUM_CONVS):
            shape = (in_channels if index == 0 else channels, channels, 3)
            self.add_module(
                f"body_conv_fcn{index + 1}",
                NormedConv2d(*shape, norm=nn.GroupNorm(NUM_GROUPS, channels))
                if is_deeplab
                else nn.Conv2d(*shape, padding=1),
            )

    def forward(self, pooled_RCPP: Tensor) -> Tensor:
        """[R, 512, P, P]."""
        x: Tensor = self.ASPP(pooled_RCPP)
        for index in range(NUM_CONVS):
            x = F.relu_(self.get_submodule(f"body_conv_fcn{index + 1}")(x))
        return x


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


class VertexEmbedder(nn.Module):
    """The embeddings of one mesh's vertices, by way of their features."""

    features: Tensor

    def __init__(self, num_vertices: int, feature_dim: int, embed_size: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(num_vertices, feature_dim))
        self.embeddings = nn.Parameter(torch.zeros(feature_dim, embed_size))

    def forward(self) -> Tensor:
        """[V, D], each of length 1."""
        embeddings_VD: Tensor = self.features @ self.embeddings
        norm_V1: Tensor = embeddings_VD.norm(dim=1, keepdim=True)
        return embeddings_VD / norm_V1.clamp(min=MIN_NORM)


class Embedder(nn.Module):
    """One vertex embedder per mesh, found by the mesh's name."""

    def __init__(self, meshes: Mapping[str, int], feature_dim: int, embed_size: int) -> None:
        super().__init__()
        for mesh, num_vertices in meshes.items():
            embedder = VertexEmbedder(num_vertices, feature_dim, embed_size)
            self.add_module(f"embedder_{mesh}", embedder)

    def forward(self) -> dict[str, Tensor]:
        """The vertex embeddings [V, D] of each mesh."""
        return {name.removeprefix("embedder_"): child() for name, child in self.named_children()}
