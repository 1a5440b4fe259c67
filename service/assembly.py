"""The application and its engine, built around whatever stands on the device side."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import metadata

from fastapi import FastAPI

from model_store.catalogue import ModelCard
from service.api.access import Access
from service.api.application import create_application
from service.api.backend import Backend
from service.api.densepose import Limits, Threads
from service.api.key_file import KeyFile
from service.api.keys import Key
from service.api.origins import Origins
from service.batching.pool import FairPool
from service.datatypes import ModelStatus
from service.engine import Engine, Models, QueueLimits
from service.errors import InvalidSetting
from service.imaging.decoders import Decoders
from service.metrics import Metrics
from service.settings import Settings
from service.threads import num_cores

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
    metrics: Metrics,
    *,
    hang_s: float | None = None,
) -> Service:
    """The service; `cards` has the models that it serves, `hang_s` is as in `QueueLimits`.

    Raises:
        InvalidSetting: the file of API keys cannot be used.
    """
    threads = build_threads(metrics)
    engine = build_engine(settings, models, cards, metrics, threads, hang_s=hang_s)

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        threads.pictures.start()
        try:
            async with engine.lifespan(application):
                yield
        finally:
            threads.pictures.close()

    application = create_application(
        backend=Backend(
            cards=cards,
            status_of=status_of,
            load=models.request,
            unload=models.unload,
            queue=engine.queue(),
            readiness=engine.readiness,
            liveness=engine.liveness,
            is_draining=lambda: engine.is_draining or engine.failure is not None,
        ),
        default_model=settings.default_model,
        limits=Limits(
            timeout_ms=settings.timeout_ms,
            upload_timeout_ms=settings.upload_timeout_ms,
            max_body_bytes=settings.max_body_bytes,
            max_pixels=settings.max_pixels,
            max_inflight_bytes=settings.max_inflight_bytes,
            max_answer_bytes=settings.max_answer_bytes,
            max_connections=settings.max_connections,
        ),
        metrics=metrics,
        access=Access(_keys(settings), settings.admin_key),
        origins=Origins(settings.cors_origins, settings.known_hosts),
        threads=threads,
        lifespan=lifespan,
    )
    return Service(application, engine)


def build_metrics(build_info: Mapping[str, str]) -> Metrics:
    """The metrics of a service of this version; `build_info` has what it was built with."""
    return Metrics({"version": metadata.version("densepose-serving"), **build_info})


def build_engine(
    settings: Settings,
    models: Models,
    cards: Callable[[], Mapping[str, ModelCard]],
    metrics: Metrics,
    threads: Threads,
    *,
    hang_s: float | None = None,
) -> Engine:
    """The way to these models and past these threads, within the limits that are set."""
    return Engine(
        models,
        cards,
        preload=settings.preload,
        limits=QueueLimits(
            max_batch=settings.max_batch,
            max_queue=settings.max_queue,
            max_delay_ms=settings.max_delay_ms,
            timeout_ms=settings.timeout_ms,
            image_pixels=_padded(settings.short_side) * _padded(settings.long_side),
            hang_s=hang_s,
        ),
        metrics=metrics,
        stages={"decoders": threads.decoders, "encoders": threads.encoders},
    )


def build_threads(metrics: Metrics) -> Threads:
    """The pools, of as many threads as there are cores, and decoders of costly pictures."""
    num_threads = min(num_cores(), MAX_THREADS)
    decoders = FairPool(num_threads, "decoder")
    return Threads(
        decoders=decoders,
        encoders=FairPool(num_threads, "encoder"),
        pictures=Decoders(
            decoders, num_usual=num_threads, num_large=max(num_threads // 2, 1), metrics=metrics
        ),
    )


def _keys(settings: Settings) -> Callable[[], tuple[Key, ...]] | None:
    """The API keys of the moment; None where nobody needs one."""
    if settings.api_keys_file is None:
        return (lambda: settings.api_keys) if settings.api_keys else None
    try:
        file = KeyFile(settings.api_keys_file)
    except OSError as error:
        raise InvalidSetting(f"DENSEPOSE_API_KEYS_FILE cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InvalidSetting(f"DENSEPOSE_API_KEYS_FILE cannot be used: {error}") from None
    return lambda: (*settings.api_keys, *file.keys())


def _padded(side: int) -> int:
    """The side as the network sees it, as in `Sample.padded_size_hw`."""
    return -(-side // 32) * 32
