"""What stands in the headers of every answer: for browsers, for traces, for other origins."""

import base64
import hashlib
import logging
import re
from urllib.parse import urljoin

import pytest

from service.api.access import Access
from service.keys import parse_keys

ORIGIN = "https://app.example"
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "path", ["/livez", "/metrics", "/v1/models", "/nowhere", "/docs", "/docs/swagger-ui.css"]
)
def test_every_answer_tells_browsers_to_do_nothing_with_it(service, path):
    headers = service.client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_answers_are_not_kept_and_errors_neither(service):
    for response in (service.ask(), service.ask(b""), service.client.get("/v1/models")):
        assert response.headers["cache-control"] == "no-store"


def test_a_defect_has_the_headers_too(service):
    service.device.error = RuntimeError("why")
    response = service.ask()
    assert response.status_code == 500
    assert response.headers["x-content-type-options"] == "nosniff"


def test_nothing_in_the_documentation_comes_from_elsewhere(service):
    page = service.client.get("/docs")
    assert not re.search(r"(src|href)=\"(https?:)?//", page.text)
    policy = page.headers["content-security-policy"]
    assert "http" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert scripts
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_the_files_of_the_documentation_are_served_also_behind_a_prefix(service):
    seen_at = "https://edge.example/some/prefix"
    page = service.client.get("/docs").text
    addresses = re.findall(r"(?:src|href)=\"(?!data:)([^\"]+)\"", page)
    addresses += re.findall(r"url: '([^']+)'", page)
    assert len(addresses) == 3
    for address in addresses:
        path = urljoin(f"{seen_at}/docs", address).removeprefix(seen_at)
        response = service.client.get(path)
        assert response.status_code == 200
        assert len(response.content) > 10_000
        media_type = response.headers["content-type"].split(";")[0]
        assert media_type in {"text/css", "text/javascript", "application/json"}
    script = service.client.get("/docs/swagger-ui-bundle.js")
    assert "SwaggerUIBundle" in script.text
    assert service.client.get("/docs/redoc.standalone.js").status_code == 404
    (server,) = service.client.get("/openapi.json").json()["servers"]
    assert urljoin(f"{seen_at}/openapi.json", server["url"]) == f"{seen_at}/"


def test_without_origins_set_no_page_elsewhere_may_ask(service):
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    for response in (
        service.ask(origin=ORIGIN),
        service.client.options("/v1/densepose", headers=headers),
    ):
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.fixture
def shared(make_service):
    keys = parse_keys(f"alice={hashlib.sha256(b'open sesame').hexdigest()}")
    return make_service(cors_origins=(ORIGIN,), access=Access(lambda: keys))


def test_a_page_of_an_origin_that_is_set_may_ask(shared):
    preflight = shared.client.options(
        "/v1/densepose",
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-api-key, content-type",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "x-request-id" in preflight.headers
    for response in (
        shared.ask(origin=ORIGIN, x_api_key="open sesame"),
        shared.ask(origin=ORIGIN),
        shared.client.get("/nowhere", headers={"Origin": ORIGIN}),
    ):
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "X-Request-ID" in response.headers["access-control-expose-headers"]
        # Nobody is known by a cookie here.
        assert "access-control-allow-credentials" not in response.headers


def test_a_page_of_another_origin_may_not(shared):
    response = shared.ask(origin="https://evil.example", x_api_key="open sesame")
    assert "access-control-allow-origin" not in response.headers


def logged_trace(service, caplog, *parents):
    caplog.clear()
    caplog.set_level(logging.INFO, logger="service")
    service.client.get("/v1/parts", headers=[("traceparent", parent) for parent in parents])
    (line,) = [record.fields for record in caplog.records if record.message == "request"]
    return line["trace"]


def test_the_caller_s_trace_stands_in_the_log(service, caplog):
    assert logged_trace(service, caplog, f"00-{TRACE_ID}-{SPAN_ID}-01") == TRACE_ID
    assert logged_trace(service, caplog, f"00-{TRACE_ID}-{SPAN_ID}-00") == TRACE_ID
    assert logged_trace(service, caplog) is None


@pytest.mark.parametrize(
    "parents",
    [
        (TRACE_ID,),
        (f"00-{'0' * 32}-{SPAN_ID}-01",),
        (f"00-{TRACE_ID}-{'0' * 16}-01",),
        (f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",),
        (f"ff-{TRACE_ID}-{SPAN_ID}-01",),
        (f"00-{TRACE_ID}-{SPAN_ID}-01-more",),
        (f"00-{TRACE_ID}-{SPAN_ID}",),
        (f"00-{TRACE_ID[:-1]}g-{SPAN_ID}-01",),
        ("00-" + "a" * 5000,),
        (f"00-{TRACE_ID}-{SPAN_ID}-01", f"00-{'1' * 32}-{SPAN_ID}-01"),
    ],
)
def test_a_trace_that_is_none_is_no_trace(service, caplog, parents):
    assert logged_trace(service, caplog, *parents) is None
