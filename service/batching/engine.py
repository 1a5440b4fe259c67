"""Between the API and the device side: who comes in, what is loaded, and how it ends.

It is given the device side as `Models`, and knows neither torch nor HTTP.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

import numpy as np

from model_store.catalogue import ModelCard, find_model
from model_store.errors import ModelStoreError
from service.batching.admission import Admission, Stage
from service.batching.device_thread import BatchReport, DeviceThread, Failure, Patience
from service.batching.scheduler import Budget, Scheduler, waited_in_vain
from service.batching.ticket import PARTY, BatchKey, Ticket
from service.datatypes import ModelStatus, Prediction, Query, Sample
from service.errors import (
    DeadlineExceeded,
    DeviceFailed,
    Draining,
    ModelLoading,
    ServiceError,
    Unhealthy,
)
from service.metrics import Metrics
from service.settings import Settings

logger = logging.getLogger(__name__)

# Where whoever waits for a model is counted meanwhile.
Aside: TypeAlias = Callable[[str], AbstractContextManager[str | None]]

FIRST_PRELOAD_BACKOFF_S, MAX_PRELOAD_BACKOFF_S = 1.0, 300.0
WARM_UP_TIMEOUT_S = 600.0
# A batch that takes so many times what a request may take is one that nobody waits for any more;
# the floor is for operators who allow little, and the first batch of a model for kernels that are
# chosen, compiled and loaded.
HANG_TIMEOUTS, MIN_HANG_S, FIRST_HANG_S = 4.0, 60.0, 600.0
WATCH_PERIOD_S = 0.25
LAG_PERIOD_S = 0.1
# What stands for the image of a warm-up, and for what is found.
NO_SIZE = (0, 0)
NO_IMAGE = Sample(np.zeros((*NO_SIZE, 3), np.uint8), NO_SIZE, Query(frozenset()))
NOTHING = Prediction(NO_SIZE, ())
# Of a batch's instances, all together: somewhat more than requests may find by default.
INSTANCES_PER_IMAGE = 32


class Models(Protocol):
    """The device side: the models that are served, and where they are."""

    def cards(self) -> Mapping[str, ModelCard]:
        """All of them, by id."""

    def status_of(self, card: ModelCard, /) -> ModelStatus:
        """Where a model is, and what it takes there."""

    def request(self, card: ModelCard, /) -> Future[Any]:
        """Done when the model is loaded, or could not be; loads it where that is needed."""

    def lease(self, model_id: str, /) -> AbstractContextManager[object] | None:
        """Keeps a model loaded for the length of a block; None where it has left meanwhile."""

    def unload(self, model_id: str, /) -> None:
        """Gives up a model when nobody uses it any more."""

    def predict(
        self, model_id: str, samples: Sequence[Sample], /
    ) -> Sequence[Prediction | Exception]:
        """What a loaded model says of samples of one padded size; on the device's thread alone."""

    def warm_up(self, model_id: str, /) -> None:
        """Does once what a loaded model's first requests would wait for; there as well."""

    def close(self) -> None:
        """Wait for what is under way, and start nothing else."""


