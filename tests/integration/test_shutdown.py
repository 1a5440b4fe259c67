"""A real server process that is told to go: who is served, who is refused, and when it is gone."""

import asyncio
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2

from load_tests.report import SUCCESS
from load_tests.scenarios import Course, shutdown
from load_tests.server import running_server
from tests.integration.conftest import picture

PATIENCE_S = 30.0


class Scene:
    """A server with a stand-in for its device, and clients that ask it at the same time."""

    def __init__(self, server):
        self.server = server
        self.clients = ThreadPoolExecutor(16)

    def ask(self, **params):
        """A request under way."""
        return self.clients.submit(
            httpx2.post,
            f"{self.server.url}/v1/densepose",
            content=picture(),
            params=params,
            headers={"content-type": "image/png"},
            timeout=PATIENCE_S,
        )

    def get(self, path):
        return httpx2.get(self.server.url + path, timeout=PATIENCE_S)

    def metric(self, name):
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def until(self, condition):
        end_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end_s
            time.sleep(0.02)

    def tell(self, sig=signal.SIGTERM):
        self.server.process.send_signal(sig)

    def exit_status(self):
        return self.server.process.wait(PATIENCE_S)


@contextmanager
def serving(tmp_path, *, batch_ms, **settings):
    command = ("-m", "load_tests.stand_in", "--batch-ms", str(batch_ms), "--image-ms", "0")
    chosen = {"DEFAULT_MODEL": "demo", "PRELOAD": "", **settings}
    with running_server(chosen, tmp_path / "server.log", command) as server:
        scene = Scene(server)
        yield scene
        scene.clients.shutdown()


def test_it_says_so_at_once_serves_for_the_delay_refuses_then_and_finishes_what_it_accepted(
    tmp_path,
):
    with serving(tmp_path, batch_ms=3000, DRAIN_DELAY_MS="2000") as scene:
        scene.tell()
        scene.until(lambda: scene.get("/readyz").status_code == 503)
        assert scene.get("/readyz").json()["reason"] == "draining"
        assert scene.get("/livez").status_code == 200
        accepted = scene.ask()
        scene.until(lambda: scene.metric("densepose_inflight_requests") == 1)
        assert scene.metric("densepose_draining") == 1
        # From the end of the delay on, while the accepted one is being computed. Until then,
        # those who have no time are turned away for that, or have lost it on the way.
        assert scene.ask(timeout_ms=50).result().status_code in {429, 504}
        scene.until(lambda: scene.ask(timeout_ms=50).result().status_code == 503)
        refused = scene.ask().result()
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert "retry-after" in refused.headers
        assert not accepted.done()
        assert accepted.result().status_code == 200
        assert accepted.result().headers["connection"] == "close"
        assert scene.exit_status() == 0


def test_a_second_signal_hurries(tmp_path):
    settings = {"MAX_BATCH": "1", "DRAIN_DELAY_MS": "20000"}
    with serving(tmp_path, batch_ms=1000, **settings) as scene:
        requests = [scene.ask() for _ in range(8)]
        scene.until(lambda: scene.metric("densepose_queue_pending") == 7)
        scene.tell()
        scene.until(lambda: scene.get("/readyz").status_code == 503)
        scene.tell()
        begun_s = time.monotonic()
        statuses = sorted(request.result().status_code for request in requests)
        assert scene.exit_status() == 0
        assert time.monotonic() - begun_s < 7
    # The one on the device is answered, perhaps another that took its place before the signal.
    assert statuses[0] == 200
    assert statuses[2:] == [503] * 6


def test_a_device_that_hangs_holds_the_end_up_until_the_limit_and_everyone_is_told(tmp_path):
    settings = {"DRAIN_DELAY_MS": "0", "SHUTDOWN_TIMEOUT_MS": "3000"}
    with serving(tmp_path, batch_ms=600_000, **settings) as scene:
        requests = [scene.ask() for _ in range(3)]
        scene.until(lambda: scene.metric("densepose_inflight_requests") == 3)
        scene.tell()
        begun_s = time.monotonic()
        for request in requests:
            assert request.result().json()["code"] == "draining"
        assert scene.exit_status() == 0
        assert time.monotonic() - begun_s < 5


def test_a_device_that_hangs_keeps_nobody_waiting_beyond_the_time_of_the_request(tmp_path):
    # It counts as hanging after a minute, which is longer than these wait for their answers.
    with serving(tmp_path, batch_ms=600_000, TIMEOUT_MS="1000", MAX_BATCH="1") as scene:
        requests = [scene.ask() for _ in range(6)]
        codes = {request.result().json()["code"] for request in requests}
        assert codes == {"deadline_exceeded", "overloaded"}
        assert scene.ask().result().json()["code"] == "overloaded"
        assert scene.get("/livez").status_code == 200
        scene.server.process.kill()


def test_on_a_terminal_there_is_no_delay(tmp_path):
    with serving(tmp_path, batch_ms=0, DRAIN_DELAY_MS="20000") as scene:
        assert scene.ask().result().status_code == 200
        begun_s = time.monotonic()
        scene.tell(signal.SIGINT)
        assert scene.exit_status() == 0
        assert time.monotonic() - begun_s < 10


def test_a_connection_that_nobody_uses_holds_nothing_up(tmp_path):
    with serving(tmp_path, batch_ms=0) as scene, httpx2.Client() as client:
        assert client.get(f"{scene.server.url}/livez").status_code == 200
        scene.tell()
        assert scene.exit_status() == 0


def test_a_connection_that_nobody_uses_is_closed_after_the_time_that_is_set(tmp_path):
    with serving(tmp_path, batch_ms=0, KEEP_ALIVE_MS="100") as scene:
        server = (scene.server.host, scene.server.port)
        with socket.create_connection(server, 4) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            # What is left of the answer, and then the end.
            while connection.recv(65536):
                pass


def test_under_load_no_accepted_request_fails(tmp_path):
    course = Course(tmp_path / "server.log", seconds=2.0, warm_up_s=1.0)
    (report,) = asyncio.run(shutdown(course))
    assert report.notes["failed"] == 0, report.as_text()
    assert report.notes["exit status"] == 0
    assert report.lost == 0
    assert report.outcomes[SUCCESS] > 20
