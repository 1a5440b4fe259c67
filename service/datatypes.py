"""The values that pass between the stages; NumPy and the standard library only.

Frames: a box or region is in pixels of the client's image, x to the right, y down, the origin at
the top left corner of the top left pixel. Shape letters: H W = an image, h w = one region.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

SizeHW: TypeAlias = tuple[int, int]
Kind: TypeAlias = Literal["chart", "cse"]
BoxXYXY: TypeAlias = tuple[float, float, float, float]
RegionXYWH: TypeAlias = tuple[int, int, int, int]
# Told the regions that are found in an image before they are described; raises a `ServiceError`
# where they are not to be. It may be told several times, from any thread.
Reserve: TypeAlias = Callable[[Sequence[RegionXYWH]], None]
ModelState: TypeAlias = Literal[
    "absent", "downloading", "stored", "loading", "ready", "host", "failed"
]


class Output(StrEnum):
    """A map that a client can ask for, by its name in the API."""

    IUV = "iuv"
    IUV16 = "iuv16"
    UV = "uv"
    LABELS = "labels"
    COARSE = "coarse"
    MASK = "mask"
    CONFIDENCE = "confidence"
    TEXTURE = "texture"
    VERTICES = "vertices"
    VERTEX_COLOURS = "vertex_colours"
    EMBEDDING = "embedding"


class RawMap(StrEnum):
    """What a chart model's head says before it becomes an output; renders and dumps are made of it.

    `UV` is not clamped; of `CONFIDENCE`, those of one channel are there off the body too.
    """

    UV = "raw_uv"
    CONFIDENCE = "raw_confidence"


AnyMap: TypeAlias = Output | RawMap


# The squares of a texture, one for each part, six in a column and four in a row; part by part down
# the columns. DensePose/DensePoseData/demo_data/texture_atlas_200.png
TEXTURE_ROWS, TEXTURE_COLUMNS = 6, 4
# The side of one square of a texture that is gathered.
TEXTURE_SIDE = 200
# What an embedding is given with.
COARSE_LOGITS = "coarse_logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class MapKind:
    """What there is to know of a kind of map, and of a confidence's for each of its fields."""

    needs: Mapping[Kind, frozenset[str]]
    """What the head gives for it besides coarse labels, by the kinds of model that have it."""
    dtype: str = "uint8"
    channels: str = ""
    """What the samples are, comma separated; empty where they are no picture, or by their field."""
    depth: tuple[int, ...] = ()
    """The shape of a pixel, behind its row and column;"""
    planes: tuple[int, ...] = ()
    """or in front of them."""
    of_instance: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The names and shapes of what it is for an instance, if not of the pixels of its region."""
    made_of: frozenset[Output] = frozenset()
    """The maps that it is gathered from on the device, where it is none of the head's."""
    is_per_field: bool = False
    """Whether there is one for each confidence field of a model."""
    tells_mask: bool = False
    """Whether samples, or the first channel of them, are 0 just where a pixel is not the body's,"""
    tells_more: frozenset[Kind] = frozenset()
    """but for models of these kinds, where they may tell of body beside the mask."""


_LABEL, _UV = frozenset({"fine_segm"}), frozenset({"fine_segm", "u", "v"})
_EMBEDDING = frozenset({"embedding"})
_TEXTURE_SHAPE = (TEXTURE_ROWS * TEXTURE_SIDE, TEXTURE_COLUMNS * TEXTURE_SIDE, 4)
# Of each kind of model, the first is the default.
MAPS: Mapping[AnyMap, MapKind] = {
    Output.IUV: MapKind(needs={"chart": _UV}, channels="I,U,V", depth=(3,), tells_mask=True),
    Output.IUV16: MapKind(
        needs={"chart": _UV}, dtype="uint16", channels="I,U,V", depth=(3,), tells_mask=True
    ),
    Output.LABELS: MapKind(needs={"chart": _LABEL}, channels="I", tells_mask=True),
    Output.VERTICES: MapKind(
        needs={"cse": _EMBEDDING}, dtype="uint16", channels="vertex index + 1", tells_mask=True
    ),
    Output.COARSE: MapKind(
        needs={"chart": frozenset(), "cse": frozenset()},
        channels="coarse label",
        tells_mask=True,
        tells_more=frozenset({"chart"}),
    ),
    Output.MASK: MapKind(
        needs={"chart": _LABEL, "cse": frozenset()}, channels="mask", tells_mask=True
    ),
    Output.UV: MapKind(needs={"chart": _UV}, dtype="float32", planes=(2,)),
    Output.TEXTURE: MapKind(
        needs={"chart": _UV},
        channels="R,G,B,coverage",
        of_instance={Output.TEXTURE: _TEXTURE_SHAPE},
        made_of=frozenset({Output.LABELS, Output.UV}),
    ),
    # All fourteen models agree in these shapes.
    Output.EMBEDDING: MapKind(
        needs={"cse": _EMBEDDING},
        dtype="float16",
        of_instance={Output.EMBEDDING: (16, 112, 112), COARSE_LOGITS: (2, 112, 112)},
    ),
    Output.VERTEX_COLOURS: MapKind(needs={"cse": _EMBEDDING}, channels="R,G,B", depth=(3,)),
    Output.CONFIDENCE: MapKind(needs={"chart": _LABEL}, dtype="uint16", is_per_field=True),
    RawMap.UV: MapKind(needs={"chart": _UV}, dtype="float32", planes=(2,)),
    RawMap.CONFIDENCE: MapKind(needs={"chart": _LABEL}, dtype="float32", is_per_field=True),
}


