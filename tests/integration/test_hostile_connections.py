"""Requests that no honest client sends, byte by byte on a real connection."""

import asyncio
import re
import socket
import time

import pytest

from service.api import connection as limits
from service.api import outgoing
from tests.integration.conftest import build_service, picture
from tests.integration.test_connections import (
    HEAD,
    answer_on,
    ask,
    listening,
    outcomes,
    wait_for,
)
from tests.integration.test_operation import sample

HOST = b"Host: test\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def shared():
    """A service that listens, and its address; for those who only look at what it answers."""
    service = build_service()
    with listening(service) as address:
        yield service, address
    service.decoders.shutdown()
    service.encoders.shutdown()


def exchange(address, data, timeout_s=10):
    """All that comes back until the server closes the connection."""
    answers = b""
    with socket.create_connection(address, timeout_s) as connection:
        connection.sendall(data)
        while received := connection.recv(65536):
            answers += received
    return answers


def send_until_cut_off(connection, data, pause_s=0.0, times=100_000):
    """Sends the data again and again; fails where the server lets that go on."""
    try:
        for _ in range(times):
            connection.sendall(data)
            time.sleep(pause_s)
    except ConnectionError:
        return
    raise AssertionError("it was not cut off")


def codes(answers):
    return [code.decode() for code in re.findall(rb'"code": "(\w+)"', answers)]


def statuses(answers):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


