"""What happens to every request, whatever it asks: an id, headers, metrics, one line in the log."""

import logging
from collections.abc import Iterator

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import internal_error_response
from service.api.health import OPERATION_PATHS
from service.api.origins import Origins
from service.api.record import REFUSAL_KEY, SCOPE_KEY
from service.batching.engine import Engine
from service.metrics import Metrics
from service.pipeline.record import STAGES, Record, new_record

logger = logging.getLogger(__name__)

MAX_LOGGED_PATH = 256
PROPAGATOR = TraceContextTextMapPropagator()
# Anybody may invent a method; the metrics know these.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Of every answer that does not say otherwise: it is data, for whoever asked, and no page.
SECURITY_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}


class RequestRecorder:
    """Keeps the record of each request and publishes it; turns a defect of ours into a 500."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        origins: Origins,
        measured_route: str,
        engine: Engine,
    ) -> None:
        self.app = app
        self.origins = origins
        self.metrics = metrics
        self.measured_route = measured_route
        self.engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request, from its first byte to its last."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        record = new_record(headers.get("x-request-id"))
        record.trace_id = _trace_id_of(headers)
        scope[SCOPE_KEY] = record
        # HEAD is answered as GET would be; whoever writes the answer leaves its body out.
        is_head = scope["method"] == "HEAD"
        inner = {**scope, "method": "GET"} if is_head else scope

        async def receive_unless_refused() -> Message:
            message = await receive()
            if REFUSAL_KEY in scope:
                raise scope[REFUSAL_KEY]
            return message

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                record.media_type = Headers(raw=message["headers"]).get("content-type")
                message["headers"] = [*message["headers"], *_headers(record)]
                message["headers"] += _missing_headers(message["headers"])
                self.origins.describe(headers, MutableHeaders(scope=message))
                _describe_span(record)
                if self.engine.is_over:
                    # The next request will find its way to another replica on a new connection.
                    message["headers"].append((b"connection", b"close"))
            elif message["type"] == "http.response.body" and not is_head:
                record.response_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(inner, receive_unless_refused, send_and_note)
        except Exception:
            logger.exception("unhandled error", extra={"fields": {"id": record.request_id}})
            if record.status is None:
                response = internal_error_response(Request(scope))
                await response(scope, receive, send_and_note)
        finally:
            is_measured = scope["path"] == self.measured_route
            # What is turned away at the door has not found its route.
            route = self.measured_route if is_measured else _route_of(inner)
            self._measure(route, scope["method"], record)
            _log(scope, record)

    def _measure(self, route: str, method: str, record: Record) -> None:
        metrics = self.metrics
        method = method if method in METHODS else "other"
        metrics.http_requests.labels(route, method, str(record.status)).inc()
        if route != self.measured_route or method != "POST":
            return
        if record.refusal is not None:
            metrics.refusals.labels(record.refusal).inc()
        model = record.model_id or "unknown"
        metrics.requests.labels(model, record.outcome).inc()
        metrics.request_duration.labels(model).observe(record.elapsed_s())
        for stage, seconds in record.stage_seconds.items():
            metrics.stage_duration.labels(model, stage).observe(seconds)
        if record.image_pixels is not None:
            metrics.image_pixels.observe(record.image_pixels)
        if record.num_instances is not None:
            metrics.instances_per_image.labels(model).observe(record.num_instances)
        media_type = (record.media_type or "none").partition(";")[0]
        metrics.response_bytes.labels(media_type).observe(record.response_bytes)


def _route_of(scope: Scope) -> str:
    route: str = getattr(scope.get("route"), "path", "other")
    return route


def _headers(record: Record) -> Iterator[tuple[bytes, bytes]]:
    yield b"x-request-id", record.request_id.encode("ascii")
    if record.model_id is not None:
        yield b"x-model-id", record.model_id.encode("latin-1")
    if record.stage_seconds:
        timing_ms = record.timing_ms()
        stages = (name for name in (*STAGES, "total") if timing_ms[name])
        timing = ", ".join(f"{name};dur={timing_ms[name]}" for name in stages)
        yield b"server-timing", timing.encode("ascii")


def _missing_headers(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    names = {name.lower() for name, _ in headers}
    return [(name, value) for name, value in SECURITY_HEADERS.items() if name not in names]


def _describe_span(record: Record) -> None:
    """Tells the trace, where there is one, what the log will say."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    known = {
        "request_id": record.request_id,
        "outcome": record.outcome,
        "model": record.model_id,
        "key": record.key_name,
        "body_bytes": record.body_bytes,
        "image_pixels": record.image_pixels,
        "instances": record.num_instances,
    } | {f"{stage}_ms": ms for stage, ms in record.timing_ms().items()}
    span.set_attributes(
        {f"densepose.{name}": value for name, value in known.items() if value is not None}
    )


def _log(scope: Scope, record: Record) -> None:
    fields = {
        "id": record.request_id,
        "trace": record.trace_id,
        "key": record.key_name,
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
    # The lines of those that machines ask would drown the others.
    level = logging.DEBUG if scope["path"] in OPERATION_PATHS else logging.INFO
    logger.log(level, "request", extra={"fields": fields})


def _trace_id_of(headers: Headers) -> str | None:
    """The trace's id, 32 hexadecimal digits; None without a trace, or with an unreadable one.

    It is of this process' own span where traces are on, else of `traceparent`. W3C Trace Context.
    """
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        parents = headers.getlist("traceparent")
        if len(parents) != 1:
            return None
        carrier = {"traceparent": parents[0]}
        context = trace.get_current_span(PROPAGATOR.extract(carrier)).get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None
