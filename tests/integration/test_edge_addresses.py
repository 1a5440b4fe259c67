"""What one address can take of the deployed load balancer, and what is left for the others."""

import resource
import shutil
import socket
from contextlib import ExitStack, closing, contextmanager, suppress

import httpx2
import pytest

from load_tests.balancer import NO_ADDRESS_LIMITS
from load_tests.fleet import running_fleet
from service.api.errors import PROBLEM_OF
from service.errors import Overloaded
from tests.integration.test_haproxy import (
    PATH,
    PATIENCE_S,
    PHOTO,
    SETTINGS,
    assert_is_problem,
    stand_in,
    until,
)

pytestmark = pytest.mark.skipif(
    shutil.which("haproxy") is None,
    reason="haproxy is not installed: it is in Debian's package of that name",
)

# All of 127.0.0.0/8 is this machine.
SOMEBODY_ELSE = "127.0.0.9"
# More than the balancer takes of all addresses together; each is a file here and one there.
NUM_IDLE, NUM_SLOW = 4300, 1000
NUM_FILES = 3 * NUM_IDLE
# More than a buffer of the balancer's, and less than is promised.
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n".encode()
SLOW_BODY = HEAD + bytes(40_000)


@pytest.fixture(autouse=True)
def _many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < NUM_FILES:
        pytest.skip(f"no {NUM_FILES} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, NUM_FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def fleet_of_one(folder, edge=None, *, batch_ms="1"):
    with running_fleet(1, folder, SETTINGS, stand_in("--batch-ms", batch_ms), edge) as fleet:
        yield fleet


@contextmanager
def connections(balancer, number, first=b""):
    """So many of 127.0.0.1, which send no more than that; whether they are closed or not."""
    with ExitStack() as stack:
        opened = []
        for _ in range(number):
            with suppress(OSError):
                opened.append(socket.create_connection((balancer.host, balancer.port), timeout=5))
                stack.enter_context(closing(opened[-1]))
                opened[-1].sendall(first)
        # Some are cut off before they are there.
        assert len(opened) > number / 2
        yield opened


def num_at_replicas(fleet):
    """Requests that the balancer has sent on and that have no answer yet."""
    return fleet.balancer.metric("haproxy_backend_current_sessions", proxy="replicas")


def ask_as(address, balancer):
    transport = httpx2.HTTPTransport(local_address=address)
    with httpx2.Client(transport=transport, timeout=5.0) as client:
        return client.post(balancer.url + PATH, content=PHOTO)


def test_4300_idle_connections_of_one_address_leave_the_others_theirs(tmp_path):
    with fleet_of_one(tmp_path) as fleet, connections(fleet.balancer, NUM_IDLE):
        assert fleet.balancer.metric("haproxy_frontend_current_sessions", proxy="edge") <= 257
        for _ in range(5):
            assert ask_as(SOMEBODY_ELSE, fleet.balancer).status_code == 200


def test_1000_slow_bodies_of_one_address_leave_the_others_their_answers(tmp_path):
    with fleet_of_one(tmp_path) as fleet, connections(fleet.balancer, NUM_SLOW, SLOW_BODY):
        for _ in range(5):
            assert ask_as(SOMEBODY_ELSE, fleet.balancer).status_code == 200
        assert num_at_replicas(fleet) <= 64


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_body_that_trickles_takes_no_place_at_a_replica(tmp_path, method):
    head = HEAD.replace(b"POST", method.encode())
    with (
        fleet_of_one(tmp_path, NO_ADDRESS_LIMITS) as fleet,
        connections(fleet.balancer, NUM_SLOW, head + bytes(1000)),
    ):
        assert ask_as(SOMEBODY_ELSE, fleet.balancer).status_code == 200
        assert num_at_replicas(fleet) == 0


def test_limits_can_be_turned_off_for_a_proxy_that_has_all_clients_behind_it(tmp_path):
    with (
        fleet_of_one(tmp_path, NO_ADDRESS_LIMITS) as fleet,
        connections(fleet.balancer, 600, SLOW_BODY),
    ):
        until(lambda: num_at_replicas(fleet) == 600)
        assert ask_as("127.0.0.1", fleet.balancer).status_code == 200


def test_an_address_that_asks_too_much_at_a_time_is_told_so_and_nobody_else(tmp_path):
    edge = {"EDGE_ADDRESS_REQUESTS": "2"}
    with (
        fleet_of_one(tmp_path, edge) as fleet,
        connections(fleet.balancer, 2, SLOW_BODY) as (first, _),
    ):
        until(lambda: num_at_replicas(fleet) == 2)
        response = httpx2.post(fleet.balancer.url + PATH, content=PHOTO)
        assert_is_problem(response, PROBLEM_OF[Overloaded])
        assert response.headers["retry-after"] == "1"
        assert fleet.balancer.metric("haproxy_frontend_requests_denied_total", proxy="edge") == 1
        assert ask_as(SOMEBODY_ELSE, fleet.balancer).status_code == 200
        first.close()
        until(lambda: httpx2.post(fleet.balancer.url + PATH, content=PHOTO).status_code == 200)


def test_an_address_that_connects_too_often_is_cut_off_and_nobody_else(tmp_path):
    with fleet_of_one(tmp_path, {"EDGE_ADDRESS_CONNECTION_RATE": "20"}) as fleet:
        for _ in range(30):
            with socket.create_connection((fleet.balancer.host, fleet.balancer.port)) as last:
                last.settimeout(PATIENCE_S)
        with pytest.raises(httpx2.TransportError):
            httpx2.post(fleet.balancer.url + PATH, content=PHOTO)
        denied = fleet.balancer.metric("haproxy_frontend_denied_connections_total", proxy="edge")
        assert denied == 11
        assert ask_as(SOMEBODY_ELSE, fleet.balancer).status_code == 200
