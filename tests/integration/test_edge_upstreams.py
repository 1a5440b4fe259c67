"""What the deployed load balancer does with replicas that end, hang, or are not there."""

import json
import shutil
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from load_tests.balancer import running_balancer
from load_tests.generator import jpeg
from load_tests.name_server import running_name_server
from load_tests.server import free_port
from service.api.errors import PROBLEM_OF
from service.errors import DeadlineExceeded, Unhealthy
from tests.integration.test_haproxy import assert_is_problem, until

pytestmark = pytest.mark.skipif(
    shutil.which("haproxy") is None,
    reason="haproxy is not installed: it is in Debian's package of that name",
)

PATH = "/v1/densepose"
PHOTO = jpeg(64, 64, 2000)
# After the end of a JPEG nothing is looked at.
LARGE_PHOTO = PHOTO + bytes(600_000)
# The balancer asks every second, and every 250 ms where the answer changes.
CHECKED_S = 3.5


class Upstream(ThreadingHTTPServer):
    """In the place of a replica: ready, and answers with what it was sent, or hangs up."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host, port, *, dies):
        super().__init__((host, port), Answering)
        self.dies = dies
        self.status = 200
        self.requests = []
        self.is_closing = False

    def shutdown(self):
        self.is_closing = True
        super().shutdown()


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/readyz":
            self.answer(200, {})
            return
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.requests.append(self.command)
        if self.server.dies:
            self.close_connection = True
        else:
            self.answer(self.server.status, dict(self.headers))

    do_POST = do_GET

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def upstreams(tmp_path, *are_dying, **variables):
    """The balancer in front of such servers."""
    port = free_port("")
    with ExitStack() as stack:
        servers = []
        for index, dies in enumerate(are_dying):
            server = stack.enter_context(Upstream(f"127.0.0.{2 + index}", port, dies=dies))
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            stack.callback(server.shutdown)
            servers.append(server)
        names = stack.enter_context(running_name_server())
        names.addresses = tuple(server.server_address[0] for server in servers)
        balancer = stack.enter_context(
            running_balancer(
                tmp_path / "balancer.log",
                dns=names.address,
                replicas_port=port,
                variables=variables,
            )
        )
        balancer.wait_for(len(servers))
        yield balancer, servers


def test_an_image_on_which_a_replica_ends_is_sent_to_no_other_one(tmp_path):
    with upstreams(tmp_path, True, True) as (balancer, servers):
        for content in (PHOTO, LARGE_PHOTO):
            response = httpx2.post(balancer.url + PATH, content=content)
            assert_is_problem(response, PROBLEM_OF[Unhealthy])
            assert response.headers["retry-after"] == "1"
        assert [len(server.requests) for server in servers] == [1, 1]


def test_a_question_on_which_a_replica_ends_is_answered_by_another_one(tmp_path):
    with upstreams(tmp_path, True, False) as (balancer, servers):
        for _ in range(4):
            assert httpx2.get(balancer.url + "/v1/models").status_code == 200
        assert len(servers[0].requests) > 0
        assert len(servers[1].requests) == 4


def test_a_connection_that_is_refused_is_tried_at_another_replica_whatever_the_size(tmp_path):
    with upstreams(tmp_path, False, False) as (balancer, servers):
        servers[0].socket.close()
        for content in (PHOTO, LARGE_PHOTO, PHOTO + bytes(5_000_000)):
            for _ in range(2):
                assert httpx2.post(balancer.url + PATH, content=content).status_code == 200


def test_a_replica_that_does_not_answer_is_given_up_and_nobody_else_is_asked(tmp_path):
    with upstreams(tmp_path, False, False, EDGE_SERVER_TIMEOUT="300ms") as (balancer, servers):
        for server in servers:
            server.RequestHandlerClass = Silent
        assert_is_problem(
            httpx2.post(balancer.url + PATH, content=PHOTO), PROBLEM_OF[DeadlineExceeded]
        )
        assert sum(len(server.requests) for server in servers) == 1


class Silent(Answering):
    """Ready, and answers nothing else."""

    def answer(self, status, content):
        if self.path == "/readyz":
            super().answer(status, content)
        else:
            until(lambda: self.server.is_closing)


class Hung(Answering):
    """Takes connections, and answers nothing at all."""

    def do_GET(self):
        until(lambda: self.server.is_closing)

    do_POST = do_GET


def test_who_waits_for_a_replica_that_hangs_is_told_soon_after_the_deadline_that_it_asked_for(
    tmp_path,
):
    with upstreams(tmp_path, False) as (balancer, (server,)):
        server.RequestHandlerClass = Silent
        begun_s = time.monotonic()
        response = httpx2.post(balancer.url + f"{PATH}?timeout_ms=500", content=PHOTO, timeout=60)
        took_s = time.monotonic() - begun_s
    assert_is_problem(response, PROBLEM_OF[DeadlineExceeded])
    # Five seconds are the edge's patience beyond the deadline; without any it would be 35.
    assert 5 < took_s < 20


def test_a_replica_that_hangs_gets_nothing_more(tmp_path):
    with upstreams(tmp_path, False, False) as (balancer, servers):
        servers[0].RequestHandlerClass = Hung
        balancer.wait_for(1)
        for _ in range(6):
            assert httpx2.post(balancer.url + PATH, content=PHOTO).status_code == 200


def test_a_replica_that_answers_500_to_every_image_loses_its_share(tmp_path):
    with upstreams(tmp_path, False, False, False) as (balancer, servers):
        servers[0].status = 500
        # Between two images it looks healthy to everybody who asks for something else.
        for _ in range(30):
            httpx2.post(balancer.url + PATH, content=PHOTO)
            httpx2.get(balancer.url + "/v1/models")
        balancer.wait_for(2)
        asked = len(servers[0].requests)
        for _ in range(30):
            assert httpx2.post(balancer.url + PATH, content=PHOTO).status_code == 200
        assert len(servers[0].requests) == asked


@pytest.mark.parametrize("status", [422, 429, 503, 504, 507])
def test_with_what_is_a_client_s_own_doing_no_client_takes_a_replica_out(tmp_path, status):
    with upstreams(tmp_path, False, False) as (balancer, servers):
        for server in servers:
            server.status = status
        for _ in range(30):
            assert httpx2.post(balancer.url + PATH, content=PHOTO).status_code == status
        assert_all_are_used_for(balancer, 2, CHECKED_S)


def test_a_replica_that_fails_now_and_then_stays(tmp_path):
    with upstreams(tmp_path, False, False) as (balancer, servers):
        for turn in range(40):
            servers[0].status = 200 if turn % 8 == 0 else 500
            httpx2.post(balancer.url + PATH, content=PHOTO)
        assert_all_are_used_for(balancer, 2, CHECKED_S)


@pytest.mark.parametrize("num_replicas", [1, 3])
def test_an_image_that_fails_everywhere_takes_out_one_replica_and_never_the_last(
    tmp_path, num_replicas
):
    with upstreams(tmp_path, *[False] * num_replicas) as (balancer, servers):
        for server in servers:
            server.status = 500
        num_left = max(num_replicas - 1, 1)
        for _ in range(20 * num_replicas):
            httpx2.post(balancer.url + PATH, content=PHOTO)
        balancer.wait_for(num_left)
        for _ in range(20 * num_replicas):
            httpx2.post(balancer.url + PATH, content=PHOTO)
        assert_all_are_used_for(balancer, num_left, CHECKED_S)


@pytest.mark.slow
def test_a_replica_that_was_taken_out_is_tried_again_after_a_minute(tmp_path):
    with upstreams(tmp_path, False, False) as (balancer, servers):
        servers[0].status = 500
        for _ in range(24):
            httpx2.post(balancer.url + PATH, content=PHOTO)
        balancer.wait_for(1)
        servers[0].status = 200
        time.sleep(62)
        balancer.wait_for(2)
        for _ in range(4):
            assert httpx2.post(balancer.url + PATH, content=PHOTO).status_code == 200


def assert_all_are_used_for(balancer, num_replicas, seconds):
    """For so long, in which every replica is asked several times whether it is ready."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        assert balancer.num_active() == num_replicas
        time.sleep(0.1)


