"""Who is turned away, how early, and what it costs those who are not."""

import asyncio
import io
import socket
import threading

import pytest
from PIL import Image

from service.errors import Draining, Overloaded, Unhealthy
from tests.integration.conftest import picture
from tests.integration.test_connections import HEAD, answer_on, ask, listening, outcomes, wait_for
from tests.integration.test_operation import sample


def overloaded(reason="queue_full", retry_after_s=7.2):
    return Overloaded("busy", reason=reason, retry_after_s=retry_after_s)


@pytest.mark.parametrize(
    ("refusal", "status", "retry_after", "reason"),
    [
        (overloaded(), 429, "8", "queue_full"),
        (overloaded("deadline", 0.01), 429, "1", "deadline"),
        (overloaded("expired", 1e9), 429, "30", "expired"),
        (Draining("going"), 503, "5", "draining"),
        (Unhealthy("lost"), 503, "10", "unhealthy"),
    ],
)
def test_a_refusal_says_when_to_come_again_and_is_counted_by_its_reason(
    service, refusal, status, retry_after, reason
):
    service.device.refusal = refusal
    response = service.ask()
    assert (response.status_code, response.headers["retry-after"]) == (status, retry_after)
    assert sample(service, "densepose_refusals_total", reason=reason) == 1
    assert service.device.asked == []


def test_whom_the_device_could_not_serve_in_time_is_told_before_the_image_is_decoded(service):
    service.device.unprepared = overloaded("deadline")
    assert service.ask(b"this would not be an image").json()["code"] == "overloaded"
    assert service.device.num_inside == 0


def test_a_full_queue_is_told_before_the_body_is_sent(service):
    service.device.refusal = overloaded()
    body = picture()
    with listening(service) as address, socket.create_connection(address, 5) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body))
        assert answer_on(connection)[0] == 429
        # The client sends the body nevertheless, and then something else.
        service.device.refusal = None
        connection.sendall(body + HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert answer_on(connection)[0] == 200


def test_too_many_bytes_in_flight_say_when_there_will_be_room(make_service):
    service = make_service(max_inflight_bytes=1000)
    response = service.ask(bytes(1001))
    assert (response.status_code, response.headers["retry-after"]) == (429, "13")
    assert sample(service, "densepose_refusals_total", reason="bytes_in_flight") == 1


def test_everything_that_was_taken_is_given_back_however_a_request_ends(service):
    for params in ({}, {"outputs": "vertices"}, {"boxes": "[[50,50,60,60]]"}):
        service.ask(params=params)
    service.ask(b"no image")
    service.device.error = RuntimeError("defect")
    service.ask()
    service.device.error = overloaded()
    service.ask()
    assert service.device.num_inside == 0
    assert sample(service, "densepose_inflight_requests") == 0
    assert sample(service, "densepose_inflight_bytes") == 0


def test_a_request_that_waits_holds_its_resized_image_alone(service):
    service.device.delay_s = 60
    body = picture((100, 50)) + bytes(500_000)
    with listening(service) as address:
        with socket.create_connection(address, 5) as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_for(lambda: service.device.asked)
            ((_, waiting, _),) = service.device.asked
            held = sample(service, "densepose_inflight_bytes")
            assert held == waiting.pixels_hw3.nbytes
            assert sample(service, "densepose_inflight_requests") == 1
        wait_for(lambda: outcomes(service) == {"client_left": 1})
    assert service.device.num_inside == 0


def test_a_client_that_leaves_while_its_image_is_decoded_costs_the_device_nothing(service):
    blocked = threading.Event()
    for _ in range(4):  # all threads there are
        service.decoders.submit(blocked.wait, 20)
    body = picture()
    try:
        with listening(service) as address:
            with socket.create_connection(address, 5) as connection:
                connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                wait_for(lambda: service.device.num_inside == 1)
            wait_for(lambda: outcomes(service) == {"client_left": 1})
            assert service.device.num_inside == 0
            blocked.set()
            assert ask(address)[0] == 200
    finally:
        blocked.set()
    assert len(service.device.asked) == 1


def test_uploads_that_wait_to_be_decoded_keep_no_answer_from_being_encoded(service):
    """All decoders are busy for ever; the answer to the one that was decoded comes."""

    async def scene():
        service.device.delay_s = 0.2
        async with service.concurrent_client() as client:
            first = asyncio.create_task(client.post("/v1/densepose", content=picture()))
            async with asyncio.timeout(10):
                while not service.device.asked:  # noqa: ASYNC110 - a thread changes it
                    await asyncio.sleep(0.001)
            blocked = threading.Event()
            for _ in range(4):
                service.decoders.submit(blocked.wait, 20)
            others = [
                asyncio.create_task(client.post("/v1/densepose", content=picture()))
                for _ in range(10)
            ]
            try:
                async with asyncio.timeout(10):
                    assert (await first).status_code == 200
            finally:
                blocked.set()
            await asyncio.gather(*others)

    asyncio.run(scene())


def test_saturation_is_that_of_the_fullest_door(make_service):
    service = make_service(max_inflight_bytes=100_000)
    assert sample(service, "densepose_saturation_ratio") == 0.25
    with listening(service) as address, socket.create_connection(address, 5) as connection:
        # What is only announced takes nothing; what has come does.
        connection.sendall(HEAD + b"Content-Length: 95000\r\n\r\n" + bytes(90_000))
        wait_for(lambda: sample(service, "densepose_saturation_ratio") == 0.9)


def test_while_it_drains_a_service_sends_its_clients_to_new_connections(service):
    assert sample(service, "densepose_draining") == 0
    assert "connection" not in service.ask().headers
    service.device.is_draining = True
    response = service.ask()
    assert (response.status_code, response.headers["connection"]) == (200, "close")
    assert sample(service, "densepose_draining") == 1


def test_whether_it_is_ready_is_a_metric_too(service):
    assert sample(service, "densepose_ready") == 1
    service.device.found["readiness"] = (False, "draining")
    assert sample(service, "densepose_ready") == 0


def large_picture():
    """A small file with more pixels than other pictures wait for."""
    file = io.BytesIO()
    Image.new("1", (4100, 4000)).save(file, "PNG")
    return file.getvalue()


def test_large_pictures_wait_for_each_other_and_nobody_for_them(make_service):
    service = make_service(max_pixels=20_000_000)

    async def ask():
        places = service.pictures.places(is_large=True)
        async with service.concurrent_client() as client:
            async with places:
                large = [
                    asyncio.create_task(client.post("/v1/densepose", content=large_picture()))
                    for _ in range(4)
                ]
                while len(places._waiters or ()) < 4:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                small = [await client.post("/v1/densepose", content=picture()) for _ in range(4)]
                gif = await client.post("/v1/densepose", content=picture(file_format="GIF"))
                assert not any(task.done() for task in large)
            return (*small, gif), await asyncio.gather(*large)

    small, large = asyncio.run(ask())
    assert [response.status_code for response in (*small, *large)] == 9 * [200]
    assert large[0].json()["image"] == {"width": 4100, "height": 4000}


def test_a_large_picture_waits_no_longer_than_its_request_may_take(make_service):
    service = make_service(max_pixels=20_000_000)

    async def ask():
        async with service.concurrent_client() as client, service.pictures.places(is_large=True):
            return await client.post("/v1/densepose?timeout_ms=100", content=large_picture())

    response = asyncio.run(ask())
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    assert service.device.num_inside == 0
