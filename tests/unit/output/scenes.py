"""Instances that are made up, for the tests of what is drawn of them."""

from collections.abc import Sequence

import numpy as np

from service.datatypes import BoxXYXY, Image, Instance, Map, Prediction, SizeHW, region_of
from service.output.palettes import Palette
from service.output.presets import PRESETS, Style

SIZE_HW = (40, 60)
# Overlapping ones, one at the border, one of a pixel, in the order of their scores.
BOXES = (
    (5.5, 3.25, 30.0, 36.5),
    (20.0, 8.0, 45.75, 39.0),
    (41.2, 0.0, 60.0, 40.0),
    (0.0, 39.0, 1.0, 40.0),
)


def make_instance(box: BoxXYXY, seed: int, score: float = 0.9) -> Instance:
    """One with every map that a picture is made of, about half of its region body."""
    random = np.random.default_rng(seed)
    _, _, width, height = region = region_of(box)
    labels = random.integers(0, 49, (height, width)).clip(0, 24).astype(np.uint8)
    labels[random.random((height, width)) < 0.5] = 0
    is_body = labels > 0
    uv = random.random((2, height, width)).astype(np.float32) * is_body
    maps = {
        "labels": labels,
        "uv": uv,
        # Some of it beyond the charts.
        "raw_uv": (1.5 * uv - 0.25).astype(np.float32) * is_body,
        "raw_confidence.sigma_2": random.normal(size=(height, width)).astype(np.float32) * is_body,
        "iuv": np.dstack((labels, *(uv * 255).astype(np.uint8))),
        "mask": np.where(is_body, np.uint8(255), np.uint8(0)),
        "vertices": random.integers(1, 5000, (height, width)).astype(np.uint16) * is_body,
        "vertex_colours": random.integers(1, 256, (height, width, 3)).astype(np.uint8)
        * is_body[..., None],
    }
    instance_maps = {name: Map(samples) for name, samples in maps.items()}
    instance_maps["confidence.sigma_2"] = Map(
        random.integers(0, 65536, (height, width)).astype(np.uint16) * is_body, 0.5, -1.0
    )
    return Instance(score, 0, box, region, maps=instance_maps)


def make_prediction(boxes: Sequence[BoxXYXY] = BOXES, size_hw: SizeHW = SIZE_HW) -> Prediction:
    instances = (make_instance(box, seed, score=0.9 - 0.1 * seed) for seed, box in enumerate(boxes))
    return Prediction(size_hw, tuple(instances))


def make_photo(size_hw: SizeHW = SIZE_HW) -> Image:
    random = np.random.default_rng(7)
    return Image(random.integers(0, 256, (*size_hw, 3), dtype=np.uint8))


def make_atlas(side: int = 16, channels: int = 3) -> np.ndarray:
    random = np.random.default_rng(8)
    return random.integers(1, 256, (6 * side, 4 * side, channels), dtype=np.uint8)


def style(name: str, **changes: object) -> Style:
    preset = PRESETS[name]
    defaults = {
        "palette": preset.palette or Palette.PARULA,
        "alpha": 1.0 if preset.alpha is None else preset.alpha,
        "background": preset.background or "black",
        "people": "all",
    }
    return Style(preset, **(defaults | changes))


def whole_labels(prediction: Prediction) -> np.ndarray:
    """The labels over the whole image, pixel by pixel, later instances on top."""
    return paste(prediction, "labels")


def paste(prediction: Prediction, name: str) -> np.ndarray:
    like = prediction.instances[0].maps[name].samples
    canvas = np.zeros((*prediction.image_size_hw, *like.shape[2:]), like.dtype)
    for instance in prediction.instances:
        x, y, width, height = instance.region_xywh
        is_body = instance.maps["mask"].samples > 0
        canvas[y : y + height, x : x + width][is_body] = instance.maps[name].samples[is_body]
    return canvas
