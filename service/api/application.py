"""The HTTP application, put together from its routes."""

from functools import cache, partial

from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException
from starlette.types import Lifespan

from model_store.errors import ModelStoreError
from service.api.access import Access, Doorkeeper
from service.api.backend import Backend
from service.api.connection import ConnectionLimits
from service.api.densepose import DensePose, Limits, Threads
from service.api.docs_page import docs_router
from service.api.document import densepose_operation, densepose_responses, document
from service.api.errors import answer_expected_error, answer_framework_error
from service.api.examples import USAGE
from service.api.health import health_router
from service.api.inflight import InflightBytes
from service.api.middleware import RequestRecorder
from service.api.models import models_router
from service.api.origins import Origins
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
    access: Access,
    origins: Origins,
    lifespan: Lifespan[FastAPI] | None = None,
) -> FastAPI:
    """The application; decoding and encoding run in the threads, which stay the caller's.

    Whoever listens for it takes the limits of a connection from `state.connection_limits`.
    """
    app = FastAPI(
        title="DensePose serving",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        # Traces go where the OTEL_* variables tell, and nowhere without them.
        telemetry={"metrics": False, "logs": False, "auto_configure": True},
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
    app.include_router(models_router(backend, default_model, access))
    app.include_router(parts_router())
    app.include_router(renders_router())
    app.include_router(health_router(backend, metrics))
    app.include_router(docs_router(app.title))
    # The last is the outermost.
    app.add_middleware(
        Doorkeeper, origins=origins, access=access, max_body_bytes=limits.max_body_bytes
    )
    app.add_middleware(
        RequestRecorder,
        metrics=metrics,
        origins=origins,
        measured_route=DENSEPOSE_PATH,
        is_draining=backend.is_draining,
    )
    app.state.connection_limits = ConnectionLimits(
        max_connections=limits.max_connections,
        upload_timeout_s=limits.upload_timeout_ms / 1000,
        max_body_bytes=limits.max_body_bytes,
        inflight=inflight,
    )
    app.openapi = cache(partial(document, app))  # type: ignore[method-assign]
    return app
