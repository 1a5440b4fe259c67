"""Is the process alive, is it ready, and how does it do: for orchestrators and Prometheus."""

import asyncio

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from service.api.schemas import Health
from service.batching.engine import Engine
from service.metrics import Metrics

# Asked every few seconds by machines.
OPERATION_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
RETRY_AFTER_S = 1


def health_router(engine: Engine, metrics: Metrics) -> APIRouter:
    """The routes /livez, /readyz and /metrics."""
    router = APIRouter(tags=["operation"])

    @router.get("/livez", responses={503: {"model": Health}})
    async def livez(response: Response) -> Health:
        """Whether the process does what it should; where not, restart it."""
        return _probe(engine.liveness(), response)

    @router.get("/readyz", responses={503: {"model": Health}})
    async def readyz(response: Response) -> Health:
        """Whether to send requests here: not while it starts, drains, or has lost its device."""
        return _probe(engine.readiness(), response)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def exposition() -> Response:
        """All metrics in Prometheus' text format."""
        content = await asyncio.to_thread(metrics.exposition)
        return Response(content, media_type=CONTENT_TYPE_LATEST)

    return router


def _probe(found: tuple[bool, str], response: Response) -> Health:
    is_well, reason = found
    if not is_well:
        response.status_code = 503
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return Health(status="ok" if is_well else "unavailable", reason=reason)