# In the ways that a client may write them; the service decodes a path once.
CLOSED = (
    *("/metrics", "/METRICS", "/metrics/", "/metrics?x", "/%6detrics", "/%6D%65%74rics"),
    *("/metrics%0a", "/metrics%0A", "/metrics%0d%0a", "/metrics%00", "/metrics%20", "/metrics%09"),
    *("//metrics", "/%2fmetrics", "/%2Fmetrics", "/./metrics", "/v1/../metrics", "/%2e/metrics"),
    *("/v1/%2e%2e/metrics", "/v1/..%2fmetrics", "/metrics/.", "/metrics/..;/metrics"),
    *("/metrics;x", "/metrics%3bx", "/metrics#x", "/metrics%", "/metrics%zz", "/metrics%6"),
    *("/\\metrics", "/%5cmetrics", "/metrics%5c", "metrics", "metrics%0a"),
    *("/v1/models/x/load", "/v1/models/x/load%2f", "/v1/models/x/load%2F", "/v1/models/x%2fload"),
    *("/v1/models/x/LOAD", "/V1/Models/x/load", "/v1/models/x/load%0a", "/v1/models/x/load;x"),
    *(
        "/v1/models/x/unload",
        "/v1/models/x/un%6coad",
        "/v1/models/cse/x/load",
        "/v1//models/x/load",
    ),
    *("/v1/models/x/load/", "/v1/models/x//load", "/v1/./models/x/load", "/v1/models/x/load#"),
    *("/v1/models/x%/load", "/v1/models/x%zz/load", "/v1/models/%0a/load", "/v1/models//load"),
    *("/v1/models/x/../x/load", "/v1/models/x/load?y", "/v1%2fmodels%2fx%2fload"),
)
OPEN = (
    *("/v1/models", "/v1/models/metrics", "/v1/models/load", "/v1/models/x.load-er", "/docs"),
    *("/v1/models/cse%2Fdensepose_rcnn_R_50_FPN_s1x", "/v1/models/cse/x", "/", "/v1/metrics"),
    *("/v1/models/%E2%82%AC", "/v1/models?x=/metrics", "/openapi.json?a=..%2f;//"),
)


