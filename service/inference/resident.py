"""The models that are on the device, and the thread that brings them there and back."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal, TypeVar

from model_store.catalogue import ModelCard
from model_store.errors import ModelStoreError
from service.datatypes import Prediction, Sample
from service.errors import Draining, ModelLoading, OutOfMemory, ServiceError, Unhealthy
from service.inference.device_errors import as_service_error
from service.inference.device_memory import Arrays, MemoryBudget
from service.inference.model_source import LoadedModel, ModelSource, Place, Residence
from service.inference.predictor import Predictor
from service.inference.residency import Residency
from service.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Downloads at once; further ones wait for their turn.
NUM_FETCHERS = 4
# A model stays for so many times what it took to load: no more than a fifth of the time is lost to
# models that take turns. Others wait for it meanwhile, but not until their requests' deadlines.
STAY_LOADS = 4.0
MIN_STAY_S, MAX_STAY_S = 0.5, 7.5


class ResidentModels:
    """Has each model on the device when it is asked for, as far as the budget goes.

    A model that has to make room goes to host memory if there is room for a copy, else for good.
    Loads and departures are one thread's, and downloads other threads'.
    """

    def __init__(
        self,
        source: ModelSource,
        budget: MemoryBudget,
        metrics: Metrics,
        *,
        kept: Iterable[str] = (),
        max_stay_s: float = MAX_STAY_S,
    ) -> None:
        """`kept` are the models that never make room for others."""
        self._source = source
        self._metrics = metrics
        self._max_stay_s = max_stay_s
        self._residency = Residency(budget.device_bytes, budget.host_bytes, kept)
        self._fetchers = ThreadPoolExecutor(NUM_FETCHERS, thread_name_prefix="fetcher")
        # Guards all that follows: requests come from the event loop, batches from the device's
        # thread, and the loader changes what is there.
        self._changed = threading.Condition()
        self._waiting = deque[tuple[ModelCard, Future[None]]]()
        self._loads: dict[str, Future[None]] = {}
        self._loaded: dict[str, tuple[ModelCard, LoadedModel]] = {}
        # Those of which no copy is to stay.
        self._unloading = set[str]()
        self._copies: dict[str, Arrays] = {}
        # What models took when they were there last.
        self._sizes: dict[str, int] = {}
        self._is_closing = False
        self._loader = threading.Thread(target=self._work, name="loader", daemon=True)
        self._loader.start()

    @property
    def used_bytes(self) -> int:
        """What the models on the device take."""
        with self._changed:
            return self._residency.used_bytes

    def request(self, card: ModelCard) -> Future[None]:
        """Done when the model is on the device; a load that failed is tried again."""
        with self._changed:
            load = self._loads.get(card.id)
            if load is None or (load.done() and not self._residency.is_staying(card.id)):
                load = self._loads[card.id] = Future()
                # Whoever no longer waits for it does not end it for others.
                load.set_running_or_notify_cancel()
                self._begin(card, load)
        return load

    def residence(self, model_id: str) -> Residence:
        """Where the model is."""
        with self._changed:
            load, loaded = self._loads.get(model_id), self._loaded.get(model_id)
            place: Place | None = None
            if load is not None and not load.done():
                place = "loading"
            elif loaded is not None:
                place = "ready"
            elif load is not None and load.exception() is not None:
                place = "failed"
            elif model_id in self._copies:
                place = "host"
            return Residence(
                place,
                self._residency.bytes_on_device(model_id),
                self._residency.bytes_on_host(model_id),
                None if loaded is None else loaded[1].unused_arrays,
            )

    def lease(self, model_id: str) -> AbstractContextManager[object] | None:
        """Keeps the model on the device for the length of a block; None where it is not there."""
        with self._changed:
            if model_id not in self._loaded:
                return None
            if not self._residency.lease(model_id, time.monotonic()):
                return None
        lease = ExitStack()
        lease.callback(self._release, model_id)
        return lease

    def unload(self, model_id: str) -> None:
        """Have a model leave the device and the host when its last lease ends."""
        with self._changed:
            self._residency.dismiss(model_id)
            self._copies.pop(model_id, None)
            if model_id in self._loaded:
                self._unloading.add(model_id)
            self._changed.notify_all()

    def predict(self, model_id: str, samples: Sequence[Sample]) -> list[Prediction | ServiceError]:
        """What a loaded model says of samples of one padded size; on the device's thread alone.

        Raises:
            ModelLoading: the model has left in the meantime.
            OutOfMemory: the batch does not fit the device; what can be, is free again.
            DeviceFailed: the device is lost.
        """
        return self._compute(model_id, lambda predictor: predictor.predict_batch(samples))

    def warm_up(self, model_id: str) -> None:
        """Does once what a loaded model's first requests would wait for; on the device's thread.

        Raises:
            ModelLoading, OutOfMemory, DeviceFailed: as `predict` does.
        """
        self._compute(model_id, lambda predictor: predictor.warm_up())

    def close(self) -> None:
        """Wait for what is under way, and start nothing else."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._fetchers.shutdown(cancel_futures=True)
        self._loader.join()

    def _compute(self, model_id: str, compute: Callable[[Predictor], T]) -> T:
        with self._using(model_id) as predictor:
            try:
                return compute(predictor)
            except Exception as error:
                failure = as_service_error(error)
                if failure is None:
                    raise
                logger.warning(
                    "device error", extra={"fields": {"model": model_id, "reason": repr(error)}}
                )
        # Outside of the handler, where the error would keep the failed run's arrays alive.
        if isinstance(failure, OutOfMemory):
            self._free_recordings()
            self._source.give_back()
        raise failure

    def _free_recordings(self) -> None:
        """Gives up all models' recordings: batches come first, whosoever they are."""
        with self._changed:
            predictors = [loaded.predictor for _, loaded in self._loaded.values()]
        for predictor in predictors:
            predictor.free_recordings()

    @contextmanager
    def _using(self, model_id: str) -> Iterator[Predictor]:
        with self._changed:
            if model_id not in self._loaded:
                raise ModelLoading(f"{model_id} was unloaded: try again in a moment.")
            self._residency.extend(model_id, time.monotonic())
            predictor = self._loaded[model_id][1].predictor
        try:
            yield predictor
        finally:
            self._release(model_id)

    def _release(self, model_id: str) -> None:
        with self._changed:
            self._residency.release(model_id, time.monotonic())
            self._changed.notify_all()

    def _begin(self, card: ModelCard, load: Future[None]) -> None:
        if self._is_closing:
            load.set_exception(_shutting_down())
        elif card.id in self._loaded or card.id in self._copies or self._source.is_stored(card):
            self._enqueue(card, load)
        else:
            self._fetchers.submit(self._fetch, card, load).add_done_callback(
                lambda fetching: (
                    load.set_exception(_shutting_down()) if fetching.cancelled() else None
                )
            )

    def _fetch(self, card: ModelCard, load: Future[None]) -> None:
        with _ending(load):
            self._source.fetch(card)
            with self._changed:
                self._enqueue(card, load)

    def _enqueue(self, card: ModelCard, load: Future[None]) -> None:
        self._waiting.append((card, load))
        self._changed.notify_all()

    def _work(self) -> None:
        """Loads in the order of their requests; has leave whoever is to, in between."""
        while True:
            with self._changed:
                while not (departing := self._residency.departing()) and not self._waiting:
                    if self._is_closing:
                        return
                    self._changed.wait()
                card, load = (None, None) if departing else self._waiting.popleft()
            self._see_off(departing)
            if card is not None and load is not None:
                with _ending(load):
                    self._load(card)
                    load.set_result(None)

    def _load(self, card: ModelCard) -> None:
        with self._changed:
            if self._is_closing:
                raise _shutting_down()
            if self._residency.recall(card.id):
                self._unloading.discard(card.id)
                return
            arrays = self._copies.get(card.id)
            size = self._sizes.get(card.id)
        tier: Literal["disk", "host"] = "disk" if arrays is None else "host"
        read_s = 0.0
        if arrays is None:
            begun_s = time.monotonic()
            arrays = self._source.read(card)
            read_s = time.monotonic() - begun_s
        self._make_room(card.id, self._source.count_bytes(arrays) if size is None else size)
        begun_s = time.monotonic()
        try:
            loaded = self._build(card, arrays)
        except BaseException:
            with self._changed:
                self._residency.left(card.id)
            raise
        load_s = time.monotonic() - begun_s + read_s
        stay_s = min(max(STAY_LOADS * load_s, MIN_STAY_S), self._max_stay_s)
        with self._changed:
            self._loaded[card.id] = (card, loaded)
            self._sizes[card.id] = loaded.num_bytes
            self._residency.arrived(card.id, loaded.num_bytes, time.monotonic(), stay_s=stay_s)
            if card.id in self._copies:
                self._residency.use_copy(card.id)
        self._metrics.model_loads.labels(card.id, tier).inc()
        self._metrics.model_load_duration.labels(tier).observe(load_s)
        logger.info(
            "model loaded",
            extra={
                "fields": {
                    "model": card.id,
                    "from": tier,
                    "seconds": round(load_s, 3),
                    "bytes": loaded.num_bytes,
                    "unused_arrays": sorted(loaded.unused_arrays),
                }
            },
        )

    def _build(self, card: ModelCard, arrays: Arrays) -> LoadedModel:
        """The model on the device; tried once more when what can be is free again."""
        for is_last in (False, True):
            try:
                return self._source.build(card, arrays)
            except Exception as error:
                failure = as_service_error(error)
                if failure is None:
                    raise
            if is_last or not isinstance(failure, OutOfMemory):
                raise failure
            self._source.give_back()
        raise AssertionError

    def _make_room(self, model_id: str, num_bytes: int) -> None:
        """Waits until there is room, and takes it.

        Raises:
            OutOfMemory: there never will be.
        """
        while True:
            with self._changed:
                wait_s = self._residency.make_room(model_id, num_bytes, time.monotonic())
                if wait_s is None:
                    return
                departing = self._residency.departing()
                if not departing:
                    if self._is_closing:
                        raise _shutting_down()
                    self._changed.wait(min(wait_s, threading.TIMEOUT_MAX))
            self._see_off(departing)

    def _see_off(self, model_ids: Iterable[str]) -> None:
        for model_id in model_ids:
            self._evict(model_id)

    def _evict(self, model_id: str) -> None:
        """Frees what a model takes on the device, unless it is in use again."""
        with self._changed:
            if model_id not in self._residency.departing():
                return
            has_copy = model_id in self._copies
            card = None if model_id in self._unloading else self._loaded[model_id][0]
        if card is not None and not has_copy:
            has_copy = self._keep_copy(card)
        with self._changed:
            if model_id not in self._residency.departing():
                return
            del self._loaded[model_id]
            self._unloading.discard(model_id)
            if self._loads[model_id].done():
                del self._loads[model_id]
        # Before the place counts as free.
        self._source.give_back()
        with self._changed:
            self._residency.left(model_id)
        self._count_eviction(model_id, "host" if has_copy else "disk")

    def _keep_copy(self, card: ModelCard) -> bool:
        """Copies the model into host memory, where others' copies may have to go for it."""
        if not self._residency.has_copies:
            return False
        try:
            arrays = self._source.read(card)
            num_bytes = sum(array.nbytes for array in arrays.values())
            if not self._residency.has_room_for_copy(num_bytes):
                return False
            copy = self._source.copy(arrays)
        except (ModelStoreError, RuntimeError) as error:
            logger.warning(
                "no copy is kept", extra={"fields": {"model": card.id, "reason": repr(error)}}
            )
            return False
        with self._changed:
            dropped = self._residency.keep_copy(card.id, num_bytes)
            for model_id in dropped:
                del self._copies[model_id]
            self._copies[card.id] = copy
        for model_id in dropped:
            self._count_eviction(model_id, "disk")
        return True

    def _count_eviction(self, model_id: str, destination: Literal["host", "disk"]) -> None:
        self._metrics.model_evictions.labels(model_id, destination).inc()
        logger.info("model evicted", extra={"fields": {"model": model_id, "to": destination}})


def _shutting_down() -> Draining:
    return Draining("The service is shutting down: ask another replica.")


@contextmanager
def _ending(load: Future[None]) -> Iterator[None]:
    """Has a load end with whatever ends the block before its time."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whoever waits for the load is told
        load.set_exception(error)
    except BaseException as error:
        load.set_exception(Unhealthy("The model cannot be loaded: try again, or another replica."))
        logger.critical("a load died", exc_info=error)
