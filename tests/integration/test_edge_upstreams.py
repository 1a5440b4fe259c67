"""What the deployed load balancer does with replicas that end, hang, or are not there."""

import json
import shutil
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
from tests.integration.test_haproxy import assert_is_problem

pytestmark = pytest.mark.skipif(
    shutil.which("haproxy") is None,
    reason="haproxy is not installed: it is in Debian's package of that name",
)

PATH = "/v1/densepose"
PHOTO = jpeg(64, 64, 2000)
# After the end of a JPEG nothing is looked at.
LARGE_PHOTO = PHOTO + bytes(600_000)


class Upstream(ThreadingHTTPServer):
    """In the place of a replica: ready, and answers with what it was sent, or hangs up."""

    daemon_threads = True

    def __init__(self, host, port, *, dies):
        super().__init__((host, port), Answering)
        self.dies = dies
        self.requests = []


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/readyz":
            self.answer({})
            return
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.requests.append(self.command)
        if self.server.dies:
            self.close_connection = True
        else:
            self.answer(dict(self.headers))

    do_POST = do_GET

    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
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
    def answer(self, content):
        if self.path == "/readyz":
            super().answer(content)
        else:
            time.sleep(1)


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
