"""The deployed load balancer's configuration, run by the real HAProxy."""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import time

import httpx2
import pytest

from load_tests.balancer import CONFIGURATION
from load_tests.connections import Pool
from load_tests.fleet import running_fleet
from load_tests.generator import Generator, Load, jpeg, post
from load_tests.report import REFUSED, SUCCESS
from service.api.errors import FRAMEWORK_PROBLEMS, PROBLEM_OF
from service.errors import BodyTooLarge, Forbidden, Unhealthy
from service.settings import Settings

pytestmark = pytest.mark.skipif(
    shutil.which("haproxy") is None,
    reason="haproxy is not installed: it is in Debian's package of that name",
)

PATH = "/v1/densepose"
PHOTO = jpeg(64, 64, 2000)
# After the end of a JPEG nothing is looked at.
LARGE_PHOTO = PHOTO + bytes(600_000)
PATIENCE_S = 30.0


def stand_in(*options):
    return ("-m", "load_tests.stand_in", "--image-ms", "0", "--short-side", "128", *options)


SETTINGS = {"DEFAULT_MODEL": "demo", "MAX_BATCH": "1"}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    with running_fleet(2, folder, SETTINGS, stand_in("--batch-ms", "1")) as fleet:
        yield fleet


@pytest.fixture
def client(fleet):
    with httpx2.Client(base_url=fleet.balancer.url, timeout=PATIENCE_S) as client:
        yield client


def until(condition):
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def assert_is_problem(response, problem):
    """As the service itself would have put it, but for the detail."""
    answer = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert (response.status_code, answer["status"]) == (problem.status, problem.status)
    assert (answer["code"], answer["title"]) == (problem.code, problem.title)
    assert answer["type"] == f"urn:densepose:error:{problem.code}"
    assert answer["detail"]
    assert answer["request_id"] == response.headers["x-request-id"]


def test_images_go_to_the_replicas_in_turn_each_on_a_connection_of_its_own(fleet, client):
    before = fleet.metrics("densepose_requests_total", outcome="success")
    for _ in range(10):
        assert client.post(PATH, content=PHOTO).status_code == 200
    after = fleet.metrics("densepose_requests_total", outcome="success")
    assert [a - b for a, b in zip(after, before, strict=True)] == [5, 5]
    reuses = fleet.balancer.metric("haproxy_backend_connection_reuses_total", proxy="replicas")
    assert reuses == 0


@pytest.mark.parametrize(
    "path",
    [
        *("/metrics", "/%6detrics", "/%6D%65trics", "/metrics?x=1", "//metrics", "/metrics/"),
        *("/./metrics", "/v1/../metrics", "/metrics%2f", "/%2fmetrics", "/metrics;x"),
        *("/metrics%0a", "/metrics%0d%0a", "/METRICS", "/metrics%"),
    ],
)
def test_metrics_cannot_be_had_at_the_edge(fleet, path):
    with socket.create_connection((fleet.balancer.host, fleet.balancer.port)) as connection:
        for target in (path, f"http://test{path}"):
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            answer = connection.recv(100_000)
            assert b" 404 " in answer.partition(b"\r\n")[0]
            assert b"densepose_build_info" not in answer


def test_of_metrics_it_is_said_that_there_is_nothing(client):
    assert_is_problem(client.get("/metrics"), FRAMEWORK_PROBLEMS[404][0])


@pytest.mark.parametrize(
    "path",
    [
        *("demo/load", "demo/unload", "cse/demo/load", "demo/%6coad", "demo%2Fload", "demo/load/"),
        *("demo/load%2f", "demo/LOAD"),
    ],
)
def test_models_cannot_be_moved_from_beyond_the_edge(client, path):
    response = client.post(f"/v1/models/{path}", headers={"authorization": "Bearer any"})
    assert_is_problem(response, PROBLEM_OF[Forbidden])


def test_models_can_be_listed_through_the_edge(client):
    assert client.get("/v1/models").json()["default"] == "demo"
    assert client.get("/v1/models/demo").json()["id"] == "demo"


def test_a_body_that_is_too_large_is_refused_before_it_is_sent_on(fleet, client):
    before = fleet.metrics("densepose_http_requests_total", route=PATH)
    response = client.post(PATH, content=bytes(20 * 2**20 + 1))
    assert_is_problem(response, PROBLEM_OF[BodyTooLarge])
    assert fleet.metrics("densepose_http_requests_total", route=PATH) == before


def test_a_body_that_hides_its_length_is_counted_by_the_service(client):
    chunks = (bytes(2**20) for _ in range(21))
    assert client.post(PATH, content=chunks).json()["code"] == "body_too_large"


def test_a_photo_much_larger_than_a_buffer_passes(client):
    assert client.post(PATH, content=PHOTO + bytes(5_000_000)).status_code == 200


def test_a_request_keeps_its_id_from_the_client_to_the_log(fleet, client):
    assert (
        client.get("/v1/parts", headers={"x-request-id": "mine-1"}).headers["x-request-id"]
        == "mine-1"
    )
    until(lambda: '"id":"mine-1"' in fleet.balancer.log.read_text())
    given = client.get("/v1/parts", headers={"x-request-id": 'not "one"'}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f-]{36}", given)


def test_the_log_is_json_without_queries_and_headers(fleet, client):
    client.post(f"{PATH}?model=demo&timeout_ms=9000", content=PHOTO, headers={"x-request-id": "j"})
    until(lambda: '"id":"j"' in fleet.balancer.log.read_text())
    (line,) = [line for line in fleet.balancer.log.read_text().splitlines() if '"id":"j"' in line]
    entry = json.loads(line)
    assert (entry["path"], entry["status"], entry["method"]) == (PATH, 200, "POST")
    assert entry["replica"].startswith("replica")
    assert "timeout_ms" not in line


