"""API keys over HTTP: who comes in, what it says of itself, and what a key's limits do."""

import asyncio
import hashlib
import json
import logging
import socket

import pytest

from load_tests.stand_in import StandIn
from service.api.access import Access
from service.assembly import assemble
from service.errors import InvalidSetting
from service.keys import parse_keys
from service.logs import JsonFormatter
from service.metrics import Metrics
from service.settings import Settings
from tests.integration.conftest import picture
from tests.integration.test_connections import HEAD, answer_on, listening
from tests.integration.test_errors import problem_of
from tests.integration.test_operation import sample

KEY, ADMIN_KEY = "correct horse", "battery staple"
BEARER, HEADER = {"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}
ADMIN = {"X-API-Key": ADMIN_KEY}
WRONG = [
    {},
    {"X-API-Key": "wrong"},
    {"X-API-Key": KEY + " x"},
    {"Authorization": f"Basic {KEY}"},
    {"Authorization": f"Bearer {hashlib.sha256(KEY.encode()).hexdigest()}"},
    {"Authorization": "Bearer \x80\xff"},
]


def digest_of(key):
    return hashlib.sha256(key.encode()).hexdigest()


def access_to(limits="", *, admin=True, clock=None):
    keys = parse_keys(f"alice={digest_of(KEY)}{limits}")
    more = {} if clock is None else {"clock": clock}
    return Access(lambda: keys, digest_of(ADMIN_KEY) if admin else None, **more)


@pytest.fixture
def locked(make_service):
    return make_service(access=access_to())


def in_bytes(headers):
    return {name: value.encode("latin-1") for name, value in headers.items()}


@pytest.mark.parametrize("headers", WRONG)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/densepose"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/demo"),
        ("GET", "/v1/models/demo/load"),
        ("GET", "/v1/parts"),
        ("GET", "/v1/renders"),
        ("GET", "/nowhere"),
        ("OPTIONS", "/v1/densepose"),
        ("GET", "/x//livez"),
        ("GET", "/livez/"),
        ("GET", "/docs%2F..%2Fv1/models"),
    ],
)
def test_without_the_key_nothing_is_told(locked, method, path, headers):
    response = locked.client.request(method, path, headers=in_bytes(headers))
    problem = problem_of(response)
    assert (problem["status"], problem["code"]) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert locked.device.asked == []


@pytest.mark.parametrize("headers", [BEARER, HEADER, ADMIN])
def test_with_a_key_everything_is_answered(locked, headers):
    assert locked.ask(**headers).status_code == 200
    assert locked.client.get("/v1/models", headers=headers).status_code == 200
    assert locked.client.get("/nowhere", headers=headers).status_code == 404


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/metrics", "/docs", "/docs/swagger-ui.css", "/openapi.json"]
)
def test_probes_scrapes_and_the_documentation_need_no_key(locked, path):
    assert locked.client.get(path).status_code == 200


def test_the_key_is_asked_for_before_the_body_is_sent(locked):
    with listening(locked) as address, socket.create_connection(address, 5) as connection:
        expecting = HEAD + b"Content-Length: 900000\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(expecting)
        assert answer_on(connection)[0] == 401


def test_a_body_that_is_too_large_is_refused_without_a_word_to_strangers(locked):
    response = locked.client.post("/v1/densepose", content=bytes(2_000_000))
    assert problem_of(response)["code"] == "unauthorized"


@pytest.mark.parametrize("action", ["load", "unload"])
@pytest.mark.parametrize(
    ("headers", "code"),
    [({}, "unauthorized"), ({"X-API-Key": "wrong"}, "unauthorized"), (HEADER, "forbidden")],
)
def test_the_admin_s_paths_take_the_admin_key_alone(locked, action, headers, code):
    response = locked.client.post(f"/v1/models/demo/{action}", headers=headers)
    assert problem_of(response)["code"] == code
    assert ("www-authenticate" in response.headers) == (code == "unauthorized")
    assert (locked.device.models.loads, locked.device.models.unloads) == ([], [])
    assert locked.client.post(f"/v1/models/demo/{action}", headers=ADMIN).status_code == 202


