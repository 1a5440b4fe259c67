"""The HTTP application, put together from its routes."""

from functools import cache, partial

from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException
from starlette.types import Lifespan

from model_store.errors import ModelStoreError
from service.api.backend import Backend
from service.api.densepose import DensePose, Limits, Threads
from service.api.document import densepose_operation, densepose_responses, document
from service.api.errors import answer_expected_error, answer_framework_error
from service.api.examples import USAGE
from service.api.health import health_router
from service.api.inflight import InflightBytes
from service.api.middleware import RequestRecorder
from service.api.models import models_router
from service.api.parts import parts_router
from service.api.renders import renders_router
from service.errors import ServiceError
from service.metrics import Metrics

DENSEPOSE_PATH = "/v1/densepose"


def create_application(
    *,
    backend: Backend,
    default_model: str,
    limits: Limits,
    metrics: Metrics,
    threads: Threads,
    admin_key_sha256: str | None = None,
    lifespan: Lifespan[FastAPI] | None = None,
) -> FastAPI:
    """The application; decoding and encoding run in the threads, which stay the caller's."""
    app = FastAPI(
        title="DensePose serving",
        version="1",
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        exception_handlers={
            ServiceError: answer_expected_error,
            ModelStoreError: answer_expected_error,
            HTTPException: answer_framework_error,
        },
    )
    inflight = InflightBytes(limits.max_inflight_bytes, backend.queue.wait_s)
    metrics.inflight_requests.set_function(lambda: inflight.num_requests)
    metrics.inflight_bytes.set_function(lambda: inflight.num_bytes)
    metrics.saturation.set_function(lambda: max(backend.queue.saturation(), inflight.fill))
    metrics.ready.set_function(lambda: backend.readiness()[0])
    metrics.draining.set_function(backend.is_draining)
    densepose = DensePose(
        backend=backend,
        default_model=default_model,
        limits=limits,
        inflight=inflight,
        threads=threads,
    )
    app.add_api_route(
        DENSEPOSE_PATH,
        densepose.answer,
        methods=["POST"],
        summary="Describe the people or animals in one image",
        description=USAGE,
        tags=["images"],
        response_class=Response,
        responses=densepose_responses(),
        openapi_extra=densepose_operation(),
    )
    app.include_router(models_router(backend, default_model, admin_key_sha256))
    app.include_router(parts_router())
    app.include_router(renders_router())
    app.include_router(health_router(backend, metrics))
    app.add_middleware(
        RequestRecorder,
        metrics=metrics,
        measured_route=DENSEPOSE_PATH,
        is_draining=backend.is_draining,
    )
    app.openapi = cache(partial(document, app))  # type: ignore[method-assign]
    return app
