"""The trace that a request is a part of, where its caller or this process keeps one."""

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers

PROPAGATOR = TraceContextTextMapPropagator()


def trace_id_of(headers: Headers) -> str | None:
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
