"""Between the API and the device: admission, loads, draining, what is measured on the way."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from model_store.catalogue import load_catalogue
from model_store.errors import CheckpointUnavailable
from service.batching import engine as engine_module
from service.batching.device_thread import MAX_RESTARTS
from service.batching.engine import Engine, patience_with
from service.datatypes import Instance, Prediction, Query, Sample
from service.errors import (
    DeadlineExceeded,
    DeviceFailed,
    Draining,
    ModelLoading,
    OutOfMemory,
    Overloaded,
    Unhealthy,
)
from service.metrics import Metrics
from service.settings import Settings

DEMO = load_catalogue()["demo"]
OTHER = replace(DEMO, id="other")
CARDS = {"demo": DEMO, "other": OTHER}
TIMEOUT_S = 20.0


@dataclass
class Models:
    """A device side without a device; an image's width is what its answer tells it by."""

    loads: dict[str, Future] = field(default_factory=dict)
    batches: list[list[int]] = field(default_factory=list)
    may_compute: threading.Event = field(default_factory=threading.Event)
    is_computing: threading.Event = field(default_factory=threading.Event)
    too_wide: int = 10**6
    # Whose warm-up was run on which thread, and what becomes of the first ones.
    warm: list[str] = field(default_factory=list)
    cold_errors: list[Exception] = field(default_factory=list)

    def __post_init__(self):
        self.may_compute.set()

    def cards(self):
        return CARDS

    def lease(self, model_id):
        return nullcontext()

    def request(self, card):
        if card.id not in self.loads:
            self.loads[card.id] = Future()
            self.loads[card.id].set_result(None)
        return self.loads[card.id]

    def predict(self, model_id, samples):
        self.is_computing.set()
        assert self.may_compute.wait(TIMEOUT_S)
        widths = [sample.image_size_hw[1] for sample in samples]
        self.batches.append(widths)
        if max(widths) >= self.too_wide:
            raise OutOfMemory("too wide")
        return [Prediction(sample.image_size_hw, (INSTANCE,)) for sample in samples]

    def warm_up(self, model_id):
        self.is_computing.set()
        assert self.may_compute.wait(TIMEOUT_S)
        if self.cold_errors:
            raise self.cold_errors.pop(0)
        self.warm.append(f"{model_id} on {threading.current_thread().name}")

    def close(self):
        pass


INSTANCE = Instance(0.9, 0, (0, 0, 1, 1), (0, 0, 1, 1))


def sample_of(width: int) -> Sample:
    return Sample(np.zeros((32, 32, 3), np.uint8), (32, width), Query(frozenset()))


@dataclass
class Scene:
    """An engine at work, and what its surroundings know."""

    engine: Engine
    models: Models
    metrics: Metrics

    async def ask(self, width=1, *, card=DEMO, timeout_s=TIMEOUT_S) -> Prediction:
        """A request's way through the queue, without HTTP."""
        engine, deadline_s = self.engine, time.monotonic() + timeout_s
        engine.check(card.id)
        with engine.admit():
            await engine.prepare(card, deadline_s)
            return await engine.predict(card, sample_of(width), deadline_s)

    def value(self, name, **labels) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


LIMITS = {"max_batch": 4, "max_queue": 3, "timeout_ms": 30_000, "preload": ()}


@asynccontextmanager
async def running(*, models: Models | None = None, hang_s=None, **changes):
    models, metrics = models or Models(), Metrics({"version": "test"})
    engine = Engine(models, Settings(**LIMITS | changes), metrics, hang_s=hang_s)
    async with engine.running():
        try:
            yield Scene(engine, models, metrics)
        finally:
            models.may_compute.set()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - threads change it, too
            await asyncio.sleep(0.001)


def test_everyone_gets_the_answer_to_his_own_image_with_the_time_in_the_queue():
    async def scene():
        async with running() as it:
            return [await it.ask(width) for width in range(1, 13)]

    answers = asyncio.run(scene())
    assert [answer.image_size_hw[1] for answer in answers] == list(range(1, 13))
    assert all(answer.stage_seconds["queue"] >= 0 for answer in answers)


def test_a_full_queue_refuses_and_has_room_again_when_requests_end():
    async def scene():
        async with running() as it:
            it.models.may_compute.clear()
            tasks = [asyncio.create_task(it.ask(1))]
            await until(it.models.is_computing.is_set)
            # Those on the device are not in the queue, which has room for three.
            tasks += [asyncio.create_task(it.ask(width)) for width in (2, 3, 4)]
            await until(lambda: it.engine.num_accepted == 4)
            with pytest.raises(Overloaded) as caught:
                await it.ask(5)
            assert caught.value.reason == "queue_full"
            assert it.engine.saturation() == 1
            assert it.value("densepose_queue_pending", model="demo") == 3
            it.models.may_compute.set()
            await asyncio.gather(*tasks)
            await it.ask(6)
            assert it.engine.num_accepted == 0

    asyncio.run(scene())


