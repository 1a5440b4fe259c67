"""Puts the service together: the only module that knows both the HTTP side and the device side."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib import metadata

import numpy as np
import torch
from fastapi import FastAPI

from model_store.catalogue import ModelCard, find_model, load_catalogue
from model_store.checkpoint import read_checkpoint
from model_store.errors import ModelStoreError
from model_store.store import ModelStore
from service.api.application import create_application
from service.api.backend import Backend, ModelState, ModelStatus
from service.api.densepose import Limits
from service.batching.device_thread import DeviceThread
from service.datatypes import Prediction, Query, Sample, SizeHW
from service.errors import AnswerTooLarge, DeadlineExceeded, ModelLoading, Overloaded, ServiceError
from service.inference.loading import DTYPES, build_predictor, find_device
from service.inference.resident import LoadedModel, ResidentModels
from service.metrics import Metrics
from service.settings import Settings

logger = logging.getLogger(__name__)

MAX_PRELOAD_BACKOFF_S = 300.0
# A model is warm when it has seen one small image.
WARM_UP_SIDE = 128
WARM_UP_TIMEOUT_S = 600.0


class Service:
    """The models, the device and the thread that owns it, behind what the API asks of them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._device = find_device(settings.device)
        self._dtype = DTYPES[settings.precision]
        self._store = ModelStore(settings.model_store, load_catalogue(settings.zoo_url))
        self._models = ResidentModels(self._load)
        self._thread = DeviceThread[tuple[str, SizeHW], Sample, Prediction](
            self._run, max_batch=settings.max_batch, max_queue=settings.max_queue
        )
        # Why the service is not ready, by the model that it waits for. The event loop's.
        self._awaited = dict.fromkeys(settings.preload, "is being loaded")

    def backend(self) -> Backend:
        """What the API is given."""
        return Backend(
            cards=self._cards,
            status_of=self._status_of,
            predict=self._predict,
            readiness=self._readiness,
            liveness=self._liveness,
        )

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Preloads while the application runs; at its end finishes what was accepted."""
        preloads = [asyncio.create_task(self._preload(name)) for name in self._settings.preload]
        try:
            yield
        finally:
            for preload in preloads:
                preload.cancel()
            await asyncio.to_thread(self._thread.stop)
            await asyncio.to_thread(self._models.close)

    def _cards(self) -> dict[str, ModelCard]:
        settings = self._settings
        cards = self._store.cards
        if settings.models is not None:
            served = [find_model(cards, name).id for name in settings.models]
            cards = {model_id: cards[model_id] for model_id in served}
        return {model_id: self._as_set(card) for model_id, card in cards.items()}

    def _as_set(self, card: ModelCard) -> ModelCard:
        """The card with the operator's sides, unless the model was made for its own."""
        if card.url is None:
            return card
        settings = self._settings
        return replace(card, short_side=settings.short_side, long_side=settings.long_side)

    def _status_of(self, card: ModelCard) -> ModelStatus:
        is_stored = self._store.is_stored(card)
        num_bytes = self._store.checkpoint_path(card).stat().st_size if is_stored else None
        state: ModelState = "stored" if is_stored else "absent"
        load = self._models.find(card.id)
        if load is None:
            return ModelStatus(state, num_bytes)
        if not load.done():
            return ModelStatus("loading", num_bytes)
        if load.exception() is not None:
            return ModelStatus("failed", num_bytes)
        return ModelStatus("ready", num_bytes, unused_arrays=load.result().unused_arrays)

    async def _predict(self, card: ModelCard, sample: Sample, deadline_s: float) -> Prediction:
        load = asyncio.wrap_future(self._models.request(card))
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                # Others wait for the same load.
                await asyncio.shield(load)
        except TimeoutError:
            raise ModelLoading(f"{card.id} is being loaded: try again in a moment.") from None
        ticket = self._thread.submit((card.id, sample.padded_size_hw), sample, deadline_s)
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                prediction = await asyncio.wrap_future(ticket.result)
        except TimeoutError:
            if ticket.started_at is None:
                raise Overloaded("The request waited in the queue until its deadline.") from None
            raise DeadlineExceeded(
                "The image was not described in time: send a smaller one, ask for less, or allow "
                "more with timeout_ms."
            ) from None
        queue_s = (ticket.started_at or ticket.queued_at) - ticket.queued_at
        return replace(prediction, stage_seconds={"queue": queue_s, **prediction.stage_seconds})

    def _load(self, card: ModelCard) -> LoadedModel:
        arrays = read_checkpoint(self._store.checkpoint_path(card))
        return LoadedModel(*build_predictor(card, arrays, self._device, self._dtype))

    def _run(
        self, key: tuple[str, SizeHW], samples: Sequence[Sample]
    ) -> list[Prediction | AnswerTooLarge]:
        return self._models.predict(key[0], samples)

    async def _preload(self, name: str) -> None:
        """Load and warm a model; while it cannot be had, say why and try again."""
        backoff_s = 1.0
        while True:
            try:
                await self._warm_up(find_model(self._cards(), name))
            except (ServiceError, ModelStoreError) as error:
                self._awaited[name] = str(error)
                logger.warning(
                    "preload failed", extra={"fields": {"model": name, "reason": str(error)}}
                )
            else:
                del self._awaited[name]
                return
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, MAX_PRELOAD_BACKOFF_S)

    async def _warm_up(self, card: ModelCard) -> None:
        grey = np.full((WARM_UP_SIDE, WARM_UP_SIDE, 3), 128, np.uint8)
        box = (0.0, 0.0, float(WARM_UP_SIDE), float(WARM_UP_SIDE))
        query = Query(frozenset(), boxes_xyxy=(box,), class_ids=(0,))
        sample = Sample(grey, (WARM_UP_SIDE, WARM_UP_SIDE), query)
        await self._predict(card, sample, time.monotonic() + WARM_UP_TIMEOUT_S)

    def _readiness(self) -> tuple[bool, str]:
        is_alive, reason = self._liveness()
        if is_alive and self._awaited:
            name, reason = next(iter(self._awaited.items()))
            return False, f"{name}: {reason}"
        return is_alive, reason

    def _liveness(self) -> tuple[bool, str]:
        if self._thread.is_alive:
            return True, "serving"
        return False, "the device's thread has ended"


def build_application(settings: Settings) -> FastAPI:
    """The application that a server runs.

    Raises:
        DeviceUnavailable: the chosen device is not there.
    """
    service = Service(settings)
    return create_application(
        backend=service.backend(),
        default_model=settings.default_model,
        limits=Limits(
            timeout_ms=settings.timeout_ms,
            upload_timeout_ms=settings.upload_timeout_ms,
            max_body_bytes=settings.max_body_bytes,
            max_pixels=settings.max_pixels,
            max_inflight_bytes=settings.max_inflight_bytes,
            max_answer_samples=settings.max_answer_pixels,
        ),
        metrics=Metrics(
            {
                "version": metadata.version("densepose-serving"),
                "torch": torch.__version__,
                "cuda": torch.version.cuda or "none",
            }
        ),
        executor=ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="codec"),
        lifespan=service.lifespan,
    )
