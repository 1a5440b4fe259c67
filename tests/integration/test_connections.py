"""What only a real connection shows: slow uploads, clients that leave, bodies beyond the limit."""

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager
from functools import partial

import pytest
import uvicorn

from service.api.connection import Connection
from service.errors import Draining
from tests.integration.conftest import picture

HEAD = b"POST /v1/densepose HTTP/1.1\r\nHost: test\r\nContent-Type: image/png\r\n"


@contextmanager
def serving(service, **options):
    """The service on a free port of this machine."""
    config = uvicorn.Config(
        service.app,
        port=0,
        http=partial(Connection, settings=service.settings, inflight=service.inflight),
        ws="none",
        log_config=None,
        access_log=False,
        **options,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def listening(service):
    """The service on a free port of this machine; its address."""
    with serving(service) as server:
        yield address_of(server)


def address_of(server):
    return server.servers[0].sockets[0].getsockname()


def while_busy(server, act, then):
    """Acts while the server's event loop is busy with something else, which then ends as told."""
    is_busy, is_over = threading.Event(), threading.Event()

    def be_busy():
        is_busy.set()
        assert is_over.wait(20)
        then()

    server.servers[0].get_loop().call_soon_threadsafe(be_busy)
    assert is_busy.wait(20)
    act()
    is_over.set()


def answer_on(connection):
    """Status and JSON of the answer that comes back."""
    data = b""
    while b"\r\n\r\n" not in data:
        received = connection.recv(65536)
        if not received:
            break
        data += received
    head, _, body = data.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode("latin-1").lower().split("\r\n")[1:])
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(head.split()[1]), headers, json.loads(body)


def ask(address):
    body = picture()
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return answer_on(connection)


def wait_for(condition, timeout_s=5.0):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def outcomes(service):
    """How often requests ended in which way."""
    return {
        sample.labels["outcome"]: sample.value
        for family in service.metrics.requests.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }


def test_a_body_that_announces_too_much_is_answered_without_being_sent(service):
    with listening(service) as address, socket.create_connection(address, 5) as connection:
        connection.sendall(HEAD + b"Content-Length: 100000000\r\n\r\n")
        status, _, problem = answer_on(connection)
        assert (status, problem["code"]) == (413, "body_too_large")
        assert ask(address)[0] == 200


def test_a_body_of_unknown_length_is_answered_when_it_has_gone_too_far(service):
    chunk = b"%x\r\n" % 65536 + bytes(65536) + b"\r\n"
    with listening(service) as address, socket.create_connection(address, 5) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 20)
        status, _, problem = answer_on(connection)
        assert (status, problem["code"]) == (413, "body_too_large")
        assert ask(address)[0] == 200