class Engine:
    """Takes images to the device and answers back; starts, drains and stops. The event loop's."""

    def __init__(
        self,
        models: Models,
        settings: Settings,
        metrics: Metrics,
        stages: Sequence[Stage] = (),
        *,
        hang_s: float | None = None,
    ) -> None:
        """`stages` are the threads that requests pass beside the device.

        A batch that takes longer than `hang_s` hangs; by default that follows from `timeout_ms`.
        """
        self.models = models
        self._metrics = metrics
        self._timeout_s = settings.timeout_ms / 1000
        self._device = DeviceThread[Sample, Prediction](
            self._run,
            Scheduler(_budget(settings), max_delay_s=settings.max_delay_ms / 1000),
            count_instances=lambda prediction: len(prediction.instances),
            on_batch=self._measure,
            on_failure=self._measure_failure,
            patience=patience_with(settings, hang_s),
        )
        self._admission = Admission(self._device, max_queue=settings.max_queue, stages=stages)
        self._measured_models = set[str]()
        # Why the service is not ready, by the model that it waits for.
        self._awaited = dict.fromkeys(settings.preload, "is being loaded")
        self.is_draining = False
        self._is_hurried = False
        # Of those who wait for a model, so that a hurry ends that.
        self._load_timeouts = set[asyncio.Timeout]()

    @property
    def num_accepted(self) -> int:
        """Requests that were accepted and have not ended."""
        return self._admission.num_accepted

    @property
    def failure(self) -> Failure | None:
        """Why nothing can be computed any more in this process; None: all is well."""
        return self._device.failure

    @property
    def is_over(self) -> bool:
        """Whether clients should take their next request elsewhere."""
        return self.is_draining or self.failure is not None

    def check(self, model_id: str | None) -> None:
        """Raises at once what `admit` would, about a model if it is known by then."""
        self._admission.check(model_id, PARTY.get())

    def admit(self) -> AbstractContextManager[None]:
        """Accepts a request for the length of a block.

        Raises:
            Draining, Unhealthy, Overloaded: it is not accepted.
        """
        return self._admission.admit(PARTY.get())

    async def prepare(self, card: ModelCard, deadline_s: float) -> None:
        """Waits for the model of an accepted request; deadlines are of `time.monotonic()`.

        Raises:
            Overloaded: the device could not serve the request in time.
            ServiceError, ModelStoreError: the model cannot be had.
        """
        await self._load(card, deadline_s, self._step_aside)
        self._admission.check_turn(card.id, PARTY.get(), deadline_s - time.monotonic())

    async def predict(self, card: ModelCard, sample: Sample, deadline_s: float) -> Prediction:
        """What the model finds in an accepted request's image; cancelling it drops the work."""
        with await self._lease(card, deadline_s, self._step_aside):
            if self._is_hurried:
                raise _shutting_down()
            ticket = _ticket(card, sample, deadline_s)
            self._measure_queue_of(card.id)
            prediction = await self._run_ticket(ticket)
        queue_s = (ticket.started_s or ticket.queued_s) - ticket.queued_s
        return replace(prediction, stage_seconds={"queue": queue_s, **prediction.stage_seconds})

    def wait_s(self) -> float:
        """Estimated seconds until what is queued now is done."""
        return self._device.wait_s()

    def saturation(self) -> float:
        """How near the queue is to refusing: 1."""
        return max(self._admission.fill, self._device.wait_s() / self._timeout_s)

    def readiness(self) -> tuple[bool, str]:
        """Whether requests should be sent here, and why not."""
        is_alive, reason = self.liveness()
        if is_alive and self.is_draining:
            return False, "draining"
        if is_alive and self._awaited:
            name, reason = next(iter(self._awaited.items()))
            return False, f"{name}: {reason}"
        return is_alive, reason

    def liveness(self) -> tuple[bool, str]:
        """Whether the device can be used; where not, only another process could."""
        if self._device.failure is None:
            return True, "serving"
        return False, self._device.failure.message

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Preloads while the block runs; at its end finishes what was accepted."""
        tasks = [asyncio.create_task(self._preload(name)) for name in self._awaited]
        tasks.append(asyncio.create_task(self._watch_event_loop()))
        tasks.append(asyncio.create_task(self._watch_device()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.to_thread(self._device.stop)
            if self.failure is None:
                await asyncio.to_thread(self.models.close)

    def drain(self) -> None:
        """Says that no more requests should come; those that come are served. Signal-safe."""
        self.is_draining = True

    def close(self) -> None:
        """Refuses new requests; what was accepted is finished."""
        self.is_draining = self._admission.is_closed = True

    def hurry(self) -> None:
        """Gives up the requests that wait; those on the device are finished."""
        self.close()
        self._is_hurried = True
        self._end_waits_for_models()
        self._device.refuse_waiting(_shutting_down())

    def abandon(self) -> None:
        """Gives up all requests, those on the device too."""
        self.hurry()
        self._device.abandon(_shutting_down())

    def _end_waits_for_models(self) -> None:
        for timeout in self._load_timeouts:
            if not timeout.expired():
                timeout.reschedule(asyncio.get_running_loop().time())

    def _step_aside(self, model_id: str) -> AbstractContextManager[None]:
        return self._admission.step_aside(model_id, PARTY.get())

    async def _lease(
        self, card: ModelCard, deadline_s: float, aside: Aside
    ) -> AbstractContextManager[object]:
        """The model, until the end of a block; waited for again if it has made room for others."""
        while (lease := self.models.lease(card.id)) is None:
            await self._load(card, deadline_s, aside)
        return lease

    async def _load(self, card: ModelCard, deadline_s: float, aside: Aside) -> None:
        load = self.models.request(card)
        try:
            if not load.done():
                with aside(card.id):
                    await self._wait_for(load, card, deadline_s)
            load.result()
        except DeviceFailed as error:
            self._device.fail(Failure("device", error.reason))
            raise

    async def _wait_for(self, load: Future[Any], card: ModelCard, deadline_s: float) -> None:
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()) as timeout:
                self._load_timeouts.add(timeout)
                loading = asyncio.wrap_future(load)
                loading.add_done_callback(_notice)
                # Others wait for the same load.
                await asyncio.shield(loading)
        except TimeoutError:
            if self.failure is not None:
                raise Unhealthy("The device has failed: try another replica.") from None
            if self._is_hurried:
                raise _shutting_down() from None
            raise ModelLoading(f"{card.id} is being loaded: try again in a moment.") from None
        finally:
            self._load_timeouts.discard(timeout)

    async def _run_ticket(self, ticket: Ticket[Sample, Prediction]) -> Prediction:
        self._device.submit(ticket)
        try:
            async with asyncio.timeout(ticket.deadline_s - time.monotonic()):
                return await asyncio.wrap_future(ticket.result)
        except TimeoutError:
            if ticket.started_s is None:
                raise waited_in_vain(self._device.wait_s()) from None
            raise DeadlineExceeded(
                "The image was not described in time: send a smaller one, ask for less, or allow "
                "more with timeout_ms."
            ) from None
        finally:
            if ticket.started_s is None:
                self._device.withdraw(ticket)

    def _run(self, key: BatchKey, samples: Sequence[Sample]) -> Sequence[Prediction | Exception]:
        if key.is_warm_up:
            self.models.warm_up(key.model_id)
            return [NOTHING] * len(samples)
        return self.models.predict(key.model_id, samples)

    def _measure(self, report: BatchReport[Sample, Prediction]) -> None:
        """Publishes a batch; on the device's thread."""
        batch, metrics, model = report.batch, self._metrics, report.batch.key.model_id
        metrics.batches.labels(model, batch.trigger).inc()
        metrics.batch_size.labels(model).observe(len(batch.tickets))
        metrics.device_busy.labels(model).inc(report.seconds)
        if report.num_splits:
            metrics.batch_splits.labels(model).inc(report.num_splits)
        if report.num_out_of_memory:
            metrics.out_of_memory.labels(model).inc(report.num_out_of_memory)
        queue_wait = metrics.queue_wait.labels(model)
        for ticket in batch.tickets:
            queue_wait.observe(batch.started_s - ticket.queued_s)

    def _measure_failure(self, failure: Failure) -> None:
        self._metrics.fatal_errors.labels(failure.reason).inc()

    def _measure_queue_of(self, model_id: str) -> None:
        if model_id not in self._measured_models:
            self._measured_models.add(model_id)
            pending = self._metrics.queue_pending.labels(model_id)
            pending.set_function(lambda: self._device.waiting_by_model()[model_id])

    async def _watch_event_loop(self) -> None:
        while True:
            due_s = time.monotonic() + LAG_PERIOD_S
            await asyncio.sleep(LAG_PERIOD_S)
            self._metrics.event_loop_lag.observe(max(time.monotonic() - due_s, 0.0))

    async def _watch_device(self) -> None:
        while True:
            await asyncio.sleep(WATCH_PERIOD_S)
            self._device.check_hang()
            if self.failure is not None:
                self._end_waits_for_models()

    async def _preload(self, name: str) -> None:
        """Load and warm a model; while it cannot be had, say why and try again."""
        backoff_s = FIRST_PRELOAD_BACKOFF_S
        while True:
            try:
                await self._warm_up(find_model(self.models.cards(), name))
            except (ServiceError, ModelStoreError) as error:
                self._awaited[name] = str(error)
                logger.warning(
                    "preload failed", extra={"fields": {"model": name, "reason": str(error)}}
                )
            except Exception:
                # A defect, but without this task the service would never be ready.
                self._awaited[name] = "cannot be warmed up: the log has the reason"
                logger.exception("preload failed", extra={"fields": {"model": name}})
            else:
                del self._awaited[name]
                return
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, MAX_PRELOAD_BACKOFF_S)

    async def _warm_up(self, card: ModelCard) -> None:
        deadline_s = time.monotonic() + WARM_UP_TIMEOUT_S
        await self._load(card, deadline_s, nullcontext)
        with await self._lease(card, deadline_s, nullcontext):
            key = BatchKey(card.id, NO_SIZE, is_warm_up=True)
            await self._run_ticket(Ticket(key, NO_IMAGE, deadline_s, queued_s=time.monotonic()))


