"""Real models that take turns on the CPU, within a budget for some of them."""

import asyncio
import pickle
import random
from importlib import resources

import cv2
import httpx2
import numpy as np
import pytest
import torch

from load_tests import faults, load_cycles
from load_tests.stand_in_weights import DATA, build_arrays
from model_store.catalogue import load_catalogue
from model_store.store import ModelStore
from service.app import build_models
from service.assembly import assemble, build_metrics
from service.datatypes import Output, Query, Sample
from service.errors import OutOfMemory
from service.inference.loading import parameter_shapes
from service.residency import resident
from service.settings import Settings
from tests.integration.test_operation import sample_in

FULL_WIDTH = (
    *("R_50_FPN_s1x", "R_50_FPN_DL_s1x", "R_101_FPN_WC2M_s1x"),
    *("R_50_FPN_WC1_s1x", "cse_R_50_FPN_s1x", "cse_R_50_FPN_DL_soft_s1x"),
)
NUM_REQUESTS, NUM_CLIENTS = 40, 4
LOCAL = "http://localhost"
TIMEOUT_MS = 300_000
BOXES = "[[40,30,200,280],[100.5,80,300.25,330]]"
PHOTO = (DATA / "pictures" / "figure_1.png").read_bytes()


def add_models(folder, model_ids) -> int:
    """Puts models with stand-in weights into a store, as `own_<id>`; the bytes of the largest."""
    store, sizes = ModelStore(folder / "store", load_catalogue()), []
    for model_id in model_ids:
        arrays = build_arrays(model_id, "figure_1")
        sizes.append(sum(array.nbytes for array in arrays.values()))
        file = folder / "model.pkl"
        file.write_bytes(pickle.dumps({"model": arrays}, 4))
        shapes = parameter_shapes(load_catalogue()[model_id].architecture)
        store.add(f"own_{model_id}", file, model_id, shapes, short_side=320, long_side=533)
        file.unlink()
    return max(sizes)


class Scene:
    """The service around real models, and clients that ask it at the same time."""

    def __init__(self, folder, device_memory):
        settings = Settings(
            model_store=folder / "store",
            device="cpu",
            device_memory=device_memory,
            preload=(),
            timeout_ms=TIMEOUT_MS,
            offline=True,
        )
        self.metrics = build_metrics({})
        self.models = build_models(settings, self.metrics)
        self.metrics.watch_memory(self.models.memory)
        self.service = assemble(settings, self.models, self.metrics)
        self.most_used = 0

    async def ask(self, client, model_id):
        outputs = "vertices" if "cse" in model_id else "labels"
        response = await client.post(
            "/v1/densepose",
            content=PHOTO,
            params={"model": f"own_{model_id}", "outputs": outputs, "boxes": BOXES},
            headers={"content-type": "image/png"},
        )
        assert response.status_code == 200, response.text
        self.most_used = max(self.most_used, self.models.memory().device_bytes["used"])
        instances = response.json()["instances"]
        return [(one["box"], one["score"], one["maps"][outputs]["data"]) for one in instances]

    async def run(self, order):
        """The first answer of each model, and all answers of clients that ask in this order."""
        transport = httpx2.ASGITransport(self.service.application)
        async with (
            self.service.engine.running(),
            httpx2.AsyncClient(
                transport=transport, base_url="http://localhost", timeout=600
            ) as client,
        ):
            first = {
                model_id: await self.ask(client, model_id) for model_id in dict.fromkeys(order)
            }
            waiting, answers = list(order), []

            async def be_a_client():
                while waiting:
                    model_id = waiting.pop()
                    answers.append((model_id, await self.ask(client, model_id)))

            await asyncio.gather(*(be_a_client() for _ in range(NUM_CLIENTS)))
            listing = (await client.get("/v1/models")).json()["models"]
            return first, answers, listing, (await client.get("/metrics")).text


@pytest.mark.slow
def test_six_models_of_full_width_take_turns_where_three_fit_and_every_answer_is_right(tmp_path):
    largest = add_models(tmp_path, FULL_WIDTH)
    scene = Scene(tmp_path, 3 * largest)
    order = random.Random(1).choices(FULL_WIDTH, k=NUM_REQUESTS)
    first, answers, listing, text = asyncio.run(scene.run([*FULL_WIDTH, *order]))
    assert len(answers) == NUM_REQUESTS + len(FULL_WIDTH)
    assert all(len(answer) == 2 for answer in first.values())
    for model_id, answer in answers:
        assert len(answer) == len(first[model_id])
        for one, other in zip(answer, first[model_id], strict=True):
            # In a batch with others' images sums are rounded in another order.
            assert np.abs(np.subtract(one[0], other[0])).max() <= 0.01
            assert abs(one[1] - other[1]) <= 1e-5
    assert largest < scene.most_used <= 3 * largest
    assert sample_in(text, "densepose_model_evictions_total", to="disk") >= 3
    states = {model["id"]: model for model in listing}
    here = [name for name, model in states.items() if model["state"] == "ready"]
    assert 1 <= len(here) <= 3
    used = sum(states[name]["bytes_on_device"] for name in here)
    assert used == sample_in(text, "densepose_device_memory_bytes", kind="used")
    assert sample_in(text, "densepose_model_state", state="ready") == len(here)


