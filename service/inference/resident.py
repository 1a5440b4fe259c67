"""The models that are on the device."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from model_store.catalogue import ModelCard
from service.datatypes import Prediction, Sample
from service.errors import AnswerTooLarge, ModelLoading, OutOfMemory
from service.inference.predictor import Predictor

logger = logging.getLogger(__name__)

# Downloads at once; further ones wait for their turn.
NUM_FETCHERS = 4


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on the device, and the arrays of its checkpoint that it has no use for."""

    predictor: Predictor
    unused_arrays: tuple[str, ...]


class ResidentModels:
    """Fetches and loads each model once, on threads of their own, however many ask for it.

    A load waits for other loads only, not for the downloads of other models.
    """

    def __init__(
        self,
        load: Callable[[ModelCard], LoadedModel],
        *,
        is_stored: Callable[[ModelCard], bool],
        fetch: Callable[[ModelCard], None],
    ) -> None:
        self._load = load
        self._is_stored = is_stored
        self._fetch = fetch
        self._fetchers = ThreadPoolExecutor(NUM_FETCHERS, thread_name_prefix="fetcher")
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        # Orders the look-up of a model and the start of its load.
        self._lock = threading.Lock()
        self._loads: dict[str, Future[LoadedModel]] = {}

    def request(self, card: ModelCard) -> Future[LoadedModel]:
        """The model, once it is loaded; a load that failed is tried again at the next request."""
        with self._lock:
            load = self._loads.get(card.id)
            if load is None or (load.done() and load.exception() is not None):
                load = self._loads[card.id] = self._begin(card)
        return load

    def find(self, model_id: str) -> Future[LoadedModel] | None:
        """The model's load, under way or done; None where nobody has asked for it."""
        return self._loads.get(model_id)

    def unload(self, model_id: str) -> None:
        """Give up a model that is loaded; its memory is free when its last batch is done."""
        with self._lock:
            load = self._loads.get(model_id)
            if load is not None and load.done():
                del self._loads[model_id]

    def predict(
        self, model_id: str, samples: Sequence[Sample]
    ) -> list[Prediction | AnswerTooLarge]:
        """What a loaded model says of samples of one padded size; on the device's thread alone.

        Raises:
            ModelLoading: the model was unloaded in the meantime.
            OutOfMemory: the batch does not fit the device.
        """
        load = self._loads.get(model_id)
        if load is None:
            raise ModelLoading(f"{model_id} was unloaded: try again in a moment.")
        try:
            return load.result().predictor.predict_batch(samples)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory("The image does not fit the device's memory.") from error

    def close(self) -> None:
        """Wait for what is under way, and start nothing else."""
        self._fetchers.shutdown(cancel_futures=True)
        self._loader.shutdown(cancel_futures=True)

    def _begin(self, card: ModelCard) -> Future[LoadedModel]:
        if self._is_stored(card):
            return self._loader.submit(self._load_one, card)
        return self._fetchers.submit(self._fetch_one, card)

    def _fetch_one(self, card: ModelCard) -> LoadedModel:
        self._fetch(card)
        return self._loader.submit(self._load_one, card).result()

    def _load_one(self, card: ModelCard) -> LoadedModel:
        loaded = self._load(card)
        logger.info(
            "model loaded",
            extra={"fields": {"model": card.id, "unused_arrays": sorted(loaded.unused_arrays)}},
        )
        return loaded
