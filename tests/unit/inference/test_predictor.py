from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from service.datatypes import Image, Output, Prediction, Query, RegionXYWH, Sample, region_of
from service.errors import AnswerTooLarge, Overloaded, ServiceError
from service.inference.devices import DEVICES
from service.inference.predictor import Predictor
from tests.unit.inference.conftest import as_sample, load_demo, mirrored

# What batching may change: the order of additions in a convolution.
MAX_BOX_DIFFERENCE = 0.01  # pixels
MAX_SCORE_DIFFERENCE = 1e-5
MIN_LABEL_AGREEMENT = 0.9999
EVERYTHING = Query(frozenset({Output.IUV}), min_score=0.05, max_instances=100)


def predict(predictor: Predictor, *samples: Sample) -> list[Prediction]:
    predictions = predictor.predict_batch(samples)
    assert all(isinstance(prediction, Prediction) for prediction in predictions)
    return [prediction for prediction in predictions if isinstance(prediction, Prediction)]


def assert_same(alone: Prediction, together: Prediction) -> None:
    assert len(alone.instances) == len(together.instances)
    labels = []
    for one, other in zip(alone.instances, together.instances, strict=True):
        assert np.abs(np.subtract(one.box_xyxy, other.box_xyxy)).max() <= MAX_BOX_DIFFERENCE
        assert abs(one.score - other.score) <= MAX_SCORE_DIFFERENCE
        if one.region_xywh == other.region_xywh:
            pairs = one.maps["iuv"].samples[..., 0] == other.maps["iuv"].samples[..., 0]
            labels.append(pairs.ravel())
    # A box at the edge of a pixel may round to another region, but not most of them.
    assert len(labels) >= 0.8 * len(alone.instances)
    assert np.concatenate(labels).mean() >= MIN_LABEL_AGREEMENT


def of_one_padded_size(pictures: dict[str, Image]) -> list[Sample]:
    """Four pictures that go into one batch."""
    images = [pictures["test3_2fig"], pictures["test4_3fig"]]
    samples = [as_sample(i, EVERYTHING) for image in images for i in (image, mirrored(image))]
    assert len({sample.padded_size_hw for sample in samples}) == 1
    return samples


def test_an_image_gets_the_same_answer_alone_and_in_a_batch(
    demo: Predictor, pictures: dict[str, Image]
) -> None:
    samples = of_one_padded_size(pictures)
    together = predict(demo, *samples, *reversed(samples))
    for index, sample in enumerate(samples):
        (alone,) = predict(demo, sample)
        assert len(alone.instances) > 0
        assert_same(alone, together[index])
        assert_same(alone, together[-1 - index])


def test_images_of_other_sizes_in_the_same_padding_do_not_disturb_each_other(
    demo: Predictor, pictures: dict[str, Image]
) -> None:
    sample = as_sample(pictures["test4_3fig"], EVERYTHING)
    smaller = replace(sample, pixels_hw3=np.ascontiguousarray(sample.pixels_hw3[:-9, :-6]))
    assert smaller.padded_size_hw == sample.padded_size_hw
    for one, prediction in zip((sample, smaller), predict(demo, sample, smaller), strict=True):
        assert_same(predict(demo, one)[0], prediction)


def test_a_batch_of_eight_is_one_backbone_call(demo: Predictor, pictures: dict[str, Image]) -> None:
    calls = []
    hook = demo._network.backbone.register_forward_hook(
        lambda module, inputs, outputs: calls.append(len(inputs[0]))
    )
    try:
        predict(demo, *of_one_padded_size(pictures) * 2)
    finally:
        hook.remove()
    assert calls == [8]