@pytest.mark.parametrize("headers", [{}, HEADER, ADMIN])
def test_without_an_admin_key_the_admin_s_paths_are_forbidden_to_all(make_service, headers):
    service = make_service(access=access_to(admin=False))
    response = service.client.post("/v1/models/demo/load", headers=headers)
    assert problem_of(response)["code"] == "forbidden"


def test_without_api_keys_an_admin_key_closes_the_admin_s_paths_alone(make_service):
    service = make_service(access=Access(None, digest_of(ADMIN_KEY)))
    assert service.ask().status_code == 200
    assert service.ask(x_api_key="whatever").status_code == 200
    assert service.client.post("/v1/models/demo/load").status_code == 401


def test_the_log_has_the_key_s_name_and_neither_key_nor_digest(locked, caplog):
    caplog.set_level(logging.DEBUG)
    locked.ask(**BEARER)
    locked.ask(x_api_key="wrong")
    locked.client.post("/v1/models/demo/load", headers=ADMIN)
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    requests = [line for line in lines if line["message"] == "request"]
    assert [line.get("key") for line in requests] == ["alice", None, "admin"]
    for secret in (KEY, ADMIN_KEY, "wrong", digest_of(KEY), digest_of(ADMIN_KEY)):
        assert secret not in str(lines)


def test_a_key_has_no_more_requests_at_a_time_than_it_may(make_service):
    service = make_service(access=access_to(";concurrency=2"))
    service.device.delay_s = 0.5

    async def ask_thrice():
        async with service.concurrent_client() as client:
            ask = [
                client.post("/v1/densepose", content=picture(), headers=HEADER) for _ in range(3)
            ]
            return await asyncio.gather(*ask)

    answers = asyncio.run(ask_thrice())
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429]
    (refused,) = [answer for answer in answers if answer.status_code == 429]
    assert problem_of(refused)["code"] == "overloaded"
    service.device.delay_s = 0
    assert service.ask(**HEADER).status_code == 200
    assert sample(service, "densepose_refusals_total", reason="key_limit") == 1


def test_a_request_that_fails_gives_its_place_back(make_service):
    service = make_service(access=access_to(";concurrency=1"))
    for _ in range(3):
        assert service.ask(b"no image", **HEADER).status_code == 422
        service.device.error = RuntimeError()
        assert service.ask(**HEADER).status_code == 500
        service.device.error = None


def test_a_key_asks_no_more_often_than_it_may(make_service):
    times_s = [0.0]
    service = make_service(access=access_to(";rate=2/m", clock=lambda: times_s[0]))

    def ask():
        return service.client.get("/v1/parts", headers=HEADER)

    assert [ask().status_code for _ in range(3)] == [200, 200, 429]
    assert problem_of(ask())["code"] == "overloaded"
    assert ask().headers["retry-after"] == "30"
    times_s[0] = 30.5
    assert [ask().status_code for _ in range(2)] == [200, 429]
    times_s[0] = 10_000.0
    assert [ask().status_code for _ in range(3)] == [200, 200, 429]
    # Others have their own.
    assert service.client.get("/v1/parts", headers=ADMIN).status_code == 200


def test_a_limit_outlives_a_new_version_of_the_keys(make_service):
    times_s = [0.0]
    versions = [parse_keys(f"alice={digest_of(KEY)};rate=1/h")]
    access = Access(lambda: versions[-1], None, clock=lambda: times_s[0])
    service = make_service(access=access)
    assert service.client.get("/v1/parts", headers=HEADER).status_code == 200
    versions.append(parse_keys(f"alice={digest_of(KEY)};rate=1/h,bob={digest_of('bob')}"))
    assert service.client.get("/v1/parts", headers=HEADER).status_code == 429
    assert service.client.get("/v1/parts", headers={"X-API-Key": "bob"}).status_code == 200


@pytest.mark.parametrize("text", [None, "", "alice=short"])
def test_a_file_of_keys_that_cannot_be_used_is_an_invalid_setting(tmp_path, text):
    path = tmp_path / "keys"
    if text is not None:
        path.write_text(text)
    settings = Settings(api_keys_file=path, default_model="demo")
    with pytest.raises(InvalidSetting, match="DENSEPOSE_API_KEYS_FILE"):
        assemble(settings, StandIn(), Metrics({}))
