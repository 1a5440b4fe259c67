"""How much of each part is seen of an instance, and what is under a pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from service.datatypes import Instance, Output


@dataclass(frozen=True, slots=True)
class PartMeasures:
    """The pixels of one group of charts in one instance; frames are the image's pixels.

    `box_xyxy` is around whole pixels, `centroid_xy` the mean of their centres, `share` of the
    instance's body. `confidence` has the mean of each confidence that the model gives.
    """

    name: str
    charts: tuple[int, ...]
    pixels: int
    box_xyxy: tuple[int, int, int, int]
    centroid_xy: tuple[float, float]
    share: float
    confidence: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """An instance whose body is under a point; what it is not known by is None."""

    index: int
    chart: int | None = None
    u: float | None = None
    v: float | None = None
    vertex: int | None = None


def measure_parts(instance: Instance, groups: Mapping[str, tuple[int, ...]]) -> list[PartMeasures]:
    """The groups that have pixels. The instance brings `labels`, and its confidences if any."""
    labels_hw = instance.maps[Output.LABELS].samples
    x, y, _, _ = instance.region_xywh
    num_body = int(np.count_nonzero(labels_hw))
    measures = []
    for name, charts in groups.items():
        is_member = np.zeros(256, np.uint8)
        is_member[list(charts)] = 1
        mask_hw = np.asarray(cv2.LUT(labels_hw, is_member), np.uint8)
        pixels = int(np.count_nonzero(mask_hw))
        if not pixels:
            continue
        left, top, width, height = cv2.boundingRect(mask_hw)
        moments = cv2.moments(mask_hw, binaryImage=True)
        measures.append(
            PartMeasures(
                name,
                charts,
                pixels,
                (x + left, y + top, x + left + width, y + top + height),
                (
                    x + moments["m10"] / pixels + 0.5,
                    y + moments["m01"] / pixels + 0.5,
                ),
                pixels / num_body,
                {
                    # The mask leaves out all that is off the body, which means nothing.
                    name.partition(".")[2]: (map_.offset or 0.0)
                    + (map_.scale or 0.0) * cv2.mean(map_.samples, mask_hw)[0]
                    for name, map_ in instance.maps.items()
                    if name.startswith(f"{Output.CONFIDENCE}.")
                },
            )
        )
    return measures


def find_hits(instances: Sequence[Instance], point_xy: tuple[float, float]) -> list[Hit]:
    """The instances whose body is under a point of the image, in their order."""
    hits = []
    for index, instance in enumerate(instances):
        left, top, width, height = instance.region_xywh
        column, row = int(point_xy[0]) - left, int(point_xy[1]) - top
        if 0 <= column < width and 0 <= row < height:
            hit = _hit(index, instance, row, column)
            if hit is not None:
                hits.append(hit)
    return hits


def _hit(index: int, instance: Instance, row: int, column: int) -> Hit | None:
    maps = instance.maps
    if Output.VERTICES in maps:
        number = int(maps[Output.VERTICES].samples[row, column])
        return Hit(index, vertex=number - 1) if number else None
    chart = int(maps[Output.LABELS].samples[row, column])
    u, v = maps[Output.UV].samples[:, row, column].tolist()
    return Hit(index, chart=chart, u=u, v=v) if chart else None