@dataclass(frozen=True, slots=True)
class Image:
    """A decoded picture: uint8 [H, W, 3], channels B, G, R, upright, C-contiguous."""

    pixels_HW3: NDArray[np.uint8]

    @property
    def size_hw(self) -> SizeHW:
        """Height and width in pixels."""
        return self.pixels_HW3.shape[0], self.pixels_HW3.shape[1]


@dataclass(frozen=True, slots=True)
class Query:
    """What a client wants to know about one image; already checked against the model.

    `boxes_xyxy`, where given, replace the detector's: inside the image, x0 < x1, y0 < y1; then
    `class_ids` has one entry per box, None where a mesh was named instead of a class.
    Boxes, given or found, grow by the share `box_expand` of their sides before they are described.
    """

    outputs: frozenset[AnyMap]
    min_score: float = 0.5
    max_instances: int = 20
    boxes_xyxy: tuple[BoxXYXY, ...] | None = None
    class_ids: tuple[int | None, ...] = ()
    mesh: str | None = None
    box_expand: float = 0.0
    is_confidence_range_shared: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One image on its way to the device.

    `pixels_hw3` is the resized picture (uint8, B, G, R); `image_size_hw` is the size before that.
    `photo` is the picture of that size, there only where textures are to be gathered from it.
    `reserve`, where given, takes the room that the answer needs.
    """

    pixels_hw3: NDArray[np.uint8]
    image_size_hw: SizeHW
    query: Query
    photo: Image | None = None
    reserve: Reserve | None = None

    @property
    def padded_size_hw(self) -> SizeHW:
        """The size that the network sees: each side rounded up to a multiple of 32."""
        height, width = self.pixels_hw3.shape[:2]
        return -(-height // 32) * 32, -(-width // 32) * 32


@dataclass(frozen=True, slots=True)
class Map:
    """One output of one instance.

    `samples` is uint8 or uint16, [h, w] or [h, w, 3], in the instance's region; of `uv` float32
    [2, h, w], 0..1; of `texture` uint8 [6 N, 4 N, 4], channels R, G, B, coverage; of `embedding`
    and `coarse_logits` float16 [C, 112, 112]; of raw maps float32. Quantized samples carry `scale`
    and `offset`: sample 0 is off the body, any other means offset + scale * sample.
    """

    samples: NDArray[Any]
    scale: float | None = None
    offset: float | None = None

    def values(self) -> NDArray[Any]:
        """The samples or, where they are quantized, what they mean in float32: 0.0 off the body."""
        if self.scale is None or self.offset is None:
            return self.samples
        return dequantize(self.samples, scale=self.scale, offset=self.offset)


@dataclass(frozen=True, slots=True)
class Instance:
    """One described person or animal.

    `maps` is keyed by output name; a confidence by `confidence.<field>`; `Output.EMBEDDING` gives
    `embedding` and `coarse_logits`. `class_id` is None where the client named a mesh instead.
    """

    score: float
    class_id: int | None
    box_xyxy: BoxXYXY
    region_xywh: RegionXYWH
    mesh: str | None = None
    maps: Mapping[str, Map] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prediction:
    """All that the device side found in one image.

    Instances are best first, or in the order of the given boxes. `stage_seconds` has the device
    side's stages (`preprocess`, `network`, `postprocess`) of the batch that the image was in.
    """

    image_size_hw: SizeHW
    instances: tuple[Instance, ...]
    stage_seconds: Mapping[str, float] = field(default_factory=dict)


def region_of(box_xyxy: BoxXYXY) -> RegionXYWH:
    """The whole pixels that a box's maps cover, x, y, width, height; at least one pixel.

    Truncated as detectron2 does, densepose/converters/base.py: make_int_box.
    """
    x0, y0, x1, y1 = box_xyxy
    return int(x0), int(y0), max(int(x1 - x0), 1), max(int(y1 - y0), 1)


def dequantize(samples: NDArray[Any], *, scale: float, offset: float) -> NDArray[np.float32]:
    """What quantized samples mean, in float32; 0.0 where they are 0, which is off the body."""
    return np.where(samples > 0, offset + scale * samples, 0.0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Where a model is, and what it takes there, as far as is known."""

    state: ModelState
    bytes_on_disk: int | None = None
    bytes_on_host: int | None = None
    bytes_on_device: int | None = None
    # Arrays of the checkpoint that the network has no use for; known once it was read.
    unused_arrays: tuple[str, ...] | None = None
