"""The models that are on the device."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from model_store.catalogue import ModelCard
from service.datatypes import Prediction, Sample
from service.errors import AnswerTooLarge, OutOfMemory
from service.inference.predictor import Predictor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on the device, and the arrays of its checkpoint that it has no use for."""

    predictor: Predictor
    unused_arrays: tuple[str, ...]


class ResidentModels:
    """Loads each model once, on a thread of its own, however many ask for it."""

    def __init__(self, load: Callable[[ModelCard], LoadedModel]) -> None:
        self._load = load
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        # Orders the look-up of a model and the start of its load.
        self._lock = threading.Lock()
        self._loads: dict[str, Future[LoadedModel]] = {}

    def request(self, card: ModelCard) -> Future[LoadedModel]:
        """The model, once it is loaded; a load that failed is tried again at the next request."""
        with self._lock:
            load = self._loads.get(card.id)
            if load is None or (load.done() and load.exception() is not None):
                load = self._loads[card.id] = self._loader.submit(self._load_one, card)
        return load

    def find(self, model_id: str) -> Future[LoadedModel] | None:
        """The model's load, under way or done; None where nobody has asked for it."""
        return self._loads.get(model_id)

    def predict(
        self, model_id: str, samples: Sequence[Sample]
    ) -> list[Prediction | AnswerTooLarge]:
        """What a loaded model says of samples of one padded size; on the device's thread alone.

        Raises:
            OutOfMemory: the batch does not fit the device.
        """
        try:
            return self._loads[model_id].result().predictor.predict_batch(samples)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory("The image does not fit the device's memory.") from error

    def close(self) -> None:
        """Wait for a load under way, and start no other."""
        self._loader.shutdown(cancel_futures=True)

    def _load_one(self, card: ModelCard) -> LoadedModel:
        loaded = self._load(card)
        logger.info(
            "model loaded",
            extra={"fields": {"model": card.id, "unused_arrays": sorted(loaded.unused_arrays)}},
        )
        return loaded
