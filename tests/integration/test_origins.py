"""What web pages of other origins can make the service do, and under which names it answers."""

import hashlib
import logging

import pytest

from service.api.access import Access
from service.keys import parse_keys
from tests.integration.conftest import build_service, picture
from tests.integration.test_errors import problem_of
from tests.integration.test_operation import sample

HERE = "a.example:8000"
CROSS_SITE = ("Sec-Fetch-Site", "cross-site")
VISIT = [CROSS_SITE, ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]
ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def make_shared():
    """Makes services for those who only look at what they answer, one for each choice."""
    services = {}

    def make(**choice):
        key = str(choice)
        if key not in services:
            services[key] = build_service(**choice)
        services[key].device.asked.clear()
        return services[key]

    yield make
    for service in services.values():
        service.decoders.shutdown()
        service.encoders.shutdown()


@pytest.fixture
def public(make_shared):
    return make_shared()


@pytest.fixture
def private(make_shared):
    return make_shared(allowed_hosts=())


def send(service, *headers, method="POST", path="/v1/densepose", host=HERE):
    """A request with these headers and no others that a program would add."""
    content = picture() if method == "POST" else None
    return service.client.request(
        method, path, content=content, headers=[("Host", host), *headers, ("Accept", "*/*")]
    )


def code_of(response):
    return problem_of(response)["code"] if response.status_code >= 400 else response.status_code


OF_OTHER_PAGES = {
    "a page elsewhere": [("Origin", "https://evil.example"), CROSS_SITE],
    "its origin alone": [("Origin", "https://evil.example")],
    "its site alone": [CROSS_SITE],
    "a page of a neighbour": [("Sec-Fetch-Site", "same-site")],
    "a site that is none": [("Sec-Fetch-Site", "Same-Origin")],
    "two sites": [("Sec-Fetch-Site", "same-origin"), CROSS_SITE],
    "a page without origin": [("Origin", "null")],
    "an empty origin": [("Origin", "")],
    "another port": [("Origin", "http://a.example:8001")],
    "the scheme's port": [("Origin", "http://a.example")],
    "a name below": [("Origin", "http://b.a.example:8000")],
    "a name above": [("Origin", "http://example:8000")],
    "a name that begins so": [("Origin", "http://a.example.evil:8000")],
    "a user": [("Origin", "http://a.example:8000@evil.example")],
    "a user before": [("Origin", "http://evil@a.example:8000")],
    "a path": [("Origin", "http://a.example:8000/")],
    "a list": [("Origin", "http://a.example:8000, https://evil.example")],
    "two origins": [("Origin", "http://a.example:8000"), ("Origin", "https://evil.example")],
    "two origins, turned": [("Origin", "null"), ("Origin", "http://a.example:8000")],
    "one origin twice": [("Origin", "http://a.example:8000")] * 2,
    "an extension": [("Origin", "chrome-extension://a.example:8000")],
    "a file": [("Origin", "file://")],
    "no scheme": [("Origin", "a.example:8000")],
    "its own site, another's origin": [
        ("Origin", "https://evil.example"),
        ("Sec-Fetch-Site", "same-origin"),
    ],
    "its own origin, another's site": [("Origin", "http://a.example:8000"), CROSS_SITE],
}


@pytest.mark.parametrize("headers", OF_OTHER_PAGES.values(), ids=OF_OTHER_PAGES)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/densepose"),
        ("POST", "/v1/models/demo/load"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("HEAD", "/livez"),
        ("OPTIONS", "/v1/densepose"),
        ("GET", "/nowhere"),
    ],
)
def test_a_page_of_another_origin_may_not_ask(public, headers, method, path):
    response = send(public, *headers, method=method, path=path)
    assert response.status_code == 403
    assert method == "HEAD" or code_of(response) == "forbidden_origin"
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert public.device.asked == public.device.models.loads == []


