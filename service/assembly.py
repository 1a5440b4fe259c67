"""The application and its engine, built around whatever stands on the device side."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import metadata

from fastapi import FastAPI

from service.api.access import Access
from service.api.application import create_application
from service.api.key_file import KeyFile
from service.batching.engine import Engine, Models
from service.batching.inflight import InflightBytes
from service.errors import InvalidSetting
from service.keys import Key
from service.metrics import Metrics
from service.pipeline.pipeline import Pipeline, Threads
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    """What a server runs, what it tells to drain and to end, and what its connections count."""

    application: FastAPI
    engine: Engine
    inflight: InflightBytes


def assemble(
    settings: Settings, models: Models, metrics: Metrics, *, hang_s: float | None = None
) -> Service:
    """The service; `hang_s` is as in `Engine`.

    Raises:
        InvalidSetting: the file of API keys cannot be used.
    """
    threads = Threads(metrics)
    stages = (threads.decoders, threads.encoders)
    engine = Engine(models, settings, metrics, stages, hang_s=hang_s)
    pipeline = Pipeline(engine, threads, settings, max_answer_bytes=settings.max_answer_bytes)
    inflight = InflightBytes(settings.max_inflight_bytes, engine.wait_s)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        threads.pictures.start()
        try:
            async with engine.running():
                yield
        finally:
            threads.pictures.close()

    access = Access(_keys(settings), settings.admin_key)
    application = create_application(pipeline, inflight, settings, metrics, access, lifespan)
    return Service(application, engine, inflight)


def build_metrics(build_info: Mapping[str, str]) -> Metrics:
    """The metrics of a service of this version; `build_info` has what it was built with."""
    return Metrics({"version": metadata.version("densepose-serving"), **build_info})


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
