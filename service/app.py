"""Puts the service together: the only module that knows both the HTTP side and the device side."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

import torch

from model_store.catalogue import ModelCard, find_model, load_catalogue
from model_store.errors import CheckpointUnavailable
from model_store.store import ModelStore
from service.api.backend import ModelStatus
from service.assembly import Service, assemble
from service.datatypes import Prediction, Sample
from service.errors import AnswerTooLarge, Draining
from service.inference.loading import DTYPES, build_predictor, find_device
from service.inference.resident import LoadedModel, ResidentModels
from service.settings import Settings


class ServedModels:
    """The models that are served: what the store has of them, and what is on the device."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._device = find_device(settings.device)
        self._dtype = DTYPES[settings.precision]
        self._store = ModelStore(
            settings.model_store, load_catalogue(settings.zoo_url), is_offline=settings.offline
        )
        self._as_set = {card.id: self._with_sides(card) for card in self._store.cards.values()}
        self._is_closing = False
        self._resident = ResidentModels(self._load, is_stored=self._is_stored, fetch=self._fetch)

    def cards(self) -> dict[str, ModelCard]:
        """All of them, by id."""
        settings = self._settings
        cards = self._store.cards
        if settings.models is not None:
            served = [find_model(cards, name).id for name in settings.models]
            cards = {model_id: cards[model_id] for model_id in served}
        # An operator's own model, which may come at any time, has its own sides.
        return {model_id: self._as_set.get(model_id, card) for model_id, card in cards.items()}

    def status_of(self, card: ModelCard) -> ModelStatus:
        """Where a model is, and what it takes there."""
        stored = self._store.state(card)
        load = self._resident.find(card.id)
        if load is None or stored.state == "downloading":
            return ModelStatus(stored.state, stored.num_bytes)
        if not load.done():
            return ModelStatus("loading", stored.num_bytes)
        if load.exception() is not None:
            return ModelStatus("failed", stored.num_bytes)
        unused_arrays = load.result().unused_arrays
        return ModelStatus("ready", stored.num_bytes, unused_arrays=unused_arrays)

    def request(self, card: ModelCard, /) -> Future[LoadedModel]:
        """Done when the model is loaded, or could not be; loads it where that is needed."""
        return self._resident.request(card)

    def unload(self, model_id: str, /) -> None:
        """Gives up a model that is loaded."""
        self._resident.unload(model_id)

    def predict(
        self, model_id: str, samples: Sequence[Sample], /
    ) -> list[Prediction | AnswerTooLarge]:
        """What a loaded model says of samples of one padded size; on the device's thread alone."""
        return self._resident.predict(model_id, samples)

    def close(self) -> None:
        """Ends downloads, waits for a load under way, and starts nothing else."""
        self._is_closing = True
        self._resident.close()

    def _with_sides(self, card: ModelCard) -> ModelCard:
        """The card with the operator's sides, unless the model was made for its own."""
        if card.url is None:
            return card
        settings = self._settings
        return replace(card, short_side=settings.short_side, long_side=settings.long_side)

    def _is_stored(self, card: ModelCard) -> bool:
        return self._store.state(card).state == "stored"

    def _fetch(self, card: ModelCard) -> None:
        """Download a model, where the operator lets it be.

        Raises:
            CheckpointUnavailable: it may not be, or cannot be had; the message says what to do.
            CheckpointRejected: what was had is not the model's file.
        """
        download = self._settings.download
        preloaded = {find_model(self._store.cards, name).id for name in self._settings.preload}
        if download == "never" or (download == "preload" and card.id not in preloaded):
            raise CheckpointUnavailable(
                f"{card.id} is not in the model store, and requests may not download here: ask "
                f"the operator for `densepose models pull {card.id}`"
            )
        self._store.pull(card, self._stop_when_closing)

    def _stop_when_closing(self, _num_bytes: int, _total: int | None) -> None:
        if self._is_closing:
            raise Draining("The service is shutting down: ask another replica.")

    def _load(self, card: ModelCard) -> LoadedModel:
        arrays = self._store.load_arrays(card)
        return LoadedModel(*build_predictor(card, arrays, self._device, self._dtype))


def build_service(settings: Settings) -> Service:
    """The service that a server runs.

    Raises:
        DeviceUnavailable: the chosen device is not there.
    """
    models = ServedModels(settings)
    build_info = {"torch": torch.__version__, "cuda": torch.version.cuda or "none"}
    return assemble(settings, models, models.cards, models.status_of, build_info)
