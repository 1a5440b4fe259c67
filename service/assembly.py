"""The application and its engine, built around whatever stands on the device side."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata

from fastapi import FastAPI

from model_store.catalogue import ModelCard
from service.api.application import create_application
from service.api.backend import Backend, ModelStatus
from service.api.densepose import Limits, Threads
from service.engine import Engine, Models, QueueLimits
from service.metrics import Metrics
from service.settings import Settings

# Of each pool: more would keep up with any device, and hold more decoded pictures at a time.
MAX_THREADS = 8


@dataclass(frozen=True, slots=True)
class Service:
    """What a server runs, and what it tells to drain and to end."""

    application: FastAPI
    engine: Engine


def assemble(
    settings: Settings,
    models: Models,
    cards: Callable[[], Mapping[str, ModelCard]],
    status_of: Callable[[ModelCard], ModelStatus],
    build_info: Mapping[str, str],
) -> Service:
    """The service; `cards` has the models that it serves, `build_info` what it was built with."""
    metrics = Metrics({"version": metadata.version("densepose-serving"), **build_info})
    engine = Engine(
        models,
        cards,
        preload=settings.preload,
        limits=QueueLimits(
            max_batch=settings.max_batch,
            max_queue=settings.max_queue,
            max_delay_ms=settings.max_delay_ms,
            timeout_ms=settings.timeout_ms,
            image_pixels=_padded(settings.short_side) * _padded(settings.long_side),
        ),
        metrics=metrics,
    )
    num_threads = min(_num_cores(), MAX_THREADS)
    application = create_application(
        backend=Backend(
            cards=cards,
            status_of=status_of,
            load=models.request,
            unload=models.unload,
            queue=engine.queue(),
            readiness=engine.readiness,
            liveness=engine.liveness,
            is_draining=lambda: engine.is_draining,
        ),
        default_model=settings.default_model,
        limits=Limits(
            timeout_ms=settings.timeout_ms,
            upload_timeout_ms=settings.upload_timeout_ms,
            max_body_bytes=settings.max_body_bytes,
            max_pixels=settings.max_pixels,
            max_inflight_bytes=settings.max_inflight_bytes,
            max_answer_samples=settings.max_answer_pixels,
        ),
        metrics=metrics,
        admin_key_sha256=settings.admin_key,
        threads=Threads(
            decoders=ThreadPoolExecutor(num_threads, thread_name_prefix="decoder"),
            encoders=ThreadPoolExecutor(num_threads, thread_name_prefix="encoder"),
        ),
        lifespan=engine.lifespan,
    )
    return Service(application, engine)


def _num_cores() -> int:
    """The cores that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _padded(side: int) -> int:
    """The side as the network sees it, as in `Sample.padded_size_hw`."""
    return -(-side // 32) * 32
