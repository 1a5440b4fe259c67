"""How much of each part is seen of an instance, and what is under a pixel."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from service.datatypes import Instance, Output
from service.output.canvas import strips_of


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


@dataclass(frozen=True, slots=True)
class _Sums:
    """What is added up of the pixels of one chart, or of several; frames as in `PartMeasures`."""

    pixels: int
    box_xyxy: tuple[int, int, int, int]
    x: float
    y: float
    confidence: Mapping[str, float]


def measure_parts(
    instance: Instance, groupings: Sequence[Mapping[str, tuple[int, ...]]]
) -> list[list[PartMeasures]]:
    """Of each grouping, the groups that have pixels.

    The instance brings `labels`, and its confidences if any.
    """
    of_strips: dict[int, list[_Sums]] = {}
    for strip in strips_of(instance):
        for chart, sums in _sums_of(strip):
            of_strips.setdefault(chart, []).append(sums)
    of_charts = {chart: _total(sums) for chart, sums in of_strips.items()}
    num_body = sum(sums.pixels for sums in of_charts.values())
    return [
        [
            _measure(name, charts, _total(seen), num_body)
            for name, charts in groups.items()
            if (seen := [of_charts[chart] for chart in charts if chart in of_charts])
        ]
        for groups in groupings
    ]


def _total(sums: Sequence[_Sums]) -> _Sums:
    lefts, tops, rights, bottoms = zip(*(one.box_xyxy for one in sums), strict=True)
    confidence: Counter[str] = Counter()
    for one in sums:
        confidence.update(one.confidence)
    return _Sums(
        sum(one.pixels for one in sums),
        (min(lefts), min(tops), max(rights), max(bottoms)),
        sum(one.x for one in sums),
        sum(one.y for one in sums),
        confidence,
    )


def _measure(name: str, charts: tuple[int, ...], sums: _Sums, num_body: int) -> PartMeasures:
    return PartMeasures(
        name,
        charts,
        sums.pixels,
        sums.box_xyxy,
        (sums.x / sums.pixels + 0.5, sums.y / sums.pixels + 0.5),
        sums.pixels / num_body,
        {name: total / sums.pixels for name, total in sums.confidence.items()},
    )


def _sums_of(strip: Instance) -> Iterator[tuple[int, _Sums]]:
    """The sums of each chart in a strip; a pass for each over bytes is faster than one for all."""
    labels_hw = np.ascontiguousarray(strip.maps[Output.LABELS].samples)
    counts = np.bincount(labels_hw.reshape(-1), minlength=1)
    x, y, width, height = strip.region_xywh
    totals = {
        name.partition(".")[2]: (
            map_,
            np.bincount(labels_hw.reshape(-1), map_.samples.reshape(-1), minlength=len(counts)),
        )
        for name, map_ in strip.maps.items()
        if name.startswith(f"{Output.CONFIDENCE}.")
    }
    for chart in np.flatnonzero(counts[1:]) + 1:
        is_chart_hw = (labels_hw == chart).view(np.uint8)
        in_columns = cv2.reduce(is_chart_hw, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[0]
        in_rows = cv2.reduce(is_chart_hw, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0]
        columns, rows = np.flatnonzero(in_columns), np.flatnonzero(in_rows)
        pixels = int(counts[chart])
        yield (
            int(chart),
            _Sums(
                pixels,
                (
                    x + int(columns[0]),
                    y + int(rows[0]),
                    x + int(columns[-1]) + 1,
                    y + int(rows[-1]) + 1,
                ),
                float(x * pixels + np.dot(in_columns, np.arange(width, dtype=np.float64))),
                float(y * pixels + np.dot(in_rows, np.arange(height, dtype=np.float64))),
                {
                    name: pixels * (map_.offset or 0.0) + (map_.scale or 0.0) * of_labels[chart]
                    for name, (map_, of_labels) in totals.items()
                },
            ),
        )


def find_hits(instances: Sequence[Instance], point_xy: tuple[float, float]) -> list[Hit]:
    """The instances whose body is under a point of the image, in their order."""
    hits = (_hit(index, instance, point_xy) for index, instance in enumerate(instances))
    return [hit for hit in hits if hit is not None]


def _hit(index: int, instance: Instance, point_xy: tuple[float, float]) -> Hit | None:
    left, top, width, height = instance.region_xywh
    column, row = int(point_xy[0]) - left, int(point_xy[1]) - top
    if not (0 <= column < width and 0 <= row < height):
        return None
    maps = instance.maps
    if Output.VERTICES in maps:
        number = int(maps[Output.VERTICES].samples[row, column])
        return Hit(index, vertex=number - 1) if number else None
    chart = int(maps[Output.LABELS].samples[row, column])
    u, v = maps[Output.UV].samples[:, row, column].tolist()
    return Hit(index, chart=chart, u=u, v=v) if chart else None