OF_OWN_PAGES = {
    "a program": ([], HERE),
    "an address that was typed": ([("Sec-Fetch-Site", "none")], HERE),
    "a page": ([("Origin", "http://a.example:8000"), ("Sec-Fetch-Site", "same-origin")], HERE),
    "a page over TLS": ([("Origin", "https://a.example")], "a.example"),
    "a page without TLS": ([("Origin", "http://a.example")], "a.example"),
    "TLS, its port named": ([("Origin", "https://a.example")], "a.example:443"),
    "another scheme at the edge": ([("Origin", "https://a.example:8000")], HERE),
    "capitals": ([("Origin", "HTTP://A.example:8000")], "a.EXAMPLE:8000"),
    "a dot at the end": ([("Origin", "http://a.example.:8000")], HERE),
    "an address": ([("Origin", "http://127.0.0.1:8000")], "127.0.0.1:8000"),
    "an address of IPv6": ([("Origin", "http://[::1]:8000")], "[0:0:0::1]:8000"),
}


@pytest.mark.parametrize(("headers", "host"), OF_OWN_PAGES.values(), ids=OF_OWN_PAGES)
def test_a_page_of_the_service_and_a_program_may_ask(public, headers, host):
    assert send(public, *headers, host=host).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/docs/swagger-ui.css", "/openapi.json"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_link_to_the_documentation_may_be_followed(public, method, path):
    assert send(public, *VISIT, method=method, path=path).status_code == 200


@pytest.mark.parametrize(
    ("headers", "method", "path"),
    [
        (VISIT, "GET", "/v1/models"),
        (VISIT, "GET", "/livez"),
        (VISIT, "POST", "/docs"),
        (VISIT, "GET", "/docs/"),
        ([*VISIT[:2], ("Sec-Fetch-Dest", "iframe")], "GET", "/docs"),
        ([CROSS_SITE, ("Sec-Fetch-Mode", "no-cors"), VISIT[2]], "GET", "/docs"),
        ([CROSS_SITE], "GET", "/docs"),
    ],
)
def test_nothing_else_is_a_link_to_the_documentation(public, headers, method, path):
    assert code_of(send(public, *headers, method=method, path=path)) == "forbidden_origin"


def test_a_refused_page_is_logged_counted_and_told_its_id(service, caplog):
    caplog.set_level(logging.INFO, logger="service")
    response = send(service, *OF_OTHER_PAGES["a page elsewhere"], ("X-Request-ID", "mine"))
    assert problem_of(response)["request_id"] == "mine"
    (line,) = [record.fields for record in caplog.records if record.message == "request"]
    assert (line["status"], line["outcome"]) == (403, "forbidden_origin")
    assert sample(service, "densepose_http_requests_total", status="403") == 1
    assert sample(service, "densepose_requests_total", outcome="forbidden_origin") == 1


def test_a_page_needs_to_be_allowed_before_its_key_is_looked_at(make_service):
    keys = parse_keys(f"alice={hashlib.sha256(b'open sesame').hexdigest()};rate=1/h")
    service = make_service(access=Access(lambda: keys))
    key = ("X-API-Key", "open sesame")
    assert code_of(send(service, CROSS_SITE, key)) == "forbidden_origin"
    # Nor does it use up what the key's holder may ask.
    assert send(service, key).status_code == 200


def test_an_origin_that_is_set_may_ask_from_anywhere(make_service):
    service = make_service(cors_origins=("https://other.example", "https://App.example"))
    assert send(service, ("Origin", ORIGIN), CROSS_SITE).status_code == 200
    for headers in (
        [("Origin", "https://evil.example"), CROSS_SITE],
        # Not said by whom.
        [CROSS_SITE],
        [("Origin", ORIGIN), ("Origin", "https://evil.example")],
    ):
        assert code_of(send(service, *headers)) == "forbidden_origin"


@pytest.mark.parametrize("headers", OF_OTHER_PAGES.values(), ids=OF_OTHER_PAGES)
def test_where_any_origin_is_set_all_pages_may_ask(make_shared, headers):
    assert send(make_shared(cors_origins=("*",)), *headers).status_code == 200


PREFLIGHT = [("Access-Control-Request-Method", "POST")]


@pytest.mark.parametrize(
    "sent",
    [
        *("authorization", "content-type", "x-api-key", "x-request-id"),
        *("traceparent", "tracestate", "baggage", "sentry-trace"),
    ],
)
def test_a_page_that_is_allowed_may_send_keys_and_traces(make_shared, sent):
    service = make_shared(cors_origins=(ORIGIN,))
    asking = [*PREFLIGHT, ("Access-Control-Request-Headers", sent), ("Origin", ORIGIN), CROSS_SITE]
    response = send(service, *asking, method="OPTIONS")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["access-control-allow-origin"] == ORIGIN
    allowed = response.headers["access-control-allow-headers"].lower().split(", ")
    assert sent in allowed
    assert response.headers["access-control-allow-methods"] == "GET, HEAD, POST"
    assert response.headers["vary"] == "Origin"


