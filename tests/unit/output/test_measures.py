from dataclasses import replace

import numpy as np
import pytest

from service.datatypes import Instance, Map
from service.output.measures import find_hits, measure_parts
from service.output.parts import GROUPS
from tests.unit.output.scenes import BOXES, make_instance

INSTANCE = make_instance(BOXES[1], 5)
LABELS = INSTANCE.maps["labels"].samples
LEFT, TOP, WIDTH, HEIGHT = INSTANCE.region_xywh


@pytest.mark.parametrize("grouping", GROUPS)
def test_what_is_measured_is_what_counting_pixels_gives(grouping):
    measured = {part.name: part for part in measure_parts(INSTANCE, [GROUPS[grouping]])[0]}
    for name, charts in GROUPS[grouping].items():
        rows, columns = np.nonzero(np.isin(LABELS, charts))
        if not len(rows):
            assert name not in measured
            continue
        part = measured[name]
        assert part.charts == charts
        assert part.pixels == len(rows)
        assert part.box_xyxy == (
            LEFT + columns.min(),
            TOP + rows.min(),
            LEFT + columns.max() + 1,
            TOP + rows.max() + 1,
        )
        center = (LEFT + columns.mean() + 0.5, TOP + rows.mean() + 0.5)
        assert part.centroid_xy == pytest.approx(center)
        assert part.share == pytest.approx(len(rows) / (LABELS > 0).sum())
        samples = INSTANCE.maps["confidence.sigma_2"].samples[rows, columns]
        assert part.confidence == {"sigma_2": pytest.approx(-1.0 + 0.5 * samples.mean())}


@pytest.mark.parametrize("grouping", ["24", "14", "limbs"])
def test_the_parts_share_the_body_among_them(grouping):
    parts = measure_parts(INSTANCE, [GROUPS[grouping]])[0]
    assert sum(part.share for part in parts) == pytest.approx(1)


def test_without_body_there_are_no_parts():
    maps = {"labels": Map(np.zeros((HEIGHT, WIDTH), np.uint8))}
    assert measure_parts(replace(INSTANCE, maps=maps), [GROUPS["24"]])[0] == []


def test_a_model_without_confidences_has_none():
    maps = {"labels": INSTANCE.maps["labels"]}
    for part in measure_parts(replace(INSTANCE, maps=maps), [GROUPS["limbs"]])[0]:
        assert part.confidence == {}


def charts_of(instance: Instance) -> Instance:
    return replace(instance, maps={name: instance.maps[name] for name in ("labels", "uv")})


def test_under_a_point_are_all_whose_body_is_there():
    instances = [charts_of(make_instance(box, seed)) for seed, box in enumerate(BOXES)]
    for x in range(60):
        for y in range(40):
            hits = {hit.index: hit for hit in find_hits(instances, (x + 0.7, y + 0.2))}
            for index, instance in enumerate(instances):
                left, top, width, height = instance.region_xywh
                row, column = y - top, x - left
                is_inside = 0 <= column < width and 0 <= row < height
                chart = instance.maps["labels"].samples[row, column] if is_inside else 0
                assert (index in hits) == (chart > 0)
                if chart:
                    hit = hits[index]
                    assert hit.chart == chart
                    assert [hit.u, hit.v] == instance.maps["uv"].samples[:, row, column].tolist()
                    assert hit.vertex is None


def test_of_a_model_with_vertices_the_vertex_is_told():
    maps = {"vertices": INSTANCE.maps["vertices"]}
    rows, columns = np.nonzero(maps["vertices"].samples)
    point = (LEFT + float(columns[0]), TOP + float(rows[0]))
    (hit,) = find_hits([replace(INSTANCE, maps=maps)], point)
    assert hit.vertex == maps["vertices"].samples[rows[0], columns[0]] - 1
    assert (hit.chart, hit.u, hit.v) == (None, None, None)