def _notice(loading: asyncio.Future[Any]) -> None:
    """Takes note of how a load ended, which asyncio would otherwise complain of."""
    if not loading.cancelled():
        loading.exception()


def _ticket(card: ModelCard, sample: Sample, deadline_s: float) -> Ticket[Sample, Prediction]:
    query = sample.query
    return Ticket(
        BatchKey(card.id, sample.padded_size_hw),
        sample,
        deadline_s,
        queued_s=time.monotonic(),
        max_instances=query.max_instances if query.boxes_xyxy is None else len(query.boxes_xyxy),
        are_instances_given=query.boxes_xyxy is not None,
        party=PARTY.get(),
    )


def _budget(settings: Settings) -> Budget:
    # The largest image that is common: so many fit into a batch as `max_batch` says.
    sides = (-(-side // 32) * 32 for side in (settings.short_side, settings.long_side))
    return Budget(
        max_images=settings.max_batch,
        max_pixels=settings.max_batch * math.prod(sides),
        max_instances=settings.max_batch * INSTANCES_PER_IMAGE,
    )


def patience_with(settings: Settings, hang_s: float | None) -> Patience:
    """The same for any batch, and for the first one of a model."""
    if hang_s is not None:
        return Patience(hang_s, hang_s)
    batch_s = max(HANG_TIMEOUTS * settings.timeout_ms / 1000, MIN_HANG_S)
    return Patience(batch_s, max(batch_s, FIRST_HANG_S))


def _shutting_down() -> Draining:
    return Draining("The service is shutting down: ask another replica.")
