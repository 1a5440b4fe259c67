"""The models that are served: what the store has of them, what is on the device, and who leaves."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, TypeVar

from model_store.catalogue import ModelCard, find_model
from model_store.errors import CheckpointUnavailable, ModelStoreError, UnknownModel
from model_store.store import ModelStore
from service.datatypes import ModelState, ModelStatus, Prediction, Sample
from service.errors import Draining, ModelLoading, OutOfMemory, ServiceError, Unhealthy
from service.inference.predictor import Predictor
from service.metrics import Memory, Metrics
from service.residency.device import Arrays, ModelDevice, as_service_error
from service.residency.eviction import Residency

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Downloads and conversions at once; further ones wait for their turn.
NUM_FETCHERS = 4
# A model stays for so many times what it took to load: no more than a fifth of the time is lost to
# models that take turns. Others wait for it meanwhile, but not until their requests' deadlines.
STAY_LOADS = 4.0
MIN_STAY_S, MAX_STAY_S = 0.5, 7.5


@dataclass(frozen=True, slots=True)
class Policy:
    """Which models are served, who may cause a download, and who never makes room for others."""

    # By their names; None: all.
    served: tuple[str, ...] | None = None
    preload: tuple[str, ...] = ()
    download: Literal["any", "preload", "never"] = "any"
    max_stay_s: float = MAX_STAY_S


class ResidentModels:
    """Has each model on the device when it is asked for, as far as the budget goes.

    A model that has to make room goes to host memory if there is room for a copy, else for good.
    Loads and evictions are one thread's, and downloads and conversions other threads'.
    """

    def __init__(
        self, store: ModelStore, device: ModelDevice, policy: Policy, metrics: Metrics | None = None
    ) -> None:
        """What happens to the models is told by `metrics`, if somebody looks at them."""
        self._store = store
        self._device = device
        self._policy = policy
        self._metrics = metrics or Metrics({})
        budget = device.budget
        self._residency = Residency(budget.device_bytes, budget.host_bytes, self._preloaded())
        self._fetchers = ThreadPoolExecutor(NUM_FETCHERS, thread_name_prefix="fetcher")
        # Guards all that follows: requests come from the event loop, batches from the device's
        # thread, and the loader changes what is there.
        self._changed = threading.Condition()
        self._waiting = deque[tuple[ModelCard, Future[None], Arrays | None]]()
        self._loads: dict[str, Future[None]] = {}
        # With the names of the arrays that are of no use.
        self._loaded: dict[str, tuple[Predictor, tuple[str, ...]]] = {}
        # Those of which no copy is to stay.
        self._unloading = set[str]()
        self._copies: dict[str, Arrays] = {}
        # What models took when they were there last.
        self._sizes: dict[str, int] = {}
        self._is_closing = False
        self._loader = threading.Thread(target=self._work, name="loader", daemon=True)
        self._loader.start()

    def cards(self) -> Mapping[str, ModelCard]:
        """All models that are served, by id."""
        cards = self._store.cards
        if self._policy.served is None:
            return cards
        return {card.id: card for card in (find_model(cards, n) for n in self._policy.served)}

    def status_of(self, card: ModelCard) -> ModelStatus:
        """Where a model is, and what it takes there."""
        stored = self._store.state(card)
        with self._changed:
            load, loaded = self._loads.get(card.id), self._loaded.get(card.id)
            state: ModelState = stored.state
            if load is not None and not load.done():
                state = "loading"
            elif loaded is not None:
                state = "ready"
            elif load is not None and load.exception() is not None:
                state = "failed"
            elif card.id in self._copies:
                state = "host"
            if stored.state == "downloading" and state != "ready":
                state = "downloading"
            return ModelStatus(
                state,
                stored.num_bytes,
                bytes_on_host=self._residency.bytes_on_host(card.id),
                bytes_on_device=self._residency.bytes_on_device(card.id),
                unused_arrays=None if loaded is None else loaded[1],
            )

    def memory(self) -> Memory:
        """Where all of them are, and what they take there."""
        statuses = {card.id: self.status_of(card) for card in self.cards().values()}
        with self._changed:
            used_bytes = self._residency.used_bytes
        budget = self._device.budget
        return Memory(
            {model_id: status.state for model_id, status in statuses.items()},
            {
                (model_id, place): num_bytes or 0
                for model_id, status in statuses.items()
                for place, num_bytes in (
                    ("disk", status.bytes_on_disk),
                    ("host", status.bytes_on_host),
                    ("device", status.bytes_on_device),
                )
            },
            {"used": used_bytes, "budget": budget.device_bytes, "total": budget.total_bytes},
        )

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
        """Ends downloads and conversions, waits for a load under way, and starts nothing else."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._store.close()
        self._fetchers.shutdown(cancel_futures=True)
        self._loader.join()

    def _compute(self, model_id: str, compute: Callable[[Predictor], T]) -> T:
        with self._changed:
            if model_id not in self._loaded:
                raise ModelLoading(f"{model_id} was unloaded: try again in a moment.")
            self._residency.extend(model_id, time.monotonic())
            predictor, _ = self._loaded[model_id]
        try:
            return compute(predictor)
        except Exception as error:
            failure = as_service_error(error)
            if failure is None:
                raise
            logger.warning(
                "device error", extra={"fields": {"model": model_id, "reason": repr(error)}}
            )
        finally:
            self._release(model_id)
        # Outside of the handler, where the error would keep the failed run's arrays alive.
        if isinstance(failure, OutOfMemory):
            self._free_graphs()
            self._device.give_back_memory()
        raise failure

    def _free_graphs(self) -> None:
        """Gives up all models' captured graphs: batches come first, whosoever they are."""
        with self._changed:
            predictors = [predictor for predictor, _ in self._loaded.values()]
        for predictor in predictors:
            predictor.free_graphs()

    def _release(self, model_id: str) -> None:
        with self._changed:
            self._residency.release(model_id, time.monotonic())
            self._changed.notify_all()

    def _begin(self, card: ModelCard, load: Future[None]) -> None:
        if self._is_closing:
            load.set_exception(_shutting_down())
        elif card.id in self._loaded or card.id in self._copies or self._store.is_converted(card):
            self._enqueue(card, load)
        else:
            self._fetchers.submit(self._fetch, card, load).add_done_callback(
                lambda fetching: (
                    load.set_exception(_shutting_down()) if fetching.cancelled() else None
                )
            )

    def _fetch(self, card: ModelCard, load: Future[None]) -> None:
        """Has a model converted where it is not, and downloaded where the operator lets it."""
        with _ending(load):
            if self._store.state(card).state != "stored":
                self._download(card)
            arrays = self._read(card)
            with self._changed:
                self._enqueue(card, load, arrays)

    def _download(self, card: ModelCard) -> None:
        download = self._policy.download
        if download == "never" or (download == "preload" and card.id not in self._preloaded()):
            raise CheckpointUnavailable(
                f"{card.id} is not in the model store, and requests may not download here: ask "
                f"the operator for `densepose models pull {card.id}`"
            )
        self._store.pull(card, self._stop_when_closing)

    def _read(self, card: ModelCard) -> Arrays:
        return self._store.load_arrays(card, self._stop_when_closing)

    def _stop_when_closing(self, _num_bytes: int, _total: int | None) -> None:
        if self._is_closing:
            raise _shutting_down()

    def _preloaded(self) -> set[str]:
        """Those that are loaded before the service is ready, and stay."""
        cards = self._store.cards
        preloaded = set()
        for name in self._policy.preload:
            # One that is not there is complained of when it is to be loaded.
            with suppress(UnknownModel):
                preloaded.add(find_model(cards, name).id)
        return preloaded

    def _enqueue(self, card: ModelCard, load: Future[None], arrays: Arrays | None = None) -> None:
        self._waiting.append((card, load, arrays))
        self._changed.notify_all()

    def _work(self) -> None:
        """Loads in the order of their requests; evicts whoever is to leave, in between."""
        while True:
            with self._changed:
                while not (departing := self._residency.departing()) and not self._waiting:
                    if self._is_closing:
                        return
                    self._changed.wait()
                request = None if departing else self._waiting.popleft()
            for model_id in departing:
                self._evict(model_id)
            if request is not None:
                card, load, arrays = request
                with _ending(load):
                    self._load(card, arrays)
                    load.set_result(None)

    def _load(self, card: ModelCard, fetched: Arrays | None) -> None:
        with self._changed:
            if self._is_closing:
                raise _shutting_down()
            if self._residency.recall(card.id):
                self._unloading.discard(card.id)
                return
            copy = self._copies.get(card.id)
            size = self._sizes.get(card.id)
        tier: Literal["disk", "host"] = "disk" if copy is None else "host"
        arrays = fetched if copy is None else copy
        read_s = 0.0
        if arrays is None:
            begun_s = time.monotonic()
            arrays = self._read(card)
            read_s = time.monotonic() - begun_s
        self._make_room(card.id, self._device.count_bytes(arrays) if size is None else size)
        begun_s = time.monotonic()
        try:
            predictor, unused_arrays = self._build(card, arrays)
        except BaseException:
            with self._changed:
                self._residency.left(card.id)
            raise
        load_s = time.monotonic() - begun_s + read_s
        stay_s = min(max(STAY_LOADS * load_s, MIN_STAY_S), self._policy.max_stay_s)
        with self._changed:
            self._loaded[card.id] = (predictor, unused_arrays)
            self._sizes[card.id] = predictor.num_bytes
            self._residency.arrived(card.id, predictor.num_bytes, time.monotonic(), stay_s=stay_s)
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
                    "bytes": predictor.num_bytes,
                    "unused_arrays": sorted(unused_arrays),
                }
            },
        )

    def _build(self, card: ModelCard, arrays: Arrays) -> tuple[Predictor, tuple[str, ...]]:
        """The model on the device; tried once more when what can be is free again."""
        for is_last in (False, True):
            try:
                return self._device.load(card, arrays)
            except Exception as error:
                failure = as_service_error(error)
                if failure is None:
                    raise
            if is_last or not isinstance(failure, OutOfMemory):
                raise failure
            self._device.give_back_memory()
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
            for name in departing:
                self._evict(name)

    def _evict(self, model_id: str) -> None:
        """Frees what a model takes on the device, unless it is in use again."""
        with self._changed:
            if model_id not in self._residency.departing():
                return
            has_copy = model_id in self._copies
            card = None if model_id in self._unloading else self._loaded[model_id][0].card
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
        self._device.give_back_memory()
        with self._changed:
            self._residency.left(model_id)
        self._count_eviction(model_id, "host" if has_copy else "disk")

    def _keep_copy(self, card: ModelCard) -> bool:
        """Copies the model into host memory, where others' copies may have to go for it."""
        # What would have to be converted again is not worth the loader's time.
        if not (self._residency.has_room_for_copy() and self._store.is_converted(card)):
            return False
        try:
            arrays = self._read(card)
            num_bytes = sum(array.nbytes for array in arrays.values())
            if not self._residency.has_room_for_copy(num_bytes):
                return False
            copy = self._device.copy(arrays)
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
