"""An answer as arrays, in the frame of the image.

Frame: pixels of the image that was sent, upright, x to the right, y down, the origin at the top
left corner of the top left pixel. Shape letters: H W = the image, h w = the region of an instance.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

RegionXYWH: TypeAlias = tuple[int, int, int, int]

# Maps that are of an instance, but not of the pixels of its region.
NO_PICTURES = frozenset({"embedding", "coarse_logits", "texture"})
# Of those that tell by themselves which of their pixels are the instance's own.
BODY_CHANNEL: Mapping[str, int | None] = {
    "mask": None,
    "labels": None,
    "vertices": None,
    "coarse": None,
    "iuv": 0,
    "iuv16": 0,
}


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """One output: uint8 or uint16, [h, w] or [h, w, 3]; `uv` is float32 [2, h, w].

    Quantized samples have `scale` and `offset`; their sample 0 is off the body.
    """

    samples: NDArray[Any] = field(repr=False)
    scale: float | None = None
    offset: float | None = None

    def values(self) -> NDArray[Any]:
        """The samples or, where they are quantized, what they mean in float32: 0.0 off the body."""
        if self.scale is None or self.offset is None:
            return self.samples
        values = self.offset + self.scale * self.samples
        return np.where(self.samples > 0, values, 0.0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class PartMeasures:
    """How much of a part is seen: pixels, their box and centre, their share of the body's."""

    name: str
    charts: tuple[int, ...]
    pixels: int
    box_xyxy: tuple[float, float, float, float] | None = field(metadata={"name": "box"})
    centroid_xy: tuple[float, float] | None = field(metadata={"name": "centroid"})
    share: float
    confidence: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One person or animal.

    `maps` are keyed by output, a confidence's by `confidence.<field>`; they cover `region_xywh`.
    `class_id` is None where a mesh was named instead; `mesh` is that of CSE models.
    """

    score: float
    class_id: int | None
    class_name: str | None
    box_xyxy: tuple[float, float, float, float] = field(metadata={"name": "box"})
    region_xywh: RegionXYWH = field(metadata={"name": "region"})
    mesh: str | None = None
    maps: Mapping[str, Map] = field(default_factory=dict)
    parts: Mapping[str, tuple[PartMeasures, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """What of an instance is under a point: a chart with its coordinates, or a vertex."""

    instance: int
    chart: int | None = None
    name: str | None = None
    u: float | None = None
    v: float | None = None
    vertex: int | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """A point of the question, and the instances under it."""

    xy: tuple[float, float] = field(metadata={"name": "point"})
    hits: tuple[Hit, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What is in an image; instances are best first, or in the order of the given boxes.

    `maps` are those of the whole image, with layout="image"; `render` is R, G, B, or as its
    preset says. `notice` tells what is to be known of the model before its answers are used.
    """

    model: str
    size_hw: tuple[int, int]
    instances: tuple[Instance, ...]
    maps: Mapping[str, Map] = field(default_factory=dict)
    render: NDArray[Any] | None = None
    points: tuple[Point, ...] = ()
    timing_ms: Mapping[str, float] = field(default_factory=dict)
    notice: str | None = None

    def iuv(self, *, is_best_on_top: bool = False) -> NDArray[np.uint8]:
        """I, U and V of everybody, uint8 [H, W, 3], 0 off the bodies; see `paste`."""
        return self.paste("iuv", is_best_on_top=is_best_on_top)

    def labels(self, *, is_best_on_top: bool = False) -> NDArray[np.uint8]:
        """The part of each pixel, uint8 [H, W], 0 off the bodies; see `paste`."""
        return self.paste("labels", is_best_on_top=is_best_on_top)

    def vertices(self, *, is_best_on_top: bool = False) -> NDArray[np.uint16]:
        """The vertex of each pixel + 1, uint16 [H, W], 0 off the bodies; see `paste`."""
        return self.paste("vertices", is_best_on_top=is_best_on_top)

    def people(self, *, is_best_on_top: bool = False) -> NDArray[np.uint8]:
        """The instance of each pixel, from 1, uint8 [H, W], 0 off the bodies; see `paste`."""
        canvas = np.zeros(self.size_hw, np.uint8)
        for index, instance in self._in_order(is_best_on_top=is_best_on_top):
            body_hw = _body_of(instance, None)
            inside, place = _cut(instance.region_xywh, self.size_hw)
            canvas[place][body_hw[inside]] = index + 1
        return canvas

    def paste(self, output: str, *, is_best_on_top: bool = False) -> NDArray[Any]:
        """One output of all instances over the whole image; 0 off the bodies.

        A later instance, of a lower score, covers an earlier one where it has a body, as the
        server does it with layout="image"; the other way round with `is_best_on_top`. A map that
        does not tell where the body is needs another beside it that does, such as `mask`.

        Raises:
            KeyError: the output is not among the answer's maps, or no body is.
        """
        if output in self.maps:
            return channels_last(output, self.maps[output].values())
        if output in NO_PICTURES:
            raise KeyError(f"{output} has no place in the image")
        canvas: NDArray[Any] | None = None
        for _, instance in self._in_order(is_best_on_top=is_best_on_top):
            # Channels last, whatever they are.
            samples = channels_last(output, _map_of(instance, output).values())
            if canvas is None:
                canvas = np.zeros((*self.size_hw, *samples.shape[2:]), samples.dtype)
            inside, place = _cut(instance.region_xywh, self.size_hw)
            is_own = _body_of(instance, output)[inside]
            canvas[place][is_own] = samples[inside][is_own]
        return self._blank(output) if canvas is None else canvas

    def _in_order(self, *, is_best_on_top: bool) -> list[tuple[int, Instance]]:
        numbered = list(enumerate(self.instances))
        return numbered[::-1] if is_best_on_top else numbered

    def _blank(self, output: str) -> NDArray[Any]:
        """What nobody is on."""
        is_fine = output in {"iuv16", "vertices"}
        if output.startswith("confidence.") or output == "uv":
            return np.zeros((*self.size_hw, *((2,) if output == "uv" else ())), np.float32)
        channels = (3,) if output in {"iuv", "iuv16", "vertex_colours"} else ()
        return np.zeros((*self.size_hw, *channels), np.uint16 if is_fine else np.uint8)


