"""What happens to every request, whatever it asks: an id, headers, metrics, one line in the log."""

import logging
from collections.abc import Callable, Iterator

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import internal_error_response
from service.api.record import SCOPE_KEY, STAGES, Record, new_record
from service.metrics import Metrics

logger = logging.getLogger(__name__)

# Asked every few seconds by machines; their lines would drown the others.
QUIET_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
MAX_LOGGED_PATH = 256
# Anybody may invent a method; the metrics know these.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestRecorder:
    """Keeps the record of each request and publishes it; turns a defect of ours into a 500."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        measured_route: str,
        is_draining: Callable[[], bool],
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.measured_route = measured_route
        self.is_draining = is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request, from its first byte to its last."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = new_record(Headers(scope=scope).get("x-request-id"))
        scope[SCOPE_KEY] = record

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                record.media_type = Headers(raw=message["headers"]).get("content-type")
                message["headers"] = [*message["headers"], *_headers(record)]
                if self.is_draining():
                    # The next request will find its way to another replica on a new connection.
                    message["headers"].append((b"connection", b"close"))
            elif message["type"] == "http.response.body":
                record.response_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except Exception:
            logger.exception("unhandled error", extra={"fields": {"id": record.request_id}})
            if record.status is None:
                response = internal_error_response(Request(scope))
                await response(scope, receive, send_and_note)
        finally:
            self._measure(scope, record)
            _log(scope, record)

    def _measure(self, scope: Scope, record: Record) -> None:
        metrics = self.metrics
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in METHODS else "other"
        metrics.http_requests.labels(route, method, str(record.status)).inc()
        if route != self.measured_route or method != "POST":
            return
        if record.refusal is not None:
            metrics.refusals.labels(record.refusal).inc()
        model = record.model_id or "unknown"
        metrics.requests.labels(model, record.outcome).inc()
        metrics.request_duration.labels(model).observe(record.elapsed_s())
        for stage, seconds in record.stage_seconds.items():
            metrics.stage_duration.labels(stage).observe(seconds)
        if record.image_pixels is not None:
            metrics.image_pixels.observe(record.image_pixels)
        if record.num_instances is not None:
            metrics.instances_per_image.labels(model).observe(record.num_instances)
        media_type = (record.media_type or "none").partition(";")[0]
        metrics.response_bytes.labels(media_type).observe(record.response_bytes)


def _headers(record: Record) -> Iterator[tuple[bytes, bytes]]:
    yield b"x-request-id", record.request_id.encode("ascii")
    if record.model_id is not None:
        yield b"x-model-id", record.model_id.encode("latin-1")
    if record.stage_seconds:
        timing_ms = record.timing_ms()
        stages = (name for name in (*STAGES, "total") if timing_ms[name])
        timing = ", ".join(f"{name};dur={timing_ms[name]}" for name in stages)
        yield b"server-timing", timing.encode("ascii")


def _log(scope: Scope, record: Record) -> None:
    fields = {
        "id": record.request_id,
        "method": scope["method"],
        "path": scope["path"][:MAX_LOGGED_PATH],
        "status": record.status,
        "outcome": record.outcome,
        "model": record.model_id,
        "body_bytes": record.body_bytes,
        "image_pixels": record.image_pixels,
        "instances": record.num_instances,
        "response_bytes": record.response_bytes,
        "timing_ms": record.timing_ms(),
    }
    level = logging.DEBUG if scope["path"] in QUIET_PATHS else logging.INFO
    logger.log(level, "request", extra={"fields": fields})