def test_a_chunked_body_within_the_limit_is_read(service):
    body = picture()
    with listening(service) as address, socket.create_connection(address, 5) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for begin in range(0, len(body), 50):
            chunk = body[begin : begin + 50]
            connection.sendall(b"%x\r\n" % len(chunk) + chunk + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        status, _, answer = answer_on(connection)
    assert status == 200
    assert len(answer["instances"]) == 2


def test_a_slow_upload_is_cut_off_and_others_are_served_meanwhile(make_service):
    service = make_service(upload_timeout_ms=300)
    with listening(service) as address, socket.create_connection(address, 5) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n" + bytes(10))
        assert ask(address)[0] == 200
        status, headers, problem = answer_on(connection)
        assert (status, problem["code"]) == (408, "slow_upload")
        assert headers["connection"] == "close"
        assert connection.recv(1) == b""


def test_a_connection_goes_on_after_a_refusal_that_left_the_body_unread(service):
    body = picture()
    with listening(service) as address, socket.create_connection(address, 5) as connection:
        connection.sendall(HEAD + b"Content-Encoding: br\r\nContent-Length: 900000\r\n\r\n")
        assert answer_on(connection)[0] == 415
        connection.sendall(bytes(900_000))
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert answer_on(connection)[0] == 200


def test_whoever_is_told_that_the_connection_ends_reads_it_though_the_body_was_not_read(service):
    service.device.refusal, service.device.is_draining = Draining("going"), True
    with listening(service) as address, socket.create_connection(address, 5) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n" + bytes(900_000))
        # So that it would have been reset by now.
        time.sleep(0.2)
        status, headers, problem = answer_on(connection)
        assert (status, problem["code"], headers["connection"]) == (503, "draining", "close")
        assert connection.recv(1) == b""


def test_a_request_behind_the_last_answer_is_not_begun(service):
    service.device.is_draining = True
    body = picture()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with listening(service) as address, socket.create_connection(address, 5) as connection:
        connection.sendall(request * 3)
        assert answer_on(connection)[0] == 200
        assert connection.recv(1) == b""
    assert len(service.device.asked) == 1


@pytest.mark.parametrize(
    ("end", "keeps"), [("timeout_keep_alive_handler", "keep-alive"), ("shutdown", "close")]
)
def test_a_request_that_came_while_the_server_was_busy_is_answered_before_the_connection_ends(
    service, end, keeps
):
    body = picture()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body

    with serving(service) as server:

        def end_connections():
            for connection in list(server.server_state.connections):
                getattr(connection, end)()

        with socket.create_connection(address_of(server), 10) as connection:
            connection.sendall(request)
            assert answer_on(connection)[0] == 200
            while_busy(server, lambda: connection.sendall(request), then=end_connections)
            status, headers, _ = answer_on(connection)
            assert (status, headers.get("connection", "keep-alive")) == (200, keeps)


def test_a_connection_whose_body_came_after_the_answer_does_not_stay_for_ever(service):
    with (
        serving(service, timeout_keep_alive=1) as server,
        socket.create_connection(address_of(server), 10) as connection,
    ):
        connection.sendall(HEAD + b"Content-Encoding: br\r\nContent-Length: 1000\r\n\r\n")
        assert answer_on(connection)[0] == 415
        connection.sendall(bytes(1000))
        assert connection.recv(1) == b""


def test_a_client_that_leaves_while_it_waits_frees_the_device(service):
    service.device.delay_s = 60
    body = picture()
    with listening(service) as address:
        with socket.create_connection(address, 5) as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_for(lambda: service.device.asked)
        wait_for(lambda: service.device.num_cancelled == 1)
        wait_for(lambda: outcomes(service) == {"client_left": 1})
        service.device.delay_s = 0
        assert ask(address)[0] == 200


def test_a_client_that_leaves_during_the_upload_costs_the_device_nothing(service):
    with listening(service) as address:
        with socket.create_connection(address, 5) as connection:
            connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n" + bytes(10))
        wait_for(lambda: outcomes(service) == {"client_left": 1})
        assert ask(address)[0] == 200
    assert len(service.device.asked) == 1


def test_what_a_client_held_is_given_back_when_it_leaves(make_service):
    service = make_service(max_inflight_bytes=100_000)
    with listening(service) as address:
        for num_left in range(1, 6):
            with socket.create_connection(address, 5) as connection:
                connection.sendall(HEAD + b"Content-Length: 90000\r\n\r\n" + bytes(10))
            wait_for(lambda end={"client_left": num_left}: outcomes(service) == end)
        with socket.create_connection(address, 5) as connection:
            connection.sendall(HEAD + b"Content-Length: 90000\r\n\r\n" + bytes(90_000))
            assert answer_on(connection)[2]["code"] == "undecodable_image"


def test_the_event_loop_is_free_while_a_large_image_is_decoded(make_service):
    service = make_service(
        max_body_bytes=50_000_000, max_inflight_bytes=100_000_000, max_pixels=40_000_000
    )
    large = picture((4000, 3000), "JPEG", quality=90)
    pauses_s = []

    async def watch():
        while True:
            begun_s = time.monotonic()
            await asyncio.sleep(0.001)
            pauses_s.append(time.monotonic() - begun_s)

    async def ask_and_watch():
        watching = asyncio.create_task(watch())
        async with service.concurrent_client() as client:
            response = await client.post("/v1/densepose", content=large)
        watching.cancel()
        return response.json()["timing_ms"]

    timing_ms = asyncio.run(ask_and_watch())
    assert 1000 * max(pauses_s) < 0.5 * (timing_ms["decode"] + timing_ms["preprocess"])


def test_head_has_the_length_of_a_body_that_does_not_come(service):
    asking = b"%s /v1/models HTTP/1.1\r\nHost: test\r\n\r\n"
    with listening(service) as address, socket.create_connection(address, 5) as connection:
        connection.sendall(asking % b"HEAD")
        head = connection.recv(65536)
        assert head.endswith(b"\r\n\r\n")
        connection.sendall(asking % b"GET")
        _, headers, _ = answer_on(connection)
        assert b"content-length: %s\r\n" % headers["content-length"].encode() in head


def test_a_hundred_requests_at_once_all_get_their_own_answer(make_service):
    service = make_service(max_inflight_bytes=100_000_000)

    async def ask_all():
        async with service.concurrent_client() as client:
            return await asyncio.gather(
                *(
                    client.post("/v1/densepose", content=picture((8 + index, 10)))
                    for index in range(100)
                )
            )

    widths = [response.json()["image"]["width"] for response in asyncio.run(ask_all())]
    assert widths == [8 + index for index in range(100)]


def test_the_instances_of_an_answer_are_encoded_side_by_side(service):
    service.device.boxes = tuple((0.0, 0.0, 4.0, 4.0) for _ in range(20))
    assert len(service.ask().json()["instances"]) == 20
    assert service.encoders.most_jobs > 1
