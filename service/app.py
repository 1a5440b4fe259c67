"""Puts the service together: the only module that knows both the HTTP side and the device side."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from dataclasses import replace

import torch

from model_store.catalogue import ModelCard, find_model, load_catalogue
from model_store.errors import CheckpointUnavailable, UnknownModel
from model_store.store import ModelStore
from service.assembly import Service, assemble, build_metrics
from service.datatypes import ModelState, ModelStatus, Prediction, Sample
from service.errors import Draining, ServiceError
from service.inference.device_memory import Arrays, give_back_memory, memory_budget, pin_arrays
from service.inference.loading import DTYPES, build_predictor, find_device
from service.inference.model_source import LoadedModel, ModelSource
from service.inference.resident import ResidentModels
from service.metrics import Memory, Metrics
from service.settings import Settings


class ServedModels:
    """The models that are served: what the store has of them, and what is on the device."""

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        """What happens to the models is told by `metrics`, if somebody looks at them."""
        self._settings = settings
        self._device = find_device(settings.device)
        self._dtype = DTYPES[settings.precision]
        # An operator's own model, which may come at any time, has its own sides.
        catalogue = load_catalogue(settings.zoo_url)
        as_set = {card.id: self._with_sides(card) for card in catalogue.values()}
        self._store = ModelStore(settings.model_store, as_set, is_offline=settings.offline)
        self._store.watch()
        self._is_closing = False
        self._budget = memory_budget(self._device, settings.device_memory)
        self._resident = ResidentModels(
            ModelSource(
                is_at_hand=self._store.is_converted,
                fetch=self._fetch,
                read=self._read,
                copy=pin_arrays,
                build=self._build,
                count_bytes=self._count_bytes,
                give_back=lambda: give_back_memory(self._device),
            ),
            self._budget,
            metrics or Metrics({}),
            kept=self._preloaded(),
        )

    def cards(self) -> Mapping[str, ModelCard]:
        """All of them, by id."""
        cards = self._store.cards
        if self._settings.models is None:
            return cards
        served = [find_model(cards, name) for name in self._settings.models]
        return {card.id: card for card in served}

    def status_of(self, card: ModelCard) -> ModelStatus:
        """Where a model is, and what it takes there."""
        stored = self._store.state(card)
        here = self._resident.residence(card.id)
        state: ModelState = here.place or stored.state
        if stored.state == "downloading" and here.place != "ready":
            state = "downloading"
        return ModelStatus(
            state,
            stored.num_bytes,
            bytes_on_host=here.bytes_on_host,
            bytes_on_device=here.bytes_on_device,
            unused_arrays=here.unused_arrays,
        )

    def memory(self) -> Memory:
        """Where all of them are, and what they take there."""
        statuses = {card.id: self.status_of(card) for card in self.cards().values()}
        places = {
            (model_id, place): num_bytes
            for model_id, status in statuses.items()
            for place, num_bytes in (
                ("disk", status.bytes_on_disk),
                ("host", status.bytes_on_host),
                ("device", status.bytes_on_device),
            )
        }
        return Memory(
            {model_id: status.state for model_id, status in statuses.items()},
            {place: num_bytes or 0 for place, num_bytes in places.items()},
            {
                "used": self._resident.used_bytes,
                "budget": self._budget.device_bytes,
                "total": self._budget.total_bytes,
            },
        )

    def request(self, card: ModelCard, /) -> Future[None]:
        """Done when the model is loaded, or could not be; loads it where that is needed."""
        return self._resident.request(card)

    def lease(self, model_id: str, /) -> AbstractContextManager[object] | None:
        """Keeps a model loaded for the length of a block; None where it has left meanwhile."""
        return self._resident.lease(model_id)

    def unload(self, model_id: str, /) -> None:
        """Gives up a model when nobody uses it any more."""
        self._resident.unload(model_id)

    def predict(
        self, model_id: str, samples: Sequence[Sample], /
    ) -> list[Prediction | ServiceError]:
        """What a loaded model says of samples of one padded size; on the device's thread alone."""
        return self._resident.predict(model_id, samples)

    def warm_up(self, model_id: str, /) -> None:
        """Does once what a loaded model's first requests would wait for; there as well."""
        self._resident.warm_up(model_id)

    def close(self) -> None:
        """Ends downloads and conversions, waits for a load under way, and starts nothing else."""
        self._is_closing = True
        self._store.close()
        self._resident.close()

    def _with_sides(self, card: ModelCard) -> ModelCard:
        """The card with the operator's sides, unless the model was made for its own."""
        if card.url is None:
            return card
        settings = self._settings
        return replace(card, short_side=settings.short_side, long_side=settings.long_side)

    def _read(self, card: ModelCard) -> Arrays:
        return self._store.load_arrays(card, self._stop_when_closing)

    def _fetch(self, card: ModelCard) -> Arrays:
        """A model's arrays, converted where they are not, downloaded where the operator lets it.

        Raises:
            CheckpointUnavailable: it may not be, or cannot be had; the message says what to do.
            CheckpointRejected: what was had is not the model's file.
        """
        if self._store.state(card).state != "stored":
            self._download(card)
        return self._read(card)

    def _download(self, card: ModelCard) -> None:
        download = self._settings.download
        if download == "never" or (download == "preload" and card.id not in self._preloaded()):
            raise CheckpointUnavailable(
                f"{card.id} is not in the model store, and requests may not download here: ask "
                f"the operator for `densepose models pull {card.id}`"
            )
        self._store.pull(card, self._stop_when_closing)

    def _stop_when_closing(self, _num_bytes: int, _total: int | None) -> None:
        if self._is_closing:
            raise Draining("The service is shutting down: ask another replica.")

    def _preloaded(self) -> set[str]:
        """Those that are loaded before the service is ready, and stay."""
        cards = self._store.cards
        preloaded = set()
        for name in self._settings.preload:
            # One that is not there is complained of when it is to be loaded.
            with suppress(UnknownModel):
                preloaded.add(find_model(cards, name).id)
        return preloaded

    def _build(self, card: ModelCard, arrays: Arrays) -> LoadedModel:
        predictor, unused_arrays = build_predictor(card, arrays, self._device, self._dtype)
        return LoadedModel(predictor, unused_arrays, predictor.num_bytes)

    def _count_bytes(self, arrays: Arrays) -> int:
        num_values = sum(array.size for array in arrays.values())
        return num_values * self._dtype.itemsize


def build_service(settings: Settings) -> Service:
    """The service that a server runs.

    Raises:
        DeviceUnavailable: the chosen device is not there.
    """
    metrics = build_metrics({"torch": torch.__version__, "cuda": torch.version.cuda or "none"})
    models = ServedModels(settings, metrics)
    metrics.watch_memory(models.memory)
    return assemble(settings, models, metrics)