UNREADABLE = {
    "both lengths": HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, the other way": HEAD
    + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": HEAD + b"Content-Length: 3, 3\r\n\r\nabc",
    "a signed length": HEAD + b"Content-Length: +3\r\n\r\nabc",
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\nabc",
    "an endless length": HEAD + b"Content-Length: 99999999999999999999\r\n\r\nabc",
    "a length with a space": HEAD + b"Content-Length : 3\r\n\r\nabc",
    "a folded header": HEAD + b"X-A: b\r\n c\r\n\r\n",
    "a folded coding": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "another coding before": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "another coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
    "a coding before its time": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare line feeds": b"GET /livez HTTP/1.1\nHost: test\n\n",
    "one bare line feed": b"GET /livez HTTP/1.1\r\nHost: test\n\r\n",
    "a bare carriage return": b"GET /livez HTTP/1.1\r\nHost: te\rst\r\n\r\n",
    "a null byte": b"GET /livez HTTP/1.1\r\nHost: test\r\nX: a\0b\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "a user in the host": b"GET /livez HTTP/1.1\r\nHost: user@test\r\n\r\n",
    "a path in the host": b"GET /livez HTTP/1.1\r\nHost: test/livez\r\n\r\n",
    "a list of hosts": b"GET /livez HTTP/1.1\r\nHost: test, other\r\n\r\n",
    "a port that is none": b"GET /livez HTTP/1.1\r\nHost: test:http\r\n\r\n",
    "an address of another host": b"GET http://other/livez HTTP/1.1\r\nHost: test\r\n\r\n",
    "an address with a user": b"GET http://test@other/livez HTTP/1.1\r\nHost: other\r\n\r\n",
    "an address of no host": b"GET http:///livez HTTP/1.1\r\nHost: test\r\n\r\n",
    "a tab for a space": b"GET\t/livez HTTP/1.1\r\nHost: test\r\n\r\n",
    "a space before": b" GET /livez HTTP/1.1\r\nHost: test\r\n\r\n",
    "a space behind": b"GET /livez HTTP/1.1 \r\nHost: test\r\n\r\n",
    "a tunnel that asks for an upgrade": b"CONNECT test:80 HTTP/1.1\r\nHost: test\r\n"
    b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "both lengths and an upgrade": HEAD
    + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n"
    + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two hosts": b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no version": b"GET /livez\r\n\r\n",
    "an old version": b"GET /livez HTTP/0.9\r\n\r\n",
    "a new version": b"GET /livez HTTP/2.0\r\nHost: test\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another protocol": b"SOURCE /livez ICE/1.0\r\nHost: test\r\n\r\n",
    "a tunnel": b"CONNECT test:80 HTTP/1.1\r\nHost: test\r\n\r\n",
    "a path of bytes": b"GET /\xff\xfe HTTP/1.1\r\nHost: test\r\n\r\n",
    "a path with a space": b"GET /a b HTTP/1.1\r\nHost: test\r\n\r\n",
    "a nameless header": b"GET / HTTP/1.1\r\nHost: test\r\n: x\r\n\r\n",
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "nothing known": bytes(range(256)),
    "a negative chunk": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "a chunk in C": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "an endless chunk": CHUNKED + b"FFFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n",
    "a chunk that is longer": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "a chunk with a space": CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n",
    "chunks on bare line feeds": CHUNKED + b"3\nabc\n0\n\n",
    "a length behind the chunks": CHUNKED + b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
    "an extension without end": CHUNKED + b"3;" + b"x" * 200_000,
    "a byte at a time": CHUNKED + b"1\r\nx\r\n" * 30_000,
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_what_can_be_read_in_two_ways_is_malformed_and_ends_the_connection(shared, data):
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: test\r\n\r\n"
    service, address = shared
    num_asked = len(service.device.asked)
    answers = exchange(address, data + smuggled)
    assert codes(answers) == ["malformed_request"], answers
    assert statuses(answers) == [400]
    assert b"connection: close" in answers.lower()
    assert b"x-request-id: " in answers
    assert ask(address)[0] == 200
    assert len(service.device.asked) == num_asked + 1


FLOODS = {
    "a header without end": b"GET / HTTP/1.1\r\nHost: test\r\nX-A: " + b"a" * 300_000,
    "a name without end": b"GET / HTTP/1.1\r\nHost: test\r\n" + b"a" * 300_000,
    "headers without end": b"GET / HTTP/1.1\r\nHost: test\r\n" + b"a: b\r\n" * 50_000,
    "an address without end": b"GET /" + b"a" * 300_000,
    "a long address": b"GET /livez?" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: test\r\n\r\n",
    "long headers": b"GET /livez HTTP/1.1\r\nHost: test\r\n"
    + (b"X: " + b"a" * 8000 + b"\r\n") * 5
    + b"\r\n",
    "many headers": b"GET /livez HTTP/1.1\r\nHost: test\r\n" + b"a: b\r\n" * 101 + b"\r\n",
}


@pytest.mark.parametrize("data", FLOODS.values(), ids=FLOODS)
def test_headers_beyond_all_bounds_are_refused(shared, data):
    _, address = shared
    with socket.create_connection(address, 10) as connection:
        connection.sendall(data[:60_000])
        status, headers, problem = answer_on(connection)
    assert (status, problem["code"]) == (431, "headers_too_large")
    assert headers["connection"] == "close"
    assert problem["request_id"] == headers["x-request-id"]
    assert ask(address)[0] == 200


def test_as_many_headers_as_are_allowed_are_read(service):
    data = b"GET /livez HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
    data += b"a: b\r\n" * (limits.MAX_HEADERS - 2) + b"\r\n"
    with listening(service) as address:
        assert statuses(exchange(address, data)) == [200]


def test_empty_lines_without_end_are_cut_off(service):
    with listening(service) as address, socket.create_connection(address, 10) as connection:
        send_until_cut_off(connection, b"\r\n" * 5000)
        assert ask(address)[0] == 200


@pytest.mark.parametrize("size", [1_000_001, 10**15])
@pytest.mark.parametrize("path", [b"/livez", b"/v1/models", b"/nowhere", b"/v1/densepose"])
def test_a_body_that_is_too_large_is_refused_on_every_path(shared, path, size):
    data = b"POST " + path + b" HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size
    with socket.create_connection(shared[1], 10) as connection:
        connection.sendall(data)
        assert answer_on(connection)[2]["code"] == "body_too_large"


@pytest.mark.parametrize("path", [b"/livez", b"/nowhere"])
def test_a_chunked_body_that_nobody_reads_is_not_dropped_for_ever(service, path):
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    data = b"POST " + path + b" HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    with listening(service) as address, socket.create_connection(address, 10) as connection:
        connection.sendall(data)
        send_until_cut_off(connection, chunk)


def test_fields_behind_a_chunked_body_are_not_headers(service):
    body = picture()
    data = CHUNKED + b"%x\r\n" % len(body) + body + b"\r\n0\r\nAccept: image/webp\r\n\r\n"
    with listening(service) as address, socket.create_connection(address, 10) as connection:
        # The headers alone first, so that the application has begun when the fields come.
        connection.sendall(CHUNKED)
        time.sleep(0.05)
        connection.sendall(data[len(CHUNKED) :])
        assert answer_on(connection)[0] == 200


def test_chunk_extensions_are_ignored(service):
    body = picture()
    data = CHUNKED + b"%x;a=b\r\n" % len(body) + body + b"\r\n0;c\r\n\r\n"
    with listening(service) as address, socket.create_connection(address, 10) as connection:
        connection.sendall(data)
        assert answer_on(connection)[0] == 200


def test_an_upgrade_is_answered_as_a_request_and_nothing_after_it_is_read(service):
    data = b"GET /livez HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    other = b"GET /livez HTTP/1.1\r\n" + HOST
    with listening(service) as address:
        assert statuses(exchange(address, data + other)) == [200]
        assert statuses(exchange(address, data + other + b"\r\n" + data)) == [200]
        assert statuses(exchange(address, data + b"\x81\x05hello")) == [200]
        assert statuses(exchange(address, data * 2000)) == [200]


UPGRADES = [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
    b"upgrade: TLS/1.2\r\nUPGRADE: HTTP/2.0\r\nconnection: upgrade\r\n",
    b"Upgrade: h2c\r\nConnection: keep-alive\r\n",
]


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("num_pieces", [1, 2, 3, 50])
def test_a_body_is_read_whatever_protocol_its_client_would_rather_speak(
    shared, upgrade, is_chunked, num_pieces
):
    service, address = shared
    num_asked, body = len(service.device.asked), picture()
    head = HEAD + upgrade + b"Connection: close\r\n"
    if is_chunked:
        framing = b"Transfer-Encoding: chunked\r\n\r\n"
        body = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    else:
        framing = b"Content-Length: %d\r\n\r\n" % len(body)
    data = head + framing + body
    # The body by itself; or all of it in as many pieces.
    step = -(-len(data) // num_pieces)
    pieces = [data[index : index + step] for index in range(0, len(data), step)]
    if num_pieces == 2:
        pieces = [head + framing, body]
    with socket.create_connection(address, 10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.001)
        assert answer_on(connection)[0] == 200
        assert connection.recv(1) == b""
    assert len(service.device.asked) == num_asked + 1


def test_the_headers_of_an_upgrade_are_counted_once(shared):
    long = b"X: " + b"a" * 20_000 + b"\r\n"
    data = b"GET /livez HTTP/1.1\r\n" + HOST + UPGRADES[0] + long
    assert statuses(exchange(shared[1], data + b"\r\n")) == [200]
    assert statuses(exchange(shared[1], data + long + b"\r\n")) == [431]


def test_a_client_that_asks_for_an_upgrade_is_told_to_go_on_with_its_body(shared):
    body = picture()
    head = HEAD + UPGRADES[0] + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(shared[1], 10) as connection:
        connection.sendall(head)
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert answer_on(connection)[0] == 200


@pytest.mark.parametrize("coding", [b"Chunked", b"CHUNKED", b" chunked "])
def test_a_coding_s_name_is_the_same_in_capitals(shared, coding):
    body = picture()
    data = HEAD + b"Transfer-Encoding:" + coding + b"\r\n\r\n%x\r\n" % len(body) + body
    with socket.create_connection(shared[1], 10) as connection:
        connection.sendall(data + b"\r\n0\r\n\r\n")
        assert answer_on(connection)[0] == 200


@pytest.mark.parametrize("line", [b"GET  /livez HTTP/1.1", b"GET /livez   HTTP/1.1"])
def test_spaces_in_a_row_part_a_request_line_as_one_does(shared, line):
    # RFC 9112, 3 allows it, and no reading of it is another: no part of it has a space.
    data = line + b"\r\n" + HOST + b"Connection: close\r\n\r\n"
    assert statuses(exchange(shared[1], data)) == [200]


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"http://test/livez", b"test"),
        (b"HTTP://Test.:8000/livez?a=b", b"test:8000"),
        (b"http://test:80/livez", b"test"),
        (b"http://[::1]:8000/livez", b"[0::1]:8000"),
        (b"/livez?to=http://other/", b"test"),
        (b"/livez", b""),
    ],
)
def test_a_whole_address_of_the_host_is_answered(shared, target, host):
    data = b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (target, host)
    assert statuses(exchange(shared[1], data)) == [200]