def test_a_client_that_leaves_makes_room_at_once_and_costs_the_device_nothing():
    async def scene():
        async with running() as it:
            it.models.may_compute.clear()
            tasks = [asyncio.create_task(it.ask(1))]
            await until(it.models.is_computing.is_set)
            tasks += [asyncio.create_task(it.ask(width)) for width in (2, 3, 4)]
            await until(lambda: it.value("densepose_queue_pending", model="demo") == 3)
            tasks[2].cancel()
            await until(tasks[2].done)
            assert it.value("densepose_queue_pending", model="demo") == 2
            it.models.may_compute.set()
            await asyncio.gather(tasks[0], tasks[1], tasks[3])
            return it.models.batches

    batches = asyncio.run(scene())
    assert sorted(width for batch in batches for width in batch) == [1, 2, 4]


def test_who_waits_until_the_deadline_is_refused_and_who_is_computed_for_longer_is_told_so():
    async def scene():
        async with running() as it:
            it.models.may_compute.clear()
            computed = asyncio.create_task(it.ask(1, timeout_s=0.1))
            await until(it.models.is_computing.is_set)
            with pytest.raises(Overloaded) as caught:
                await it.ask(2, timeout_s=0.05)
            assert caught.value.reason == "expired"
            with pytest.raises(DeadlineExceeded):
                await computed
            it.models.may_compute.set()
            await it.ask(3)
            return it.models.batches

    assert asyncio.run(scene()) == [[1], [3]]


def test_who_waits_for_a_model_keeps_nobody_from_another():
    async def scene():
        async with running() as it:
            loading = it.models.loads["other"] = Future()
            waiting = [asyncio.create_task(it.ask(width, card=OTHER)) for width in (1, 2, 3)]
            await until(lambda: it.engine.num_accepted == 3)
            await it.ask(4)
            with pytest.raises(ModelLoading):
                await it.ask(5, card=OTHER)
            loading.set_result(None)
            await asyncio.gather(*waiting)

    asyncio.run(scene())


def test_a_model_that_is_not_there_in_time_or_cannot_be_had_is_an_error_of_its_own():
    async def scene():
        async with running() as it:
            it.models.loads["other"] = Future()
            with pytest.raises(ModelLoading):
                await it.ask(card=OTHER, timeout_s=0.02)
            it.models.loads["other"].set_exception(CheckpointUnavailable("offline"))
            with pytest.raises(CheckpointUnavailable):
                await it.ask(card=OTHER)
            assert it.engine.num_accepted == 0

    asyncio.run(scene())


def test_a_batch_that_fails_costs_the_culprit_alone_its_answer():
    async def scene():
        async with running() as it:
            for width in range(1, 13):  # so that larger batches are worth a try
                await it.ask(width)
            it.models.too_wide = 100
            it.models.may_compute.clear()
            it.models.is_computing.clear()
            tasks = [asyncio.create_task(it.ask(1))]
            await until(it.models.is_computing.is_set)
            tasks += [asyncio.create_task(it.ask(width)) for width in (2, 100)]
            await until(lambda: it.value("densepose_queue_pending", model="demo") == 2)
            it.models.may_compute.set()
            return it, await asyncio.gather(*tasks, return_exceptions=True)

    it, (first, second, third) = asyncio.run(scene())
    assert (first.image_size_hw[1], second.image_size_hw[1]) == (1, 2)
    assert isinstance(third, OutOfMemory)
    # Alone it is tried again, as memory was freed for it.
    assert it.models.batches[-4:] == [[2, 100], [2], [100], [100]]
    assert it.value("densepose_out_of_memory_total", model="demo") == 3
    assert it.value("densepose_batch_splits_total", model="demo") == 1


def test_a_device_that_dies_again_and_again_is_not_alive(monkeypatch):
    async def scene():
        async with running() as it:
            monkeypatch.setattr(it.models, "predict", die)
            for _ in range(MAX_RESTARTS + 1):
                assert it.engine.liveness() == (True, "serving")
                with pytest.raises(Unhealthy):
                    await it.ask()
            assert not it.engine.liveness()[0]
            assert not it.engine.readiness()[0]
            with pytest.raises(Unhealthy):
                it.engine.check("demo")

    def die(model_id, samples):
        raise SystemExit("the device is gone")

    asyncio.run(scene())