def test_the_densepose_head_sees_only_what_the_client_wants_to_know(
    demo: Predictor, pictures: dict[str, Image]
) -> None:
    described = []
    max_chunk = DEVICES["cpu"].max_chunk
    hook = demo._network.roi_heads.densepose_head.register_forward_hook(
        lambda module, inputs, outputs: described.append(len(inputs[0]))
    )
    image = pictures["test4_3fig"]
    try:
        (unlimited,) = predict(demo, as_sample(image, EVERYTHING))
        assert sum(described) == len(unlimited.instances) > max_chunk
        assert max(described) <= max_chunk
        scores = [instance.score for instance in unlimited.instances]
        assert scores == sorted(scores, reverse=True)

        described.clear()
        (few,) = predict(demo, as_sample(image, replace(EVERYTHING, max_instances=2)))
        assert [instance.score for instance in few.instances] == scores[:2]
        assert described == [2]

        described.clear()
        (good,) = predict(demo, as_sample(image, replace(EVERYTHING, min_score=scores[3])))
        assert [instance.score for instance in good.instances] == scores[:4]
        assert described == [4]

        described.clear()
        (boxes,) = predict(demo, as_sample(image, replace(EVERYTHING, outputs=frozenset())))
        assert [instance.score for instance in boxes.instances] == scores
        assert [dict(instance.maps) for instance in boxes.instances] == [{}] * len(scores)
        assert described == []
    finally:
        hook.remove()


def test_given_boxes_skip_the_detector_and_keep_their_order_and_numbers(
    demo: Predictor, pictures: dict[str, Image]
) -> None:
    image = pictures["test3_2fig"]
    (found,) = predict(demo, as_sample(image, EVERYTHING))
    boxes = tuple(instance.box_xyxy for instance in reversed(found.instances[:3]))
    query = replace(EVERYTHING, boxes_xyxy=boxes, class_ids=(0, 0, 0))
    calls = []
    hook = demo._network.proposal_generator.register_forward_hook(
        lambda module, inputs, outputs: calls.append(1)
    )
    try:
        (given,) = predict(demo, as_sample(image, query))
    finally:
        hook.remove()
    assert not calls
    assert [instance.box_xyxy for instance in given.instances] == list(boxes)
    assert [instance.score for instance in given.instances] == [1.0] * 3
    for instance, original in zip(given.instances, reversed(found.instances[:3]), strict=True):
        assert instance.region_xywh == region_of(instance.box_xyxy) == original.region_xywh
        same = instance.maps["iuv"].samples == original.maps["iuv"].samples
        assert same.mean() >= MIN_LABEL_AGREEMENT


def test_given_and_found_boxes_go_together_in_one_batch(
    demo: Predictor, pictures: dict[str, Image]
) -> None:
    image, other = pictures["test4_3fig"], mirrored(pictures["test4_3fig"])
    boxes = ((10.5, 20.25, 200.0, 300.0), (0.0, 0.0, 1.0, 0.5))
    given = as_sample(image, replace(EVERYTHING, boxes_xyxy=boxes, class_ids=(0, 0)))
    none_given = as_sample(image, replace(EVERYTHING, boxes_xyxy=()))
    found = as_sample(other, EVERYTHING)
    together = predict(demo, given, found, none_given)
    assert_same(predict(demo, found)[0], together[1])
    assert [instance.region_xywh for instance in together[0].instances] == [
        (10, 20, 189, 279),
        (0, 0, 1, 1),
    ]
    assert together[2].instances == ()


def test_each_image_of_a_batch_gets_the_outputs_that_it_asked_for(
    demo: Predictor, pictures: dict[str, Image]
) -> None:
    image = pictures["test4_3fig"]
    asked = [
        frozenset({Output.LABELS, Output.MASK}),
        frozenset[Output](),
        frozenset({Output.IUV16, Output.COARSE}),
        frozenset({Output.IUV}),
    ]
    predictions = predict(
        demo, *(as_sample(image, Query(outputs, min_score=0.5)) for outputs in asked)
    )
    for outputs, prediction in zip(asked, predictions, strict=True):
        for instance in prediction.instances:
            assert set(instance.maps) == set(outputs)
    labels, _, iuv16, iuv = (prediction.instances for prediction in predictions)
    for index, instance in enumerate(iuv):
        label = labels[index].maps["labels"].samples
        assert np.array_equal(instance.maps["iuv"].samples[..., 0], label)
        assert np.array_equal(iuv16[index].maps["iuv16"].samples[..., 0], label)
        assert np.array_equal(labels[index].maps["mask"].samples, (label > 0) * np.uint8(255))
        assert label.shape == (instance.region_xywh[3], instance.region_xywh[2])