def test_a_page_s_whole_address_is_no_way_round_the_host_s_name(make_service):
    service = make_service(allowed_hosts=())
    rebound = b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"
    with listening(service) as address:
        for target, host, status in (
            (b"http://evil.example/v1/models", b"evil.example", 421),
            (b"http://evil.example/v1/models", b"localhost", 400),
            (b"http://localhost/v1/models", b"evil.example", 400),
            (b"http://localhost/v1/models", b"localhost", 200),
            (b"/v1/models", b"evil.example", 421),
        ):
            assert statuses(exchange(address, rebound % (target, host))) == [status]
        # No browser speaks HTTP/1.0, which needs no host.
        assert exchange(address, b"GET /v1/models HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_page_elsewhere_is_refused_before_its_body_is_sent(make_service):
    service = make_service(allowed_hosts=())
    sending = b"Expect: 100-continue\r\nContent-Length: 900000\r\n\r\n"
    foreign = HEAD.replace(b"test", b"localhost") + b"Origin: https://evil.example\r\n"
    with listening(service) as address:
        for head, status in ((foreign, 403), (HEAD, 421)):
            with socket.create_connection(address, 10) as connection:
                connection.sendall(head + sending)
                assert answer_on(connection)[0] == status
    assert service.device.asked == []


ORIGIN = b"Origin: https://app.example\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /livez HTTP/1.1\r\n" + ORIGIN + HOST, 408),
        (b"GET /livez HTTP/1.1\r\n" + ORIGIN + b"X: " + b"a" * 40_000, 431),
        (b"GET /livez HTTP/1.1\r\n" + ORIGIN + b"a: b\r\n" * 101, 431),
        (b"GET /livez HTTP/1.1\r\n" + ORIGIN + b"X: a\0b\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\n" + ORIGIN + b"\r\n", 400),
        (HEAD + ORIGIN + b"Content-Length: 3\r\n\r\n", 408),
        (HEAD + ORIGIN + b"Content-Length: 10000000\r\n\r\n", 413),
        (HEAD + ORIGIN + b"Transfer-Encoding: chunked\r\n\r\nnone", 400),
    ],
)
def test_a_page_that_may_ask_reads_what_its_connection_did_wrong(make_service, data, status):
    service = make_service(cors_origins=("https://app.example",), upload_timeout_ms=300)
    named = data.replace(b"\r\nOrigin", b"\r\nX-Request-ID: mine\r\nOrigin")
    with listening(service) as address, socket.create_connection(address, 10) as connection:
        connection.sendall(named)
        answered, headers, problem = answer_on(connection)
    assert answered == status
    assert headers["access-control-allow-origin"] == "https://app.example"
    assert headers["vary"] == "origin"
    assert problem["request_id"] == headers["x-request-id"] == "mine"