def channels_last(output: str, samples: NDArray[Any]) -> NDArray[Any]:
    """A map of an output with its rows and columns first."""
    return np.moveaxis(samples, 0, -1) if output == "uv" and samples.ndim == 3 else samples


def _map_of(instance: Instance, output: str) -> Map:
    if output not in instance.maps:
        raise KeyError(
            f"{output} is not in this answer, which has {', '.join(sorted(instance.maps)) or 'no'} "
            "maps: ask for it with outputs"
        )
    return instance.maps[output]


def _body_of(instance: Instance, output: str | None) -> NDArray[np.bool_]:
    """Which pixels of the region are the instance's own: [h, w]."""
    for name in (*(() if output is None else (output,)), *BODY_CHANNEL):
        if name in BODY_CHANNEL and name in instance.maps:
            samples, channel = instance.maps[name].samples, BODY_CHANNEL[name]
            body_hw: NDArray[np.bool_] = (samples if channel is None else samples[..., channel]) > 0
            return body_hw
    raise KeyError("nothing in this answer tells where the body is: ask for mask as well")


def _cut(
    region_xywh: RegionXYWH, size_hw: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of a region that lies in the image: of the region's pixels, and of the image's."""
    x, y, width, height = region_xywh
    left, top = max(-x, 0), max(-y, 0)
    right = max(min(width, size_hw[1] - x), left)
    bottom = max(min(height, size_hw[0] - y), top)
    inside = (slice(top, bottom), slice(left, right))
    return inside, (slice(y + top, y + bottom), slice(x + left, x + right))