def test_the_edge_says_whether_there_is_anything_behind_it(tmp_path):
    with running_fleet(1, tmp_path, SETTINGS, stand_in()) as fleet:
        ask = httpx2.Client(base_url=fleet.balancer.url)
        assert (ask.get("/livez").status_code, ask.get("/readyz").status_code) == (200, 200)
        fleet.kill(0)
        fleet.balancer.wait_for(0)
        assert (ask.get("/livez").status_code, ask.get("/readyz").status_code) == (200, 503)
        assert_is_problem(ask.post(PATH, content=PHOTO), PROBLEM_OF[Unhealthy])
        assert ask.post(PATH, content=PHOTO).headers["retry-after"] == "5"
        ask.close()


def test_replicas_that_come_and_go_are_found_by_name(tmp_path):
    with running_fleet(1, tmp_path, SETTINGS, stand_in("--batch-ms", "1")) as fleet:
        fleet.grow(1)
        for _ in range(4):
            assert httpx2.post(fleet.balancer.url + PATH, content=PHOTO).status_code == 200
        assert min(fleet.metrics("densepose_requests_total", outcome="success")) > 0
        fleet.names.addresses = fleet.names.addresses[:1]
        fleet.balancer.wait_for(1)


def test_a_client_that_leaves_is_gone_for_the_service_too(tmp_path):
    with running_fleet(1, tmp_path, SETTINGS, stand_in("--batch-ms", "2000")) as fleet:
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(fleet.balancer.url + PATH, content=PHOTO, timeout=0.3)
        until(lambda: fleet.metric(0, "densepose_requests_total", outcome="client_left") == 1)


def test_no_refusal_of_a_large_photo_gets_lost(tmp_path):
    """A server that answers before it has read everything, and closes, resets the connection."""
    settings = {**SETTINGS, "MAX_QUEUE": "2"}
    with running_fleet(1, tmp_path, settings, stand_in("--batch-ms", "50")) as fleet:
        outcomes = asyncio.run(outcomes_of(fleet, Load([(3.0, 60.0)], [post(PATH, LARGE_PHOTO)])))
    assert outcomes == {SUCCESS, REFUSED}


async def outcomes_of(fleet, load):
    pool = Pool(fleet.balancer.host, fleet.balancer.port)
    endings = await Generator(pool, load).run()
    pool.close()
    return {ending.outcome for ending in endings}


def test_with_stickiness_each_model_has_its_replica(tmp_path):
    models = [f"model_{index}" for index in range(12)]
    command = stand_in("--batch-ms", "1", "--models", ",".join(models))
    settings = {**SETTINGS, "DEFAULT_MODEL": models[0]}
    with running_fleet(3, tmp_path, settings, command, {"EDGE_BALANCE": "model"}) as fleet:
        with httpx2.Client(base_url=fleet.balancer.url) as client:
            for model in models:
                assert client.post(f"{PATH}?model={model.upper()}", content=PHOTO).is_success
                assert client.post(f"{PATH}?min_score=0.5&model={model}", content=PHOTO).is_success
        for model in models:
            answered = fleet.metrics("densepose_requests_total", model=model)
            assert sorted(answered) == [0, 0, 2], model
        assert min(fleet.metrics("densepose_requests_total")) > 0


def test_the_balancer_is_more_patient_than_the_service():
    text = CONFIGURATION.read_text()
    settings = Settings(_env_file=None)

    def seconds(directive):
        (value,) = re.findall(rf'^  {directive} .*?(\d+)s(?:}}")?$', text, re.MULTILINE)
        return int(value)

    assert seconds("timeout server") > settings.timeout_ms / 1000
    assert seconds("timeout client") > settings.upload_timeout_ms / 1000
    # Who asks for no less than the limit has the service's own.
    (below_ms,) = re.findall(r"url_param\(timeout_ms\) -m int 1:(\d+)", text)
    assert int(below_ms) < settings.timeout_ms
    (limit,) = set(re.findall(r"DENSEPOSE_MAX_BODY_BYTES-(\d+)", text))
    assert int(limit) == settings.max_body_bytes
    # Asked every `inter`, and `fall - 1` times more every `fastinter`; twice that to be safe.
    check = re.search(r"check inter (\d+)s fastinter (\d+)ms fall (\d+)", text)
    inter_s, fastinter_ms, fall = (int(number) for number in check.groups())
    noticed_ms = 1000 * inter_s + (fall - 1) * fastinter_ms
    assert 2 * noticed_ms < settings.drain_delay_ms


@pytest.mark.parametrize(
    "variables",
    [
        *({}, {"EDGE_BALANCE": "model"}, {"EDGE_SERVER_TIMEOUT": "5m"}),
        {"EDGE_ADDRESS_CONNECTIONS": "0"},
        {"EDGE_ADDRESS_CONNECTIONS": "0", "EDGE_ADDRESS_CONNECTION_RATE": "0"},
        {"EDGE_ADDRESS_REQUESTS": "0"},
    ],
    ids=str,
)
def test_haproxy_has_nothing_to_complain_about(variables):
    judged = subprocess.run(
        ["haproxy", "-c", "-W", "-f", str(CONFIGURATION)],
        capture_output=True,
        text=True,
        env=os.environ | variables,
        check=False,
    )
    assert judged.returncode == 0
    assert "WARNING" not in judged.stdout + judged.stderr