def test_batches_are_measured():
    async def scene():
        async with running() as it:
            await it.ask(1)
            await until(lambda: it.value("densepose_queue_wait_seconds_count", model="demo"))
            return it

    it = asyncio.run(scene())
    assert it.value("densepose_batches_total", model="demo", trigger="idle") == 1
    assert it.value("densepose_batch_size_sum", model="demo") == 1
    assert it.value("densepose_device_busy_seconds_total", model="demo") > 0


def test_the_event_loop_s_lag_is_measured():
    async def scene():
        async with running() as it:
            await until(lambda: it.value("densepose_event_loop_lag_seconds_count") >= 1)
            before_s = it.value("densepose_event_loop_lag_seconds_sum")
            time.sleep(0.3)  # noqa: ASYNC251 - what must not happen
            await until(lambda: it.value("densepose_event_loop_lag_seconds_count") >= 2)
            return it.value("densepose_event_loop_lag_seconds_sum") - before_s

    assert asyncio.run(scene()) > 0.15


def test_a_preloaded_model_counts_as_ready_when_it_is_warm():
    async def scene():
        async with running(preload=["demo"]) as it:
            it.models.may_compute.clear()
            await until(it.models.is_computing.is_set)
            assert it.engine.readiness() == (False, "demo: is being loaded")
            it.models.may_compute.set()
            await until(lambda: it.engine.readiness()[0])
            assert it.models.warm == ["demo on device"]
            await it.ask()
            return it.models.batches

    assert asyncio.run(scene()) == [[1]]


def test_a_warm_up_that_fails_is_tried_again_whatever_it_was(monkeypatch, caplog):
    monkeypatch.setattr(engine_module, "FIRST_PRELOAD_BACKOFF_S", 0.001)
    models = Models(cold_errors=[OutOfMemory("not now")] * 2 + [RuntimeError("defect")])

    async def scene():
        async with running(preload=["demo"], models=models) as it:
            await until(lambda: it.engine.readiness()[0])
            assert it.value("densepose_out_of_memory_total", model="demo") == 2

    asyncio.run(scene())
    failures = [record for record in caplog.records if record.message == "preload failed"]
    assert [str(one.exc_info and one.exc_info[1]) for one in failures] == ["None", "defect"]


def test_a_device_that_is_lost_by_a_load_that_nobody_waited_for_is_lost():
    async def scene():
        async with running() as it:
            it.models.loads["other"] = Future()
            it.models.loads["other"].set_exception(DeviceFailed("gone", reason="launch failure"))
            with pytest.raises(DeviceFailed):
                await it.ask(card=OTHER)
            assert it.engine.liveness() == (False, "launch failure")

    asyncio.run(scene())


def test_a_model_that_cannot_be_preloaded_keeps_the_service_unready_and_is_tried_again(
    monkeypatch,
):
    monkeypatch.setattr(engine_module, "FIRST_PRELOAD_BACKOFF_S", 0.001)
    models = Models()
    models.loads["demo"] = Future()
    models.loads["demo"].set_exception(CheckpointUnavailable("pull it on another machine"))

    async def scene():
        async with running(preload=["demo"], models=models) as it:
            assert it.engine.readiness() == (False, "demo: is being loaded")
            await until(lambda: "another machine" in it.engine.readiness()[1])
            assert it.engine.liveness() == (True, "serving")
            await it.ask(card=OTHER)
            del models.loads["demo"]
            await until(lambda: it.engine.readiness()[0])

    asyncio.run(scene())


def test_a_draining_service_is_not_ready_but_serves_until_it_is_closed():
    async def scene():
        async with running() as it:
            assert it.engine.readiness() == (True, "serving")
            it.models.may_compute.clear()
            accepted = asyncio.create_task(it.ask(1))
            await until(it.models.is_computing.is_set)
            it.engine.drain()
            assert it.engine.readiness() == (False, "draining")
            assert it.engine.liveness()[0]
            late = asyncio.create_task(it.ask(2))
            await until(lambda: it.engine.num_accepted == 2)
            it.engine.close()
            with pytest.raises(Draining):
                await it.ask(3)
            it.models.may_compute.set()
            await asyncio.gather(accepted, late)
            assert it.engine.num_accepted == 0

    asyncio.run(scene())


@pytest.mark.parametrize("is_everyone_told", [False, True])
def test_in_a_hurry_those_who_wait_are_told_and_at_the_limit_everyone(is_everyone_told):
    async def scene():
        async with running() as it:
            it.models.may_compute.clear()
            computed = asyncio.create_task(it.ask(1))
            await until(it.models.is_computing.is_set)
            waiting = asyncio.create_task(it.ask(2))
            await until(lambda: it.engine.num_accepted == 2)
            if is_everyone_told:
                it.engine.abandon()
                with pytest.raises(Draining):
                    await computed
            else:
                it.engine.hurry()
            with pytest.raises(Draining):
                await waiting
            it.models.may_compute.set()
            if not is_everyone_told:
                await computed

    asyncio.run(scene())


