import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from model_store.catalogue import ModelCard, load_catalogue
from model_store.errors import CheckpointUnavailable
from service.errors import ModelLoading, OutOfMemory
from service.inference.resident import LoadedModel, ResidentModels

DEMO = load_catalogue()["demo"]
OTHER = replace(DEMO, id="other")
TIMEOUT_S = 20


class StandIn:
    """In the place of a predictor."""

    def predict_batch(self, samples: Any) -> Any:
        if samples == "too many":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(samples)


def load_stand_in(card: ModelCard) -> LoadedModel:
    return LoadedModel(StandIn(), ("pixel_mean",))  # type: ignore[arg-type]


def resident(load: Callable[[ModelCard], LoadedModel]) -> ResidentModels:
    return ResidentModels(load, is_stored=lambda card: True, fetch=lambda card: None)


def test_a_model_is_loaded_once_however_many_ask() -> None:
    loads = []
    may_load = threading.Event()

    def load(card: ModelCard) -> LoadedModel:
        assert may_load.wait(TIMEOUT_S)
        loads.append(card.id)
        return load_stand_in(card)

    models = resident(load)
    with ThreadPoolExecutor(8) as pool:
        requests = [pool.submit(models.request, card) for card in (DEMO, OTHER) * 8]
        futures = {id(request.result()): request.result() for request in requests}
        may_load.set()
    assert len(futures) == 2
    loaded = {future.result(TIMEOUT_S).unused_arrays for future in futures.values()}
    assert loaded == {("pixel_mean",)}
    assert sorted(loads) == ["demo", "other"]
    models.close()


def test_a_load_that_failed_is_tried_again_at_the_next_request() -> None:
    attempts = []

    def load(card: ModelCard) -> LoadedModel:
        attempts.append(card.id)
        if len(attempts) == 1:
            raise CheckpointUnavailable("not there yet")
        return load_stand_in(card)

    models = resident(load)
    assert models.find("demo") is None
    with pytest.raises(CheckpointUnavailable):
        models.request(DEMO).result(TIMEOUT_S)
    assert models.request(DEMO).result(TIMEOUT_S) is models.request(DEMO).result(TIMEOUT_S)
    assert len(attempts) == 2
    models.close()


def test_a_batch_that_does_not_fit_is_an_error_of_ours() -> None:
    models = resident(load_stand_in)
    models.request(DEMO).result(TIMEOUT_S)
    assert models.predict("demo", ["sample"]) == ["sample"]  # type: ignore[list-item, comparison-overlap]
    with pytest.raises(OutOfMemory):
        models.predict("demo", "too many")  # type: ignore[arg-type]
    models.close()


def test_a_model_that_is_not_stored_is_fetched_once_and_holds_up_no_other() -> None:
    fetched, may_fetch = [], threading.Event()

    def fetch(card: ModelCard) -> None:
        assert may_fetch.wait(TIMEOUT_S)
        fetched.append(card.id)

    models = ResidentModels(load_stand_in, is_stored=lambda card: card.id == "demo", fetch=fetch)
    absent = [models.request(OTHER) for _ in range(3)]
    assert models.request(DEMO).result(TIMEOUT_S)
    assert not absent[0].done()
    may_fetch.set()
    assert len({id(load.result(TIMEOUT_S)) for load in absent}) == 1
    assert fetched == ["other"]
    models.close()


def test_a_model_that_was_unloaded_is_loaded_again() -> None:
    loads = []

    def load(card: ModelCard) -> LoadedModel:
        loads.append(card.id)
        return load_stand_in(card)

    models = resident(load)
    models.request(DEMO).result(TIMEOUT_S)
    models.unload("demo")
    models.unload("never loaded")
    assert models.find("demo") is None
    with pytest.raises(ModelLoading):
        models.predict("demo", [])
    models.request(DEMO).result(TIMEOUT_S)
    assert loads == ["demo", "demo"]
    models.close()