def test_a_model_that_is_to_go_stays_if_it_is_asked_for_again(tmp_path):
    settings = Settings(model_store=tmp_path, device="cpu", preload=(), device_memory=2**25)
    models = build_models(settings)
    card = models.cards()["demo"]
    try:
        models.request(card).result(60)
        used = models.memory().device_bytes["used"]
        assert 0 < used <= 2**25
        assert models.status_of(card).bytes_on_device == used
        with models.lease("demo"):
            models.unload("demo")
            assert models.memory().device_bytes["used"] == used
            back = models.request(card)
        back.result(60)
        assert models.memory().device_bytes["used"] == used
        assert models.memory().device_bytes["budget"] == 2**25
    finally:
        models.close()


GPU = pytest.param("cuda", "host", marks=pytest.mark.gpu)


@pytest.mark.parametrize(("device", "left_for"), [("cpu", "disk"), GPU])
def test_where_one_fits_two_take_turns_and_answer_as_before(
    tmp_path, monkeypatch, device, left_for
):
    """On CUDA the one that leaves waits in page-locked memory, and comes back from there."""
    monkeypatch.setattr(resident, "STAY_LOADS", 0.0)
    with resources.as_file(resources.files("model_store") / "demo.pkl") as file:
        shapes = parameter_shapes(load_catalogue()["demo"].architecture)
        ModelStore(tmp_path, load_catalogue()).add("other", file, "demo", shapes)
    settings = Settings(model_store=tmp_path, device=device, preload=(), device_memory=2**24)
    metrics = build_metrics({})
    models = build_models(settings, metrics)
    metrics.watch_memory(models.memory)
    cards = models.cards()
    pixels = cv2.resize(cv2.imdecode(np.frombuffer(PHOTO, np.uint8), cv2.IMREAD_COLOR), (320, 320))
    sample = Sample(pixels, pixels.shape[:2], Query(frozenset((Output.LABELS,)), min_score=0.05))
    answers, allocated = {"demo": [], "other": []}, []
    try:
        for _ in range(3):
            for name in ("demo", "other"):
                models.request(cards[name]).result(60)
                (prediction,) = models.predict(name, [sample])
                answers[name].append(prediction.instances)
                if device == "cuda":
                    allocated.append(torch.cuda.memory_allocated())
        text = metrics.exposition().decode()
        residence = models.status_of(cards["demo"])
    finally:
        models.close()
    assert sample_in(text, "densepose_model_evictions_total", to=left_for) == 5
    assert residence.bytes_on_device is None
    assert (residence.state, residence.bytes_on_host is not None) == (
        ("host", True) if device == "cuda" else ("stored", False)
    )
    expected_tiers = {"disk": 2, "host": 4} if device == "cuda" else {"disk": 6, "host": 0}
    for tier, count in expected_tiers.items():
        assert sample_in(text, "densepose_model_loads_total", tier=tier) == count
    assert len(answers["demo"][0]) > 0
    for instances in (*answers["demo"], *answers["other"]):
        assert [one.score for one in instances] == [one.score for one in answers["demo"][0]]
        for one, first in zip(instances, answers["demo"][0], strict=True):
            assert np.array_equal(one.maps["labels"].samples, first.maps["labels"].samples)
    # What left has left the device.
    assert all(later == pytest.approx(allocated[1], rel=0.05) for later in allocated[2:])


@pytest.mark.gpu
def test_running_out_of_a_device_s_memory_is_survived(tmp_path):
    settings = Settings(model_store=tmp_path, device="cuda", preload=())
    models = build_models(settings)
    card = models.cards()["demo"]
    side = 512
    sample = Sample(np.zeros((side, side, 3), np.uint8), (side, side), Query(frozenset()))
    free_bytes, _ = torch.cuda.mem_get_info()
    try:
        models.request(card).result(60)
        models.predict("demo", [sample])
        hog = torch.empty(int(0.97 * free_bytes), dtype=torch.uint8, device="cuda")
        with pytest.raises(OutOfMemory):
            models.predict("demo", [sample] * 512)
        del hog
        torch.cuda.empty_cache()
        assert len(models.predict("demo", [sample] * 2)) == 2
    finally:
        models.close()


def test_loading_and_unloading_again_and_again_takes_no_more_memory(tmp_path):
    """The demo, some times; 200 times a model of full width: python -m load_tests.load_cycles."""
    with load_cycles.served_models(tmp_path, "demo") as (models, card):
        readings = load_cycles.measure(models, card, 30)
    assert load_cycles.growth(readings) <= load_cycles.MAX_GROWTH, readings


@pytest.mark.slow
def test_200_times_a_model_of_full_width_takes_no_more_memory(tmp_path):
    model_id = load_cycles.add_model(tmp_path)
    with load_cycles.served_models(tmp_path, model_id) as (models, card):
        readings = load_cycles.measure(models, card, 200)
    assert load_cycles.growth(readings) <= load_cycles.MAX_GROWTH, readings


def test_for_a_minute_every_fault_together_loses_no_request_and_no_memory(tmp_path):
    """Ten minutes of it: python -m load_tests.faults."""
    accounts = asyncio.run(faults.run(60.0, tmp_path))
    for name, account in accounts.items():
        assert account.complaints() == [], (name, account)
    lasting, ending = accounts["lasting"], accounts["ending"]
    assert lasting.outcomes["200"] > 500
    # Whether a batch that fails has company is chance; test_isolation.py has that.
    for event in lasting.events.keys() - {"batch_splits"}:
        assert lasting.events[event] > 0, event
    # At least once for each way to end.
    assert sum(ending.exit_statuses.values()) >= len(faults.ENDS)
    assert ending.outcomes["503 unhealthy"] > 0
