"""The loader's thread: who is loaded, who leaves, and who is told what; sizes are declared."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from model_store.catalogue import ModelCard, load_catalogue
from model_store.errors import CheckpointUnavailable
from model_store.store import StoredState
from service.datatypes import ModelStatus
from service.errors import DeviceFailed, Draining, ModelLoading, OutOfMemory, Unhealthy
from service.metrics import Metrics
from service.residency import resident
from service.residency.device import MemoryBudget
from service.residency.resident import Policy, ResidentModels

DEMO = load_catalogue()["demo"]
TIMEOUT_S = 20


def card_of(name: str) -> ModelCard:
    return replace(DEMO, id=name)


class Predictor:
    """In the place of the real one; knows whether it is still there."""

    def __init__(self, card: ModelCard, num_bytes: int, source: "Source") -> None:
        self.card = card
        self.num_bytes = num_bytes
        self.source = source
        self.source.num_alive += 1

    def __del__(self) -> None:
        self.source.num_alive -= 1

    def warm_up(self) -> None:
        self.source.device_calls.append("warm up")
        if self.source.errors:
            raise self.source.errors.pop(0)

    def free_graphs(self) -> None:
        self.source.device_calls.append(f"free graphs on {threading.current_thread().name}")

    def predict_batch(self, samples: Any) -> Any:
        if isinstance(samples, Exception):
            raise samples
        if callable(samples):
            samples()
        return [samples]


@dataclass
class Source:
    """A store and a device that note what is asked of them; each array has one value."""

    budget: MemoryBudget
    sizes: dict[str, int] = field(default_factory=dict)
    builds: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    errors: list[BaseException] = field(default_factory=list)
    may_build: threading.Event = field(default_factory=threading.Event)
    may_fetch: threading.Event = field(default_factory=threading.Event)
    # In their order: of predictors, and of memory that is given back.
    device_calls: list[str] = field(default_factory=list)
    num_given_back: int = 0
    num_alive: int = 0
    most_alive: int = 0

    def __post_init__(self) -> None:
        self.may_build.set()
        self.may_fetch.set()

    @property
    def cards(self) -> dict[str, ModelCard]:
        return {name: card_of(name) for name in "abcd"}

    def state(self, card: ModelCard) -> StoredState:
        return StoredState("absent" if card.id in self.absent else "stored", 0)

    def is_converted(self, card: ModelCard) -> bool:
        return card.id not in self.absent

    def pull(self, card: ModelCard, progress: Any) -> None:
        assert self.may_fetch.wait(TIMEOUT_S)
        self.fetched.append(card.id)

    def close(self) -> None:
        pass

    def load_arrays(self, card: ModelCard, progress: Any) -> dict[str, Any]:
        if card.id in self.unreadable:
            raise CheckpointUnavailable("gone")
        self.reads.append(card.id)
        return {"weight": np.zeros(self.sizes.get(card.id, 1), np.float32)}

    def load(self, card: ModelCard, arrays: Any) -> tuple[Predictor, tuple[str, ...]]:
        assert self.may_build.wait(TIMEOUT_S)
        self.builds.append(card.id)
        if self.errors:
            raise self.errors.pop(0)
        predictor = Predictor(card, len(arrays["weight"]), self)
        self.most_alive = max(self.most_alive, self.num_alive)
        return predictor, ("pixel_mean",)

    def count_bytes(self, arrays: Any) -> int:
        return len(arrays["weight"])

    def copy(self, arrays: Any) -> Any:
        return dict(arrays)

    def give_back_memory(self) -> None:
        self.num_given_back += 1
        self.device_calls.append("give back")


@dataclass
class Scene:
    """Models at work, and what their surroundings know."""

    models: ResidentModels
    source: Source
    metrics: Metrics

    def load(self, name: str) -> None:
        self.models.request(card_of(name)).result(TIMEOUT_S)

    def place(self, name: str) -> str | None:
        """Where it is in memory, if anywhere."""
        state = self.status(name).state
        return None if state in {"stored", "absent"} else state

    def status(self, name: str) -> ModelStatus:
        return self.models.status_of(card_of(name))

    def used_bytes(self) -> int:
        return self.models.memory().device_bytes["used"]

    def is_leaving(self, name: str) -> bool:
        lease = self.models.lease(name)
        if lease is None:
            return True
        with lease:
            return False

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Scene]]:
    monkeypatch.setattr(resident, "MIN_STAY_S", 0.0)
    scenes = []

    def build(
        budget: int = 100, host: int = 0, kept: str = "", max_stay_s: float = 0.0, **source: Any
    ) -> Scene:
        surroundings: Any = Source(MemoryBudget(budget, host, 1000), **source)
        metrics, policy = Metrics({}), Policy(preload=tuple(kept), max_stay_s=max_stay_s)
        models = ResidentModels(surroundings, surroundings, policy, metrics)
        scenes.append(Scene(models, surroundings, metrics))
        return scenes[-1]

    yield build
    for scene in scenes:
        scene.source.may_build.set()
        scene.source.may_fetch.set()
        scene.models.close()


Make = Callable[..., Scene]


def until(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.001)


def test_a_model_is_loaded_once_however_many_ask(make: Make) -> None:
    scene = make()
    scene.source.may_build.clear()
    with ThreadPoolExecutor(8) as pool:
        requests = [pool.submit(scene.models.request, card_of(name)) for name in "ab" * 8]
        loads = {id(request.result()): request.result() for request in requests}
        scene.source.may_build.set()
    assert len(loads) == 2
    for load in loads.values():
        load.result(TIMEOUT_S)
    assert sorted(scene.source.builds) == ["a", "b"]
    assert scene.status("a").unused_arrays == ("pixel_mean",)


def test_a_load_that_failed_is_tried_again_at_the_next_request(make: Make) -> None:
    scene = make(errors=[CheckpointUnavailable("not there yet")])
    assert scene.place("a") is None
    with pytest.raises(CheckpointUnavailable):
        scene.load("a")
    assert scene.place("a") == "failed"
    scene.load("a")
    scene.load("a")
    assert scene.place("a") == "ready"
    assert scene.source.builds == ["a", "a"]
    assert scene.used_bytes() == 1


def test_a_load_that_dies_ends_nobody_else_s(make: Make) -> None:
    scene = make(errors=[SystemExit("gone")])
    with pytest.raises(Unhealthy):
        scene.load("a")
    scene.load("b")


def test_a_model_that_is_not_stored_is_fetched_once_and_holds_up_no_other(make: Make) -> None:
    scene = make(absent={"a"})
    scene.source.may_fetch.clear()
    absent = [scene.models.request(card_of("a")) for _ in range(3)]
    scene.load("b")
    assert not absent[0].done()
    scene.source.may_fetch.set()
    for load in absent:
        load.result(TIMEOUT_S)
    assert scene.source.fetched == ["a"]
    assert scene.source.reads.count("a") == 1


def test_no_copy_is_kept_of_a_model_that_would_have_to_be_converted_for_it(make: Make) -> None:
    scene = make(1, host=10, absent={"a"})
    scene.load("a")
    scene.load("b")
    scene.load("c")
    assert scene.place("a") is None
    assert scene.place("b") == "host"
    assert scene.source.reads.count("a") == 1


def test_a_model_makes_room_for_another_and_its_memory_is_free_by_then(make: Make) -> None:
    scene = make(3)
    for name in "abcabcdabcd":
        scene.load(name)
    assert scene.source.most_alive == scene.source.num_alive == 3
    assert scene.used_bytes() == 3
    evictions = sum(
        scene.value("densepose_model_evictions_total", model=name, to="disk") for name in "abcd"
    )
    loads = sum(
        scene.value("densepose_model_loads_total", model=name, tier="disk") for name in "abcd"
    )
    assert loads == evictions + 3
    assert scene.source.num_given_back == evictions
    assert scene.value("densepose_model_load_duration_seconds_count", tier="disk") == loads


def test_a_model_that_is_leased_stays_until_it_is_released(make: Make) -> None:
    scene = make(1)
    scene.load("a")
    lease = scene.models.lease("a")
    assert lease is not None
    with lease:
        coming = scene.models.request(card_of("b"))
        until(lambda: scene.is_leaving("a"))
        # Those who have a lease are served.
        assert scene.models.predict("a", "sample") == ["sample"]  # type: ignore[arg-type, comparison-overlap]
        assert not coming.done()
        back = scene.models.request(card_of("a"))
        assert scene.place("a") == "loading"
    coming.result(TIMEOUT_S)
    back.result(TIMEOUT_S)
    assert scene.source.builds == ["a", "b", "a"]


def test_a_batch_keeps_its_model_though_nobody_waits_for_it(make: Make) -> None:
    scene = make(1)
    scene.load("a")
    is_computing, may_end = threading.Event(), threading.Event()

    def compute() -> None:
        is_computing.set()
        assert may_end.wait(TIMEOUT_S)

    with ThreadPoolExecutor(1) as device:
        batch = device.submit(scene.models.predict, "a", compute)  # type: ignore[arg-type]
        assert is_computing.wait(TIMEOUT_S)
        coming = scene.models.request(card_of("b"))
        until(lambda: scene.is_leaving("a"))
        assert scene.source.builds == ["a"]
        may_end.set()
        batch.result(TIMEOUT_S)
        coming.result(TIMEOUT_S)
    assert scene.source.most_alive == 1


def test_a_model_just_loaded_stays_for_a_while(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make(1, max_stay_s=0.3)
    monkeypatch.setattr(resident, "MIN_STAY_S", 0.3)
    scene.load("a")
    loaded_s = time.monotonic()
    scene.load("b")
    assert time.monotonic() - loaded_s > 0.2


def test_one_that_does_not_fit_is_told_so_and_others_stay(make: Make) -> None:
    scene = make(2, sizes={"large": 3})
    scene.load("a")
    with pytest.raises(OutOfMemory):
        scene.load("large")
    assert (scene.place("a"), scene.place("large")) == ("ready", "failed")


def test_what_is_preloaded_does_not_leave(make: Make) -> None:
    scene = make(2, kept="a")
    for name in "abcbc":
        scene.load(name)
    assert scene.source.builds == ["a", "b", "c", "b", "c"]


def test_a_model_leaves_for_host_memory_and_comes_back_from_there(make: Make) -> None:
    scene = make(1, host=100)
    scene.load("a")
    scene.load("b")
    residence = scene.status("a")
    assert (residence.state, residence.bytes_on_device, residence.bytes_on_host) == (
        "host",
        None,
        4,
    )
    num_reads = len(scene.source.reads)
    scene.load("a")
    assert scene.value("densepose_model_loads_total", model="a", tier="host") == 1
    assert scene.value("densepose_model_evictions_total", model="a", to="host") == 1
    # The other's copy was made then, and its own is there still.
    assert scene.source.reads[num_reads:] == ["b"]
    assert scene.status("a").bytes_on_host == 4


def test_copies_leave_the_host_when_its_budget_is_used_up(make: Make) -> None:
    scene = make(1, host=8)
    for name in "abcd":
        scene.load(name)
    assert [scene.place(name) for name in "abcd"] == [None, "host", "host", "ready"]
    assert scene.value("densepose_model_evictions_total", model="a", to="disk") == 1


def test_a_model_that_was_unloaded_is_gone_from_the_host_too_and_is_loaded_again(
    make: Make,
) -> None:
    scene = make(host=100)
    scene.load("a")
    scene.models.unload("a")
    scene.models.unload("never loaded")
    until(lambda: scene.place("a") is None)
    with pytest.raises(ModelLoading):
        scene.models.predict("a", [])
    until(lambda: scene.source.num_alive == 0)
    scene.load("a")
    assert scene.source.builds == ["a", "a"]


def test_a_model_whose_file_has_gone_leaves_without_a_copy(make: Make) -> None:
    scene = make(1, host=100)
    scene.load("a")
    scene.source.unreadable.add("a")
    scene.load("b")
    assert scene.place("a") is None


def test_a_load_that_runs_out_of_memory_is_tried_once_more(make: Make) -> None:
    scene = make(errors=[torch.OutOfMemoryError("CUDA out of memory")])
    scene.load("a")
    assert scene.source.num_given_back == 1
    scene.source.errors += [MemoryError(), MemoryError()]
    with pytest.raises(OutOfMemory):
        scene.load("b")
    assert scene.used_bytes() == 1


def test_a_device_that_is_lost_in_a_load_is_said_to_be(make: Make) -> None:
    scene = make(errors=[torch.AcceleratorError("CUDA error: unspecified launch failure")])
    with pytest.raises(DeviceFailed) as caught:
        scene.load("a")
    assert "launch failure" in caught.value.reason


def test_a_batch_that_does_not_fit_frees_what_can_be_and_is_an_error_of_ours(make: Make) -> None:
    scene = make()
    scene.load("a")
    with pytest.raises(OutOfMemory):
        scene.models.predict("a", torch.OutOfMemoryError("CUDA out of memory"))  # type: ignore[arg-type]
    assert scene.source.num_given_back == 1
    with pytest.raises(ZeroDivisionError):
        scene.models.predict("a", ZeroDivisionError())  # type: ignore[arg-type]


def test_the_graphs_of_all_models_go_before_memory_is_given_back_where_the_device_is_used(
    make: Make,
) -> None:
    scene = make()
    scene.load("a")
    scene.load("b")
    with (
        ThreadPoolExecutor(1, thread_name_prefix="device") as device,
        pytest.raises(OutOfMemory),
    ):
        device.submit(scene.models.predict, "a", torch.OutOfMemoryError()).result(TIMEOUT_S)  # type: ignore[arg-type]
    freed = "free graphs on device_0"
    assert scene.source.device_calls == [freed, freed, "give back"]


def test_a_model_warms_up_once_it_is_loaded_and_may_run_out_of_memory(make: Make) -> None:
    scene = make()
    with pytest.raises(ModelLoading):
        scene.models.warm_up("a")
    scene.load("a")
    scene.models.warm_up("a")
    scene.source.errors.append(torch.OutOfMemoryError())
    with pytest.raises(OutOfMemory):
        scene.models.warm_up("a")
    assert [call.partition(" on ")[0] for call in scene.source.device_calls] == [
        "warm up",
        "warm up",
        "free graphs",
        "give back",
    ]


def test_at_the_end_whoever_waits_for_a_model_is_told(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make(1, max_stay_s=3600.0)
    monkeypatch.setattr(resident, "MIN_STAY_S", 3600.0)
    scene.load("a")
    waiting = [scene.models.request(card_of(name)) for name in "bc"]
    scene.models.close()
    for load in (*waiting, scene.models.request(card_of("d"))):
        with pytest.raises(Draining):
            load.result(0)