def test_no_way_to_write_a_closed_path_gets_through(tmp_path):
    with upstreams(tmp_path, False) as (balancer, (server,)):
        for path in CLOSED:
            for target in (path, f"http://test{path}" if path.startswith("/") else path):
                for method in ("GET", "POST"):
                    status = status_of(balancer, method, target)
                    assert status in {400, 403, 404}, (method, target)
                    assert server.requests == [], (method, target)


def test_paths_that_only_look_like_closed_ones_get_through(tmp_path):
    with upstreams(tmp_path, False) as (balancer, _):
        for path in OPEN:
            assert status_of(balancer, "GET", path) == 200, path


def status_of(balancer, method, target):
    """The target as it is, which a client's library would not let pass."""
    with socket.create_connection((balancer.host, balancer.port), timeout=20) as connection:
        head = f"{method} {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
        connection.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
        return int(connection.makefile("rb").readline().split()[1])


def test_who_asks_is_told_by_the_edge_and_not_by_the_client(tmp_path):
    claims = {
        "X-Forwarded-For": "8.8.8.8",
        "X-Forwarded-Proto": "https",
        "Forwarded": "for=8.8.8.8",
        "Upgrade": "h2c",
    }
    with upstreams(tmp_path, False) as (balancer, _):
        seen = httpx2.get(balancer.url + "/v1/models", headers=claims).json()
    headers = {name.lower(): value for name, value in seen.items()}
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert "8.8.8.8" not in str(headers)
    assert "upgrade" not in headers


def test_with_a_certificate_clients_speak_tls(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate, both = (tmp_path / name for name in ("key", "certificate", "both.pem"))
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    both.write_text(certificate.read_text() + key.read_text())
    with upstreams(tmp_path, False, EDGE_CERTIFICATE=str(both)) as (balancer, _):
        url = balancer.url.replace("http:", "https:") + "/v1/models"
        response = httpx2.get(url, verify=False)
    headers = {name.lower(): value for name, value in response.json().items()}
    assert headers["x-forwarded-proto"] == "https"
    assert "max-age" in response.headers["strict-transport-security"]