@pytest.mark.parametrize("origins", [(), (ORIGIN,)])
def test_a_preflight_of_another_page_is_refused(make_shared, origins):
    service = make_shared(cors_origins=origins)
    asking = [*PREFLIGHT, ("Origin", "https://evil.example"), CROSS_SITE]
    response = send(service, *asking, method="OPTIONS")
    assert code_of(response) == "forbidden_origin"
    assert "access-control-allow-origin" not in response.headers


def test_every_answer_says_which_page_may_read_it_errors_too(make_service):
    service = make_service(cors_origins=(ORIGIN,))
    origin = ("Origin", ORIGIN)
    answers = [
        send(service, origin),
        send(service, origin, path="/nowhere"),
        send(service, origin, method="GET", path="/docs/swagger-ui.css"),
        send(service, origin, host="a.example, b.example"),
        service.client.post("/v1/densepose", content=bytes(2_000_000), headers=[origin]),
    ]
    service.device.error = RuntimeError()
    answers.append(send(service, origin))
    assert [answer.status_code for answer in answers] == [200, 404, 200, 200, 413, 500]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"].split(", ")
    assert answers[0].headers["vary"] == "Accept, Accept-Encoding, Origin"


def test_what_no_page_asked_for_is_kept_apart_where_pages_may_ask(make_service):
    answer = send(make_service(cors_origins=(ORIGIN,)), method="GET", path="/v1/models")
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in answer.headers
    assert "vary" not in send(make_service(), method="GET", path="/v1/models").headers


LOOPBACK = [
    *("localhost", "LOCALHOST:8000", "localhost.", "a.localhost:1", "127.0.0.1", "127.9.9.9:8000"),
    *("[::1]", "[::1]:8000", "[0:0:0:0:0:0:0:1]"),
]
FOREIGN = [
    *("evil.example", "rebind.evil.example:8000", "localhost.evil.example", "evil.example:127"),
    *("10.0.0.1", "0.0.0.0", "127.0.0.1.evil.example", "[::2]", "[::ffff:8.8.8.8]", "::1"),
    *("user@localhost", "localhost:x", "localhost/", "localhost, evil.example", ""),
]


@pytest.mark.parametrize("host", LOOPBACK)
def test_this_machine_s_own_names_are_the_service_s(private, host):
    assert send(private, host=host).status_code == 200


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/densepose"), ("GET", "/v1/models"), ("GET", "/docs"), ("GET", "/nowhere")],
)
def test_no_other_name_is(private, host, method, path):
    response = send(private, method=method, path=path, host=host)
    assert (response.status_code, code_of(response)) == (421, "unknown_host")
    assert private.device.asked == []


def test_a_page_that_leads_its_own_name_here_has_no_way_in(private):
    same = [("Origin", "http://rebind.evil.example"), ("Sec-Fetch-Site", "same-origin")]
    assert code_of(send(private, *same, host="rebind.evil.example")) == "unknown_host"
    assert code_of(send(private, *VISIT, method="GET", path="/docs", host="evil.example")) == (
        "unknown_host"
    )


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
@pytest.mark.parametrize("host", ["10.244.1.7:8000", "densepose", "host.docker.internal:8000"])
def test_probes_and_scrapes_use_whatever_name_they_know(private, path, host):
    assert send(private, method="GET", path=path, host=host).status_code == 200


@pytest.mark.parametrize(
    ("hosts", "host", "status"),
    [
        (("a.example",), "A.example.:80", 200),
        (("a.example",), "localhost:8000", 200),
        (("a.example",), "b.a.example", 421),
        (("*.a.example",), "c.b.a.example", 200),
        (("*.a.example",), "a.example", 421),
        (("*.a.example",), "xa.example", 421),
        (("[2001:db8::1]",), "[2001:0db8:0::1]:80", 200),
        (("*",), "evil.example", 200),
        (("*",), "no host at all", 200),
    ],
)
def test_others_are_known_where_they_are_set(make_shared, hosts, host, status):
    service = make_shared(allowed_hosts=hosts)
    assert send(service, method="GET", path="/v1/models", host=host).status_code == status