def test_in_a_hurry_those_who_wait_for_a_model_are_told_too():
    async def scene():
        async with running() as it:
            it.models.loads["other"] = Future()
            waiting = asyncio.create_task(it.ask(card=OTHER))
            await until(lambda: it.engine.num_accepted == 1)
            it.engine.hurry()
            with pytest.raises(Draining):
                await waiting

    asyncio.run(scene())


def test_a_model_that_left_before_its_image_was_decoded_is_waited_for_again():
    class Leaving(Models):
        num_requests = 0

        def request(self, card):
            self.num_requests += 1
            return super().request(card)

        def lease(self, model_id):
            # Gone at first, and back when it was asked for once more.
            return nullcontext() if self.num_requests > 1 else None

    async def scene():
        async with running(models=Leaving()) as it:
            await it.ask(7)
            return it.models

    models = asyncio.run(scene())
    assert (models.num_requests, models.batches) == (2, [[7]])


def test_a_model_is_leased_for_as_long_as_its_image_waits_and_is_computed():
    class Leased(Models):
        num_leases = 0

        @contextmanager
        def lease(self, model_id):
            self.num_leases += 1
            try:
                yield
            finally:
                self.num_leases -= 1

    async def scene():
        async with running(models=Leased()) as it:
            it.models.may_compute.clear()
            tasks = [asyncio.create_task(it.ask(width)) for width in (1, 2)]
            await until(lambda: it.models.num_leases == 2)
            tasks[1].cancel()
            await until(lambda: it.models.num_leases == 1)
            it.models.may_compute.set()
            await tasks[0]
            assert it.models.num_leases == 0

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("error", "reason"),
    [(DeviceFailed("gone", reason="no such device"), "device"), (SystemExit("dead"), "thread")],
)
def test_a_lost_device_is_told_to_everyone_and_stays_lost(error, reason):
    class Lost(Models):
        def predict(self, model_id, samples):
            raise error

    async def scene():
        async with running(models=Lost(), preload=["other"]) as it:
            async with asyncio.timeout(TIMEOUT_S):
                while it.engine.failure is None:
                    with pytest.raises(Unhealthy):
                        await it.ask()
            for probe in (it.engine.liveness, it.engine.readiness):
                assert probe() == (False, it.engine.failure.message)
            it.engine.drain()
            assert it.engine.readiness() == (False, it.engine.failure.message)
            return it

    it = asyncio.run(scene())
    assert it.engine.failure.reason == reason
    assert it.value("densepose_fatal_errors_total", reason=reason) == 1
    assert it.value("densepose_fatal_errors_total", reason="watchdog") == 0


def test_a_device_that_is_lost_while_a_model_is_loaded_is_lost():
    async def scene():
        async with running() as it:
            loading = it.models.loads["other"] = Future()
            waiting = asyncio.create_task(it.ask(card=OTHER))
            await until(lambda: it.engine.num_accepted == 1)
            loading.set_exception(DeviceFailed("gone", reason="launch failure"))
            with pytest.raises(Unhealthy):
                await waiting
            assert it.engine.liveness() == (False, "launch failure")

    asyncio.run(scene())


def test_a_device_that_hangs_is_found_out_by_the_watchdog(monkeypatch):
    monkeypatch.setattr(engine_module, "WATCH_PERIOD_S", 0.01)

    async def scene():
        async with running(hang_s=0.05) as it:
            it.models.may_compute.clear()
            with pytest.raises(Unhealthy):
                await it.ask()
            return it

    it = asyncio.run(scene())
    assert it.engine.failure.reason == "watchdog"


def test_when_the_device_is_lost_those_who_wait_for_a_model_are_told_too(monkeypatch):
    monkeypatch.setattr(engine_module, "WATCH_PERIOD_S", 0.01)

    async def scene():
        async with running(hang_s=0.05) as it:
            it.models.loads["other"] = Future()
            waiting = asyncio.create_task(it.ask(card=OTHER))
            it.models.may_compute.clear()
            for task in (asyncio.create_task(it.ask()), waiting):
                with pytest.raises(Unhealthy):
                    await task
            assert it.engine.num_accepted == 0

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("timeout_ms", "batch_s", "first_s"), [(1000, 60, 600), (300_000, 1200, 1200)]
)
def test_a_batch_hangs_when_nobody_can_wait_for_it_any_more(timeout_ms, batch_s, first_s):
    patience = patience_with(Settings(timeout_ms=timeout_ms), None)
    assert (patience.batch_s, patience.first_batch_s) == (batch_s, first_s)