@pytest.mark.parametrize("error", [AnswerTooLarge("no"), Overloaded("later")])
def test_an_answer_that_has_no_room_fails_alone(
    demo: Predictor, pictures: dict[str, Image], error: ServiceError
) -> None:
    image = pictures["test4_3fig"]
    regions = []

    def refuse(found: Sequence[RegionXYWH]) -> None:
        regions.extend(found)
        raise error

    large = replace(as_sample(image, EVERYTHING), reserve=refuse)
    refused, answered = demo.predict_batch([large, as_sample(image, EVERYTHING)])
    assert refused is error
    assert isinstance(answered, Prediction)
    assert regions == [instance.region_xywh for instance in answered.instances]
    assert isinstance(answered, Prediction)
    assert_same(predict(demo, as_sample(image, EVERYTHING))[0], answered)


def test_an_empty_picture_has_no_instances(demo: Predictor) -> None:
    grey = Image(np.full((240, 320, 3), 128, np.uint8))
    (prediction,) = predict(demo, as_sample(grey, Query(frozenset({Output.IUV}), min_score=0.5)))
    assert prediction.instances == ()
    assert prediction.image_size_hw == (240, 320)


@pytest.mark.parametrize("size_hw", [(1, 1), (7, 3), (10, 2000), (900, 30)])
def test_a_picture_of_any_shape_is_a_picture(demo: Predictor, size_hw: tuple[int, int]) -> None:
    image = Image(np.random.default_rng(0).integers(0, 255, (*size_hw, 3), dtype=np.uint8))
    (prediction,) = predict(demo, as_sample(image, EVERYTHING))
    for instance in prediction.instances:
        x, y, width, height = instance.region_xywh
        assert 0 <= x < x + width <= size_hw[1]
        assert 0 <= y < y + height <= size_hw[0]


def test_every_stage_of_a_batch_is_timed(demo: Predictor, pictures: dict[str, Image]) -> None:
    (prediction,) = predict(demo, as_sample(pictures["test1_1fig"], EVERYTHING))
    assert set(prediction.stage_seconds) == {"preprocess", "network", "postprocess"}
    assert min(prediction.stage_seconds.values()) > 0


@pytest.mark.parametrize(("dtype", "min_agreement"), [(torch.bfloat16, 0.9), (torch.float16, 0.98)])
def test_half_precision_says_nearly_the_same_of_given_boxes(
    demo: Predictor, pictures: dict[str, Image], dtype: torch.dtype, min_agreement: float
) -> None:
    half = load_demo(dtype)
    image = pictures["test4_3fig"]
    (found,) = predict(demo, as_sample(image, replace(EVERYTHING, min_score=0.8)))
    boxes = tuple(instance.box_xyxy for instance in found.instances)
    query = replace(EVERYTHING, boxes_xyxy=boxes, class_ids=(0,) * len(boxes))
    (rounded,) = predict(half, as_sample(image, query))
    agreement = np.concatenate(
        [
            (one.maps["iuv"].samples[..., 0] == other.maps["iuv"].samples[..., 0]).ravel()
            for one, other in zip(found.instances, rounded.instances, strict=True)
        ]
    )
    assert agreement.mean() >= min_agreement
    assert demo._network.backbone.fpn_output2.weight.dtype == torch.float32
    assert half._network.backbone.fpn_output2.weight.dtype == dtype
