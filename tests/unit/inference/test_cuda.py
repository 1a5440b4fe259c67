"""What only a CUDA device can show: graphs, no waiting, memory given back.

The kernels' own tests run on the device too, where there is one, and with `--device cuda` the
parity tests hold all models on it to detectron2.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from service.datatypes import Image, Output, Prediction, Query, Sample
from service.inference.devices import find_device
from service.inference.graphs import MIN_USES
from service.inference.predictor import Predictor
from service.inference.steps import CapturedBatch
from tests.unit.inference.conftest import as_sample, load_demo, mirrored

pytestmark = pytest.mark.gpu

EVERYTHING = Query(frozenset({Output.IUV, Output.IUV16}), min_score=0.3, max_instances=10)
MAX_BOX_DIFFERENCE = 0.02  # pixels
MAX_SCORE_DIFFERENCE = 5e-5
MIN_LABEL_AGREEMENT = 0.999


@pytest.fixture(scope="module")
def device() -> torch.device:
    return find_device("cuda")


@pytest.fixture(scope="module")
def on_device(device: torch.device) -> Predictor:
    return load_demo(torch.float32, device)


@pytest.fixture(scope="module")
def samples(pictures: dict[str, Image]) -> list[Sample]:
    image = pictures["test4_3fig"]
    return [as_sample(one, EVERYTHING) for one in (image, mirrored(image))]


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait without saying so is an error."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def predict(predictor: Predictor, samples: list[Sample]) -> list[Prediction]:
    predictions = predictor.predict_batch(samples)
    assert all(isinstance(one, Prediction) for one in predictions)
    return predictions  # type: ignore[return-value]


def assert_close(ours: list[Prediction], theirs: list[Prediction]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert len(one.instances) == len(other.instances) > 0
        for a, b in zip(one.instances, other.instances, strict=True):
            assert np.abs(np.subtract(a.box_xyxy, b.box_xyxy)).max() <= MAX_BOX_DIFFERENCE
            assert abs(a.score - b.score) <= MAX_SCORE_DIFFERENCE
            if a.region_xywh == b.region_xywh:
                same = a.maps["iuv"].samples[..., 0] == b.maps["iuv"].samples[..., 0]
                assert same.mean() >= MIN_LABEL_AGREEMENT


def test_float32_is_float32(device: torch.device) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(512, 512, device=device)
    exact = matrix.double() @ matrix.double()
    # TF32 has ten bits of mantissa, and would be a thousand times further away.
    assert ((matrix @ matrix) - exact).abs().max() < 1e-3


def test_the_device_says_what_the_cpu_says(
    on_device: Predictor, demo: Predictor, samples: list[Sample]
) -> None:
    assert_close(predict(on_device, samples), predict(demo, samples))


def test_a_graph_says_what_its_kernels_say(device: torch.device, samples: list[Sample]) -> None:
    predictor = load_demo(torch.float32, device)
    eager = predict(predictor, samples)
    predictor.warm_up([(2, samples[0].padded_size_hw)])
    smaller = [
        replace(one, pixels_hw3=np.ascontiguousarray(one.pixels_hw3[:-9, :-6])) for one in samples
    ]
    with torch.inference_mode():
        assert isinstance(predictor._steps.begin(samples), CapturedBatch)
    for _ in range(3):
        assert_close(predict(predictor, samples), eager)
        predict(predictor, smaller)


def test_graphs_of_many_shapes_leave_each_other_s_features_alone(
    device: torch.device, samples: list[Sample], pictures: dict[str, Image]
) -> None:
    predictor = load_demo(torch.float32, device)
    other = as_sample(pictures["test4_3fig"], EVERYTHING, short_side=224, long_side=373)
    batches = [samples[:1], samples, [other], [other] * 3]
    eager = [predict(predictor, batch) for batch in batches]
    # The largest last, the smallest again after it: their graphs share memory.
    for batch in batches:
        predictor.warm_up([(len(batch), batch[0].padded_size_hw)])
    for index in (0, 3, 1, 2, 0, 1, 3, 2):
        assert_close(predict(predictor, batches[index]), eager[index])


def test_what_is_asked_for_often_becomes_a_graph(
    device: torch.device, samples: list[Sample]
) -> None:
    predictor = load_demo(torch.float32, device)
    for _ in range(MIN_USES):
        predict(predictor, samples)
    assert predictor._steps._batches is not None
    assert len(predictor._steps._batches) == 1


@pytest.mark.parametrize("is_captured", [False, True])
def test_nothing_makes_the_host_wait_but_for_boxes_and_maps(
    device: torch.device, samples: list[Sample], no_waiting: None, is_captured: bool
) -> None:
    torch.cuda.set_sync_debug_mode("default")
    predictor = load_demo(torch.float32, device)
    if is_captured:
        predictor.warm_up([(2, samples[0].padded_size_hw)])
    expected = predict(predictor, samples)
    torch.cuda.set_sync_debug_mode("error")
    assert_close(predict(predictor, samples), expected)


def test_graphs_give_their_memory_back(device: torch.device, samples: list[Sample]) -> None:
    predictor = load_demo(torch.float32, device)
    predict(predictor, samples)
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    predictor.warm_up([(4, samples[0].padded_size_hw)])
    assert torch.cuda.memory_allocated(device) > before
    predictor.free_graphs()
    torch.cuda.synchronize(device)
    # cuBLAS keeps a workspace for the stream that captures.
    assert torch.cuda.memory_allocated(device) - before < 64 * 2**20


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_answers_on_the_device(
    device: torch.device, samples: list[Sample], dtype: torch.dtype
) -> None:
    half = load_demo(dtype, device)
    exact = load_demo(torch.float32, device)
    boxes = tuple(i.box_xyxy for i in predict(exact, samples)[0].instances)
    query = replace(EVERYTHING, boxes_xyxy=boxes, class_ids=(0,) * len(boxes))
    given = [replace(samples[0], query=query)]
    (one,), (other,) = predict(exact, given), predict(half, given)
    same = [
        (a.maps["iuv"].samples[..., 0] == b.maps["iuv"].samples[..., 0]).ravel()
        for a, b in zip(one.instances, other.instances, strict=True)
    ]
    # As on the CPU.
    assert np.concatenate(same).mean() >= 0.9
