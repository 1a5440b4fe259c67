"""Puts the service together: the only module that knows both the HTTP side and the device side."""

from dataclasses import replace

import torch

from model_store.catalogue import load_catalogue
from model_store.store import ModelStore
from service.assembly import Service, assemble, build_metrics
from service.metrics import Metrics
from service.residency.device import ModelDevice
from service.residency.resident import Policy, ResidentModels
from service.settings import Settings


def build_models(settings: Settings, metrics: Metrics | None = None) -> ResidentModels:
    """The models that a process serves; what happens to them is told by `metrics`.

    Raises:
        DeviceUnavailable: the chosen device is not there.
    """
    short_side, long_side = settings.short_side, settings.long_side
    # One that is not the zoo's was made for sides of its own.
    catalogue = {
        model_id: replace(card, short_side=short_side, long_side=long_side) if card.url else card
        for model_id, card in load_catalogue(settings.zoo_url).items()
    }
    store = ModelStore(settings.model_store, catalogue, is_offline=settings.offline)
    store.watch()
    return ResidentModels(
        store,
        ModelDevice(settings.device, settings.precision, settings.device_memory),
        Policy(settings.models, settings.preload, settings.download),
        metrics,
    )


def build_service(settings: Settings) -> Service:
    """The service that a server runs.

    Raises:
        DeviceUnavailable: the chosen device is not there.
    """
    metrics = build_metrics({"torch": torch.__version__, "cuda": torch.version.cuda or "none"})
    models = build_models(settings, metrics)
    metrics.watch_memory(models.memory)
    return assemble(settings, models, metrics)
