from dataclasses import replace

import numpy as np
import pytest

from service.datatypes import Image, Output, Prediction, Query, region_of
from service.inference.predictor import Predictor
from tests.unit.inference.conftest import as_sample

GIVEN = Query(
    frozenset({Output.LABELS}),
    boxes_xyxy=((100.0, 60.0, 200.0, 160.0), (0.0, 0.0, 50.0, 40.0)),
    class_ids=(0, 0),
)


def predict(demo: Predictor, image: Image, query: Query) -> Prediction:
    (prediction,) = demo.predict_batch([as_sample(image, query)])
    assert isinstance(prediction, Prediction)
    return prediction


def test_given_boxes_grow_around_their_centres_and_stop_at_the_border(
    demo: Predictor, pictures: dict[str, Image]
) -> None:
    image = pictures["test3_2fig"]
    grown = predict(demo, image, replace(GIVEN, box_expand=0.5))
    boxes = [instance.box_xyxy for instance in grown.instances]
    assert boxes == [(75.0, 35.0, 225.0, 185.0), (0.0, 0.0, 62.5, 50.0)]
    # They are described as if they had been given so.
    asked = predict(demo, image, replace(GIVEN, boxes_xyxy=tuple(boxes)))
    for one, other in zip(grown.instances, asked.instances, strict=True):
        assert one.region_xywh == other.region_xywh == region_of(one.box_xyxy)
        np.testing.assert_array_equal(one.maps["labels"].samples, other.maps["labels"].samples)


def test_found_boxes_grow_in_place_of_the_detector_s(
    demo: Predictor, pictures: dict[str, Image]
) -> None:
    image = pictures["test4_3fig"]
    query = Query(frozenset({Output.LABELS}))
    found, grown = (predict(demo, image, replace(query, box_expand=e)) for e in (0.0, 0.2))
    height, width = image.size_hw
    assert len(found.instances) == len(grown.instances) > 0
    for before, after in zip(found.instances, grown.instances, strict=True):
        x0, y0, x1, y1 = before.box_xyxy
        dx, dy = 0.1 * (x1 - x0), 0.1 * (y1 - y0)
        expected = (max(x0 - dx, 0), max(y0 - dy, 0), min(x1 + dx, width), min(y1 + dy, height))
        assert after.box_xyxy == pytest.approx(expected)
        assert after.score == before.score
        assert after.maps["labels"].samples.shape == after.region_xywh[:1:-1]
