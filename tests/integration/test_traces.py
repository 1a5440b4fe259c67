"""OpenTelemetry, in a server of its own that tells its traces to a collector on this machine."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from load_tests.server import running_server
from tests.integration.conftest import picture

STAND_IN = ("-m", "load_tests.stand_in", "--image-ms", "1", "--batch-ms", "1")
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


RECEIVED = []


class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        RECEIVED.append((self.path, body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    RECEIVED.clear()
    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address
    server.shutdown()
    thread.join()
    server.server_close()


def spans_of(body):
    request = ExportTraceServiceRequest.FromString(body)
    return [
        span
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes_of(span):
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes
    }


def test_a_request_is_a_span_of_its_caller_s_trace(collector, tmp_path, monkeypatch):
    host, port = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{host}:{port}")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "densepose")
    settings = {"DEFAULT_MODEL": "demo", "MODEL_STORE": str(tmp_path), "LOG_FORMAT": "json"}
    log = tmp_path / "log"
    with running_server(settings, log, STAND_IN) as server:
        response = httpx2.post(
            f"{server.url}/v1/densepose",
            content=picture(),
            headers={"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01", "X-Request-ID": "traced"},
        )
        assert response.status_code == 200
    # What is not sent yet is sent when the server ends.
    assert {path for path, _ in RECEIVED} == {"/v1/traces"}
    spans = [span for _, body in RECEIVED for span in spans_of(body)]
    (span,) = [
        span for span in spans if attributes_of(span).get("densepose.request_id") == "traced"
    ]
    attributes = attributes_of(span)
    assert span.trace_id.hex() == TRACE_ID
    assert span.parent_span_id.hex() == SPAN_ID
    assert attributes["http.route"] == "/v1/densepose"
    assert attributes["densepose.model"] == "demo"
    assert attributes["densepose.outcome"] == "success"
    assert attributes["densepose.network_ms"] >= 0
    assert f'"trace": "{TRACE_ID}"' in log.read_text()


def test_without_a_collector_nothing_of_it_is_imported():
    code = (
        "import sys; from tests.integration.conftest import build_service;"
        "build_service().ask();"
        "sys.exit(any(name.startswith('opentelemetry.sdk') or 'exporter' in name"
        " for name in sys.modules if name.startswith('opentelemetry')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
