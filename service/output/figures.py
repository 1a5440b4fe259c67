"""The instances that a picture shows, in the order in which they are painted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.datatypes import Instance, Map, Output, RawMap
from service.output.canvas import mask_of, strips_of
from service.output.palettes import values_of


@dataclass(frozen=True, slots=True)
class Figure:
    """An instance, and its number among all of the image, from 1.

    `uv_range` has the least and the greatest value of U and V, where only a strip is here.
    """

    number: int
    instance: Instance
    uv_range: tuple[np.float32, np.float32] | None = None

    def strips(self) -> Iterator["Figure"]:
        """The figure from top to bottom, in parts of few pixels."""
        whole = self
        if RawMap.UV in self.instance.maps:
            whole = replace(self, uv_range=_range_of(self.instance.maps[RawMap.UV].samples))
        for instance in strips_of(self.instance):
            yield replace(whole, instance=instance)

    def mask(self) -> NDArray[np.uint8]:
        """255 on the body, uint8 [h, w]."""
        return mask_of(self.instance)

    def channel(self, name: str) -> NDArray[np.uint8]:
        """A channel of a preset's `channels`, uint8 [h, w]."""
        match name:
            case "I":
                return self._labels()
            case "U" | "V":
                index = 1 + "UV".index(name)
                return _plane(self.instance.maps[Output.IUV], index)
            case "U stretched" | "V stretched":
                uv_2hw = self.instance.maps[RawMap.UV].samples
                low, high = self.uv_range or _range_of(uv_2hw)
                return _stretch(uv_2hw["UV".index(name[0])], low, high)
            case "255 I / 24":
                return values_of(self._labels())
            case "instance":
                _, _, width, height = self.instance.region_xywh
                return np.full((height, width), self.number, np.uint8)
        raise ValueError(f"There is no channel {name}.")

    def _labels(self) -> NDArray[np.uint8]:
        maps = self.instance.maps
        if Output.LABELS in maps:
            return np.asarray(maps[Output.LABELS].samples, np.uint8)
        return _plane(maps[Output.IUV], 0)


def choose_figures(
    instances: Sequence[Instance], people: str | int, *, is_best_on_top: bool
) -> list[Figure]:
    """All, the best, the largest by its box, or the one of an index; none where there is none."""
    figures = [Figure(number, instance) for number, instance in enumerate(instances, start=1)]
    match people:
        case int():
            figures = figures[people : people + 1]
        case "best":
            figures = sorted(figures, key=lambda figure: -figure.instance.score)[:1]
        case "largest":
            figures = sorted(figures, key=lambda figure: -_area(figure.instance))[:1]
    return figures[::-1] if is_best_on_top else figures


def _plane(iuv: Map, index: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(iuv.samples[..., index], np.uint8)


def _area(instance: Instance) -> float:
    x0, y0, x1, y1 = instance.box_xyxy
    return (x1 - x0) * (y1 - y0)


def _range_of(uv_2hw: NDArray[Any]) -> tuple[np.float32, np.float32]:
    return uv_2hw.min(), uv_2hw.max()


def _stretch(plane_hw: NDArray[Any], low: np.float32, high: np.float32) -> NDArray[np.uint8]:
    """U or V from the least to the greatest value of both in the region, to 0..255.

    As the network gives them, not clamped, with the 0 off the body among them.
    Leffa, leffa_utils/densepose_predictor.py: predict_iuv
    """
    if low == high:
        return np.zeros(plane_hw.shape, np.uint8)
    return np.asarray((plane_hw - low) / (high - low) * 255).astype(np.uint8)