def test_what_is_no_request_is_nobody_s_of_the_request_before(make_service):
    service = make_service(cors_origins=("https://app.example",))
    data = b"GET /livez HTTP/1.1\r\n" + HOST + ORIGIN + b"\r\n"
    with listening(service) as address:
        first, second = exchange(address, data + b"\0").split(b"HTTP/1.1 400")
    assert b"access-control-allow-origin" in first
    assert b"access-control-allow-origin" not in second


def test_requests_in_a_row_are_answered_in_order(service):
    paths = [b"/livez", b"/nowhere", b"/readyz", b"/v1/parts"]
    data = b"".join(b"GET %s HTTP/1.1\r\nHost: test\r\n\r\n" % path for path in paths)
    closing = b"GET /livez HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    with listening(service) as address:
        assert statuses(exchange(address, data + closing)) == [200, 404, 200, 200, 200]


def test_garbage_behind_a_request_is_refused_after_its_answer(service):
    service.device.delay_s = 0.1
    body = picture()
    data = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"\0garbage"
    with listening(service) as address:
        assert statuses(exchange(address, data)) == [200, 400]


def test_a_client_that_leaves_with_requests_in_a_row_frees_the_device(service):
    service.device.delay_s = 60
    body = picture()
    data = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with listening(service) as address:
        with socket.create_connection(address, 10) as connection:
            connection.sendall(data + b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n")
            wait_for(lambda: service.device.asked)
        wait_for(lambda: service.device.num_cancelled == 1)


def test_a_client_that_has_left_when_it_is_answered_is_no_error(service, caplog):
    body = picture()
    requests = [
        HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        b"GET /v1/models HTTP/1.1\r\nHost: test\r\n\r\n",
        HEAD + b"Content-Encoding: br\r\nContent-Length: 3\r\n\r\nabc",
    ]
    with listening(service) as address:
        for data in requests * 20:
            with socket.create_connection(address, 10) as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
        assert ask(address)[0] == 200
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_nothing_is_read_behind_a_request_that_was_refused(service):
    refused = b"POST /v1/densepose HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
    body = picture()
    good = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with listening(service) as address:
        assert statuses(exchange(address, refused + good)) == [400]
    assert service.device.asked == []


def test_requests_in_a_row_without_end_are_refused(service):
    service.device.delay_s = 0.2
    body = picture()
    data = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    flood = b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n" * 2000
    with listening(service) as address:
        answers = exchange(address, data + flood)
    assert statuses(answers) == [200] * (1 + limits.MAX_PIPELINED) + [400]


@pytest.mark.parametrize(
    "begin", [b"GET /livez HTTP/1.1\r\n", b"GET /livez HTTP/1.1\r\nHost: test\r\n"]
)
def test_headers_that_do_not_end_are_cut_off_and_told_so(make_service, begin):
    with (
        listening(make_service(upload_timeout_ms=200)) as address,
        socket.create_connection(address, 10) as connection,
    ):
        connection.sendall(begin)
        status, _, problem = answer_on(connection)
        assert (status, problem["code"]) == (408, "slow_upload")
        assert connection.recv(1) == b""


def test_headers_that_come_drop_by_drop_are_cut_off_too(make_service):
    with (
        listening(make_service(upload_timeout_ms=300)) as address,
        socket.create_connection(address, 10) as connection,
    ):
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        send_until_cut_off(connection, b"X: y\r\n", pause_s=0.02)


def test_a_connection_on_which_nothing_comes_is_closed(make_service):
    with listening(make_service(upload_timeout_ms=200)) as address:
        assert exchange(address, b"") == b""


def test_a_body_that_nobody_waits_for_is_cut_off_too(make_service, monkeypatch):
    monkeypatch.setattr(limits, "BODY_GRACE_S", 0.0)
    with (
        listening(make_service(upload_timeout_ms=300)) as address,
        socket.create_connection(address, 10) as connection,
    ):
        connection.sendall(b"POST /livez HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\n")
        assert answer_on(connection)[0] == 405
        send_until_cut_off(connection, b"x", pause_s=0.02)


def test_an_answer_that_nobody_reads_is_given_up(service, monkeypatch):
    monkeypatch.setattr(outgoing, "WRITE_GRACE_S", 0.2)
    monkeypatch.setattr(outgoing, "MIN_BYTES_READ_PER_S", 2**30)
    # Larger than what the system keeps for a connection that is not read.
    boxes = str([[0, 0, 8, 10]] * 100).encode().replace(b" ", b"")
    head = HEAD.replace(b"densepose", b"densepose?outputs=iuv,mask,labels,coarse&boxes=" + boxes)
    request = head + b"Content-Length: %d\r\n\r\n" % len(picture()) + picture()
    with listening(service) as address, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(address)
        # The answers are kept for whoever reads late, until that is too much.
        inflight = service.inflight
        is_kept = False
        try:
            for _ in range(2000):
                connection.sendall(request)
                is_kept = is_kept or inflight.num_bytes > 0
                time.sleep(0.01)
        except ConnectionError:
            pass
        assert is_kept
        wait_for(lambda: inflight.num_bytes == 0)
        assert ask(address)[0] == 200


def test_the_longest_idle_connection_goes_for_a_new_one(make_service):
    with listening(make_service(max_connections=3)) as address:
        first, *others = [socket.create_connection(address, 10) for _ in range(3)]
        assert ask(address)[0] == 200
        assert first.recv(1) == b""
        for other in (first, *others):
            other.close()


def test_when_all_connections_are_busy_more_are_refused_but_for_probes(make_service):
    service = make_service(max_connections=2)
    service.device.delay_s = 60
    body = picture()
    with listening(service) as address:
        busy = [socket.create_connection(address, 10) for _ in range(2)]
        for number, connection in enumerate(busy, start=1):
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_for(lambda end=number: len(service.device.asked) == end)
        status, headers, problem = ask(address)
        assert (status, problem["code"]) == (429, "overloaded")
        assert headers["connection"] == "close"
        assert int(headers["retry-after"]) >= 1
        probe = b"GET /livez HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        assert statuses(exchange(address, probe)) == [200]
        for connection in busy:
            connection.close()
        wait_for(lambda: outcomes(service).get("client_left") == 2)
        service.device.delay_s = 0
        assert ask(address)[0] == 200
    assert sample(service, "densepose_refusals_total", reason="connections") == 1


def test_what_the_connection_refuses_is_logged_and_counted(service, caplog):
    caplog.set_level("INFO", logger="service")
    with listening(service) as address:
        exchange(address, b"\0")
    (line,) = [record.fields for record in caplog.records if record.message == "request"]
    assert (line["status"], line["outcome"]) == (400, "malformed_request")
    assert sample(service, "densepose_http_requests_total", route="other", status="400") == 1


def test_a_few_who_announce_much_and_send_nothing_keep_nobody_out(make_service):
    service = make_service(max_inflight_bytes=1_000_000)
    with listening(service) as address:
        announcing = [socket.create_connection(address, 10) for _ in range(20)]
        for connection in announcing:
            connection.sendall(HEAD + b"Content-Length: 900000\r\n\r\n" + bytes(10))
        inflight = service.inflight
        wait_for(lambda: inflight.num_requests == len(announcing))
        assert ask(address)[0] == 200
        for connection in announcing:
            connection.close()


def test_hundreds_of_hostile_connections_at_once_leave_room_for_good_ones(service):
    async def hold(address, data):
        _, writer = await asyncio.open_connection(*address)
        writer.write(data)
        await writer.drain()
        return writer

    async def hold_and_ask(address):
        begins = [b"", b"GET / HTTP/1.1\r\nX: ", HEAD + b"Content-Length: 100\r\n\r\nabc"]
        writers = [await hold(address, begins[index % 3]) for index in range(300)]
        status = (await asyncio.to_thread(ask, address))[0]
        for writer in writers:
            writer.close()
        return status

    with listening(service) as address:
        assert asyncio.run(hold_and_ask(address)) == 200
