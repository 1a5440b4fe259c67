"""The HTTP application, put together from its routes."""

from concurrent.futures import Executor
from functools import cache, partial

from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException
from starlette.types import Lifespan

from model_store.errors import ModelStoreError
from service.api.backend import Backend
from service.api.densepose import DensePose, Limits
from service.api.document import densepose_operation, densepose_responses, document
from service.api.errors import answer_expected_error, answer_framework_error
from service.api.examples import USAGE
from service.api.health import health_router
from service.api.middleware import RequestRecorder
from service.api.models import models_router
from service.errors import ServiceError
from service.metrics import Metrics

DENSEPOSE_PATH = "/v1/densepose"


def create_application(
    *,
    backend: Backend,
    default_model: str,
    limits: Limits,
    metrics: Metrics,
    executor: Executor,
    lifespan: Lifespan[FastAPI] | None = None,
) -> FastAPI:
    """The application; decoding and encoding run in the executor, which stays the caller's."""
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
    densepose = DensePose(
        backend=backend, default_model=default_model, limits=limits, executor=executor
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
    app.include_router(models_router(backend, default_model))
    app.include_router(health_router(backend, metrics))
    app.add_middleware(RequestRecorder, metrics=metrics, measured_route=DENSEPOSE_PATH)
    app.openapi = cache(partial(document, app))  # type: ignore[method-assign]
    return app
