"""What answers hold: counted, given back, and cut off where others need the room."""

import socket
import time
from contextlib import suppress

import pytest

from tests.integration.conftest import picture
from tests.integration.test_connections import listening

WHOLE = "[[0,0,400,300]]"
FLOATS = {"outputs": "uv", "boxes": WHOLE}


@pytest.mark.parametrize(
    ("params", "limits", "status"),
    [
        ({}, {}, 200),
        (FLOATS, {}, 200),
        (FLOATS, {"max_answer_bytes": 1_000_000}, 422),
        (FLOATS, {"max_inflight_bytes": 500_000}, 422),
        ({"outputs": "iuv", "layout": "image"}, {"max_answer_bytes": 300_000}, 422),
        ({"boxes": "[[500,0,600,100]]"}, {}, 422),
        ({"boxes": "[]", "layout": "image"}, {}, 200),
        ({"boxes": "[]", "layout": "image"}, {"max_answer_bytes": 300_000}, 422),
    ],
)
def test_nothing_stays_held_however_a_request_ends(make_service, params, limits, status):
    service = make_service(**limits)
    response = service.ask(picture((400, 300)), params=params)
    assert response.status_code == status, response.text
    assert service.inflight_bytes == 0


def ask_on(address, image, query=""):
    connection = socket.create_connection(address, 10)
    head = f"POST /v1/densepose{query} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
    connection.sendall(f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image)
    return connection


def read_all(connection):
    content = bytearray()
    with suppress(ConnectionError):
        while piece := connection.recv(2**20):
            content += piece
    return bytes(content)


def wait_until(is_so, limit_s=10):
    end_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_client_that_does_not_read_turns_no_other_away(make_service, monkeypatch):
    monkeypatch.setattr("service.batching.inflight.UNREAD_GRACE_S", 0.2)
    # 24 million letters of base64 of 18 million bytes, which leave no room for another such answer.
    service = make_service(max_inflight_bytes=60_000_000, max_pixels=10**7)
    image = picture((1500, 1500), "JPEG")
    query = "?outputs=uv&boxes=[[0,0,1500,1500]]"
    with listening(service) as address:
        with ask_on(address, image, query) as slow:
            assert slow.recv(15) == b"HTTP/1.1 200 OK"
            time.sleep(0.3)
            assert service.inflight_bytes > 15_000_000
            for _ in range(3):
                with ask_on(address, image, query) as quick:
                    assert read_all(quick).startswith(b"HTTP/1.1 200 OK")
            # What it had no room for was cut off.
            assert len(read_all(slow)) < 24_000_000
        wait_until(lambda: service.inflight_bytes == 0)


def test_an_answer_is_held_until_it_is_sent_and_no_byte_is_lost(make_service):
    service = make_service(max_pixels=10**7)
    image = picture((1500, 1500), "JPEG")
    with listening(service) as address:
        with ask_on(address, image, "?outputs=uv&boxes=[[0,0,1500,1500]]") as connection:
            head, _, body = read_all(connection).partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert length == len(body) > 24_000_000
        wait_until(lambda: service.inflight_bytes == 0)
