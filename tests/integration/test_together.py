"""Requests that come together, of several shapes and wishes, get what each of them gets alone."""

import asyncio
import base64
import itertools
import random
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from importlib import resources

import cv2
import httpx2
import numpy as np
import pytest
import torch

from load_tests.stand_in_weights import DATA, build_arrays
from model_store.catalogue import load_catalogue
from model_store.checkpoint import read_checkpoint
from service.assembly import Service, assemble, build_metrics
from service.batching import batch_limits
from service.datatypes import ModelStatus
from service.inference.loading import build_predictor
from service.inference.predictor import Predictor
from service.settings import Settings
from tests.integration.test_operation import sample_in

NUM_REQUESTS = 64
# What batching may change at most, as for the predictor itself: rounding.
MAX_BOX_DIFFERENCE = 0.01  # pixels
MAX_SCORE_DIFFERENCE = 1e-5
MIN_LABEL_AGREEMENT = 0.9999

PICTURES = ("demo/test1_1fig", "demo/test4_3fig", "pictures/figure_1", "pictures/figures_2")
WISHES = (
    {},
    {"outputs": "labels,mask", "min_score": "0.05", "max_instances": "30"},
    {"outputs": "iuv,coarse", "boxes": "[[40,30,200,280],[100.5,80,300.25,330]]"},
    {"outputs": "none", "short_side": "256"},
)
CASES = [
    ((DATA / f"{name}.png").read_bytes(), wish)
    for name, wish in itertools.product(PICTURES, WISHES)
]


def demo_arrays():
    with resources.as_file(resources.files("model_store") / "demo.pkl") as path:
        return read_checkpoint(path)


class OneModel:
    """A device side with one model, which is loaded."""

    def __init__(self, card, predictor: Predictor) -> None:
        self.card = card
        self.predictor = predictor

    def cards(self):
        return {self.card.id: self.card}

    def status_of(self, card):
        return ModelStatus("ready")

    def request(self, card):
        loaded = Future()
        loaded.set_result(None)
        return loaded

    def lease(self, model_id):
        return nullcontext()

    def unload(self, model_id):
        pass

    def predict(self, model_id, samples):
        return self.predictor.predict_batch(samples)

    def close(self):
        pass


def build_service(model_id: str, arrays) -> Service:
    # A zoo's model is asked at the size that its stand-in weights were made for.
    card = replace(load_catalogue()[model_id], short_side=320, long_side=533)
    predictor, _ = build_predictor(card, arrays, torch.device("cpu"), torch.float32)
    settings = Settings(default_model=model_id, preload=(), timeout_ms=600_000)
    return assemble(settings, OneModel(card, predictor), build_metrics({"torch": "?"}))


async def ask(client, case):
    data, wish = case
    response = await client.post("/v1/densepose", content=data, params=wish)
    assert response.status_code == 200, response.text
    return response.json()


async def ask_alone_and_together(service: Service):
    """The answers to all cases in turn; to many of them at once; the sizes of batches then."""
    transport = httpx2.ASGITransport(service.application)
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://localhost", timeout=600
    ) as client:
        alone = [await ask(client, case) for case in CASES]
        before = await batch_sizes(client)
        order = list(range(len(CASES))) * (NUM_REQUESTS // len(CASES))
        random.Random(1).shuffle(order)
        together = await asyncio.gather(*(ask(client, CASES[index]) for index in order))
        after = await batch_sizes(client)
    images, batches = (after[name] - before[name] for name in ("images", "batches"))
    return alone, list(zip(order, together, strict=True)), images / batches


async def batch_sizes(client):
    text = (await client.get("/metrics")).text
    return {
        "images": sample_in(text, "densepose_batch_size_sum"),
        "batches": sample_in(text, "densepose_batch_size_count"),
    }


def assert_same(answer, expected):
    assert len(answer["instances"]) == len(expected["instances"])
    for one, other in zip(answer["instances"], expected["instances"], strict=True):
        difference = np.abs(np.subtract(one["box"], other["box"])).max()
        assert difference <= MAX_BOX_DIFFERENCE
        assert abs(one["score"] - other["score"]) <= MAX_SCORE_DIFFERENCE
        assert set(one["maps"]) == set(other["maps"])
        for name in one["maps"]:
            agreement = np.mean(samples(one, name) == samples(other, name))
            assert agreement >= MIN_LABEL_AGREEMENT, name


def samples(instance, name):
    """A map's labels: its samples, or their first channel."""
    data = base64.b64decode(instance["maps"][name]["data"])
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels[..., 2] if pixels.ndim == 3 else pixels  # of B, G, R


def check(model_id, arrays):
    service = build_service(model_id, arrays)
    alone, together, mean_batch = asyncio.run(ask_alone_and_together(service))
    # Some of them find something, or nothing would be compared.
    assert sum(len(answer["instances"]) for answer in alone) > len(CASES)
    assert mean_batch > 2
    for index, answer in together:
        assert_same(answer, alone[index])


@pytest.fixture(autouse=True)
def _batches_as_large_as_they_can_be(monkeypatch):
    """On a CPU they may not be worth it."""
    monkeypatch.setattr(batch_limits, "WORTHWHILE", 0.0)
    monkeypatch.setattr(batch_limits, "MIN_MEASURED", 1)


def test_with_the_demo_model_64_requests_at_once_get_what_each_gets_alone():
    check("demo", demo_arrays())


@pytest.mark.slow
def test_with_a_model_of_full_width_64_requests_at_once_get_what_each_gets_alone():
    check("R_50_FPN_s1x", build_arrays("R_50_FPN_s1x", "figures_2"))
