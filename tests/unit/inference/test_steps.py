"""Everything around the capture of a graph, with a stand-in for the capture."""

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from service.datatypes import Image, Output, Prediction, Query, Sample
from service.inference.predictor import Predictor
from service.inference.steps import (
    CapturedBatch,
    CapturedHead,
    NetworkSteps,
    normalise,
    pixel_mean,
    stack_samples,
    write_samples,
)
from service.network.densepose_head import HeadOutput
from service.network.faster_rcnn import MAX_ROWS, NO_SCORE
from tests.unit.inference.conftest import as_sample, load_demo, mirrored

T = TypeVar("T")
CPU = torch.device("cpu")
QUERY = Query(frozenset({Output.IUV}), min_score=0.3, max_instances=3)


class FixedTensors:
    """Writes the results of every run over those of the first one, as a graph does."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def __call__(self, stage: str, function: Callable[[], T]) -> Callable[[], T]:
        self.stages.append(stage)
        if stage == "detect":
            function = with_all_rows(function)
        fixed = function()

        def replay() -> T:
            for old, new in zip(tensors_of(fixed), tensors_of(function()), strict=True):
                old.copy_(new)
            return fixed

        return replay


def with_all_rows(detect: Callable[[], T]) -> Callable[[], T]:
    """What detects on CUDA: always as many rows, of which on the CPU some are left out."""

    def detect_all() -> T:
        rows = detect()
        assert isinstance(rows, Tensor)
        return F.pad(rows, (0, 0, 0, MAX_ROWS - rows.shape[1]), value=NO_SCORE)  # type: ignore[return-value]

    return detect_all


def tensors_of(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, HeadOutput):
        yield value.values_RCSS
    else:
        assert isinstance(value, list)
        yield from value


def small(image: Image, query: Query = QUERY) -> Sample:
    return as_sample(image, query, short_side=160, long_side=266)


def predict(predictor: Predictor, samples: list[Sample]) -> list[Prediction]:
    predictions = predictor.predict_batch(samples)
    assert all(isinstance(one, Prediction) for one in predictions)
    return predictions  # type: ignore[return-value]


def is_replayed(predictor: Predictor, samples: list[Sample]) -> bool:
    with torch.inference_mode():
        return isinstance(predictor._steps.begin(samples), CapturedBatch)


def assert_equal(one: list[Prediction], other: list[Prediction]) -> None:
    for a, b in zip(one, other, strict=True):
        assert [i.box_xyxy for i in a.instances] == [i.box_xyxy for i in b.instances]
        assert [i.score for i in a.instances] == [i.score for i in b.instances]
        for first, second in zip(a.instances, b.instances, strict=True):
            assert first.maps.keys() == second.maps.keys()
            for name, drawn in first.maps.items():
                np.testing.assert_array_equal(drawn.samples, second.maps[name].samples)


def assert_close(one: list[Prediction], other: list[Prediction]) -> None:
    """Equal up to the rounding of products that were added up in another order."""
    for a, b in zip(one, other, strict=True):
        for first, second in zip(a.instances, b.instances, strict=True):
            assert first.box_xyxy == pytest.approx(second.box_xyxy, abs=1e-3)
            assert first.score == pytest.approx(second.score, abs=1e-5)
            assert first.maps.keys() == second.maps.keys()
            for name, drawn in first.maps.items():
                differs = drawn.samples != second.maps[name].samples
                assert differs.mean() < 0.002


@pytest.fixture(scope="module")
def captured() -> Predictor:
    """The demo model, whose batches of two are replayed."""
    predictor = load_demo(torch.float32)
    steps = NetworkSteps(predictor._network, CPU, torch.float32, FixedTensors())
    assert steps._batches is not None
    with torch.inference_mode():
        steps._batches.add((2, (160, 224)))
    predictor._steps = steps
    return predictor


@pytest.fixture(scope="module")
def samples(pictures: dict[str, Image]) -> list[Sample]:
    """Two batches of two; the pictures of the second are smaller in the same padding."""
    image = pictures["test4_3fig"]
    large = [small(image), small(mirrored(image))]
    assert large[0].padded_size_hw == (160, 224)
    return large + [
        replace(one, pixels_hw3=np.ascontiguousarray(one.pixels_hw3[:-9, :-6])) for one in large
    ]


def test_a_replayed_batch_says_what_it_says_kernel_by_kernel(
    captured: Predictor, demo: Predictor, samples: list[Sample]
) -> None:
    # Also where a larger picture lay in its place before, and of what is asked for otherwise.
    other = replace(QUERY, min_score=0.05, max_instances=5)
    for batch in (samples[:2], samples[2:], [replace(one, query=other) for one in samples[1:3]]):
        assert is_replayed(captured, batch)
        answers = predict(captured, batch)
        assert sum(len(answer.instances) for answer in answers) > 2
        assert_equal(answers, predict(demo, batch))


def test_answers_outlive_the_next_batch(captured: Predictor, samples: list[Sample]) -> None:
    answers = predict(captured, samples[:2])
    copies = [one.maps["iuv"].samples.copy() for a in answers for one in a.instances]
    predict(captured, [samples[3], samples[2]])
    kept = [one.maps["iuv"].samples for a in answers for one in a.instances]
    for copy, one in zip(copies, kept, strict=True):
        np.testing.assert_array_equal(copy, one)


def test_given_and_found_boxes_go_together_in_a_replayed_batch(
    captured: Predictor, demo: Predictor, samples: list[Sample]
) -> None:
    boxes = ((10.5, 20.25, 100.0, 150.0), (0.0, 0.0, 1.0, 0.5))
    given = replace(samples[0], query=replace(QUERY, boxes_xyxy=boxes, class_ids=(0, 0)))
    # Kernel by kernel the detector sees one image, and replayed it sees two.
    for batch in ([given, samples[1]], [samples[1], given], [given, given]):
        assert_close(predict(captured, batch), predict(demo, batch))


def test_batches_of_other_shapes_are_launched_kernel_by_kernel(
    captured: Predictor, demo: Predictor, samples: list[Sample]
) -> None:
    assert not is_replayed(captured, samples[:1])
    assert_equal(predict(captured, samples[:1]), predict(demo, samples[:1]))


def test_a_head_captured_for_more_boxes_describes_fewer(demo: Predictor) -> None:
    fields = ("coarse_segm", "fine_segm", "u", "v")
    steps = NetworkSteps(demo._network, CPU, torch.float32, FixedTensors())
    assert steps._heads is not None
    torch.manual_seed(0)
    fused = [torch.randn(1, 64, 40, 56).to(memory_format=torch.channels_last)]
    boxes = torch.tensor([[0, 3.0, 5, 90, 130], [0, 50, 20, 200, 150], [0, 9, 9, 30, 40]])
    with torch.inference_mode():
        steps._heads.add((3, fields))
        for rois in (boxes, boxes[1:], boxes[:1]):
            eager = demo._network.describe(fused, rois, fields)
            replayed = steps.describe(fused, rois, fields)
            assert replayed.channels == eager.channels
            torch.testing.assert_close(replayed.values_RCSS, eager.values_RCSS)
    # Only for three was it captured; two and one were made up to no more than a third.
    assert len(steps._heads) == 1


def test_each_step_is_captured_in_the_memory_of_its_stage(demo: Predictor) -> None:
    capture = FixedTensors()
    steps = NetworkSteps(demo._network, CPU, torch.float32, capture)
    with torch.inference_mode():
        assert steps._batches is not None
        steps._batches.add((1, (64, 64)))
    assert capture.stages == ["extract", "detect", "fuse"]
    steps.free_graphs()
    assert len(steps._batches) == 0


def test_a_graph_is_freed_with_its_last_use(demo: Predictor) -> None:
    with torch.inference_mode():
        batch = CapturedBatch(demo._network, 1, (64, 64), CPU, torch.float32, FixedTensors())
        head = CapturedHead(demo._network, 1, ("coarse_segm",), CPU, torch.float32, FixedTensors())
    gc.disable()
    try:
        kept = [weakref.ref(one) for one in (batch, head)]
        del batch, head
        assert [one() for one in kept] == [None, None]
    finally:
        gc.enable()


def test_a_predictor_answers_after_its_warm_up(pictures: dict[str, Image]) -> None:
    predictor = load_demo(torch.float32)
    predictor.warm_up()
    predictor.warm_up([(2, (96, 128))])
    predictor.free_graphs()
    assert predict(predictor, [small(pictures["test1_1fig"])])[0].instances


def samples_of(*sizes_hw: tuple[int, int]) -> list[Sample]:
    generator = np.random.default_rng(0)
    pixels = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes_hw]
    return [Sample(one, one.shape[:2], Query(frozenset())) for one in pixels]


def test_what_is_captured_normalises_like_what_is_not() -> None:
    samples = samples_of((60, 90), (64, 70))
    # As other pictures left it.
    staging = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    write_samples(samples, staging)
    sizes = torch.tensor([[60.0, 90.0], [64.0, 70.0]])
    images = normalise(staging, sizes, pixel_mean(CPU), torch.float32)
    expected = stack_samples(samples, CPU, torch.float32)
    assert torch.equal(images, expected)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert not images[0, :, 60:].any()
    assert torch.allclose(
        images[0, :, 0, 0] + pixel_mean(CPU), torch.tensor(samples[0].pixels_hw3[0, 0]).float()
    )
