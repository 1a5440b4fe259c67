"""The HTTP application, put together from its routes."""

from functools import cache, partial

from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException
from starlette.types import Lifespan

from model_store.errors import ModelStoreError
from service.api.access import Access, Doorkeeper
from service.api.densepose import DensePose
from service.api.docs_page import docs_router
from service.api.document import densepose_operation, densepose_responses, document
from service.api.errors import answer_expected_error, answer_framework_error
from service.api.examples import USAGE
from service.api.health import health_router
from service.api.middleware import RequestRecorder
from service.api.models import models_router
from service.api.origins import Origins
from service.api.parts import parts_router
from service.api.renders import renders_router
from service.batching.inflight import InflightBytes
from service.errors import ServiceError
from service.metrics import Metrics
from service.pipeline.pipeline import Pipeline
from service.settings import Settings

DENSEPOSE_PATH = "/v1/densepose"


def create_application(
    pipeline: Pipeline,
    inflight: InflightBytes,
    settings: Settings,
    metrics: Metrics,
    access: Access,
    lifespan: Lifespan[FastAPI] | None = None,
) -> FastAPI:
    """The application; its threads and its engine stay the caller's."""
    engine = pipeline.engine
    origins = Origins(settings.cors_origins, settings.known_hosts)
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
    metrics.inflight_requests.set_function(lambda: inflight.num_requests)
    metrics.inflight_bytes.set_function(lambda: inflight.num_bytes)
    metrics.saturation.set_function(lambda: max(engine.saturation(), inflight.fill))
    metrics.ready.set_function(lambda: engine.readiness()[0])
    metrics.draining.set_function(lambda: engine.is_over)
    app.add_api_route(
        DENSEPOSE_PATH,
        DensePose(pipeline, inflight, settings).answer,
        methods=["POST"],
        summary="Describe the people or animals in one image",
        description=USAGE,
        tags=["images"],
        response_class=Response,
        responses=densepose_responses(),
        openapi_extra=densepose_operation(),
    )
    app.include_router(models_router(engine, settings.default_model, access))
    app.include_router(parts_router())
    app.include_router(renders_router())
    app.include_router(health_router(engine, metrics))
    app.include_router(docs_router(app.title))
    # The last is the outermost.
    app.add_middleware(
        Doorkeeper, origins=origins, access=access, max_body_bytes=settings.max_body_bytes
    )
    app.add_middleware(
        RequestRecorder,
        metrics=metrics,
        origins=origins,
        measured_route=DENSEPOSE_PATH,
        engine=engine,
    )
    app.openapi = cache(partial(document, app))  # type: ignore[method-assign]
    return app
