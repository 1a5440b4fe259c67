import asyncio
import socketserver
import threading
from contextlib import contextmanager

import pytest

from load_tests import connections
from load_tests.connections import Pool
from load_tests.generator import Generator, Load, ask_in_turn, get, jpeg
from load_tests.report import HUNG_UP, LOST, NOT_CONNECTED
from service.imaging.decode import decode_image

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LAST = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
PROBLEM = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/problem+json\r\n"
    b'Content-Length: 21\r\n\r\n{"code":"overloaded"}'
)


class Answering(socketserver.ThreadingTCPServer):
    """A server that says the same to everybody; None: nothing; b"": it hangs up."""

    daemon_threads = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), None)
        self.answer = answer
        self.num_connections = 0
        self.ids = []

    def finish_request(self, request, client_address):
        self.num_connections += 1
        with request.makefile("rwb") as stream:
            while stream.readline():
                while line := stream.readline().strip():
                    if line.startswith(b"X-Request-Id: "):
                        self.ids.append(line.split()[1].decode())
                if self.answer is None:
                    continue
                if not self.answer:
                    return
                # In two pieces, as a network may do it.
                for piece in (self.answer[:30], self.answer[30:]):
                    stream.write(piece)
                    stream.flush()


@contextmanager
def answering(answer):
    with Answering(answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask_twice(answer):
    async def scene():
        pool = Pool(*server.server_address)
        endings = await ask_in_turn(pool, get("/"), 2)
        pool.close()
        return [ending.outcome for ending in endings]

    with answering(answer) as server:
        return asyncio.run(scene()), server.num_connections


def generate(answer, load):
    async def scene():
        pool = Pool(*server.server_address)
        endings = await Generator(pool, load).run()
        pool.close()
        return {ending.outcome for ending in endings}

    with answering(answer) as server:
        return asyncio.run(scene())


def test_arrivals_come_at_the_rate_that_was_asked_for_and_do_not_change_from_run_to_run():
    load = Load([(100.0, 20.0), (50.0, 0.0), (100.0, 5.0)], [b""])
    arrivals = list(load.arrivals())
    assert arrivals == sorted(load.arrivals())
    assert sum(due_s < 100 for due_s in arrivals) == pytest.approx(2000, rel=0.1)
    assert not any(100 <= due_s < 150 for due_s in arrivals)
    assert sum(due_s >= 150 for due_s in arrivals) == pytest.approx(500, rel=0.15)


def test_an_error_is_known_by_its_status_and_code():
    assert ask_twice(ANSWER)[0] == ["200", "200"]
    assert ask_twice(PROBLEM)[0] == ["429 overloaded", "429 overloaded"]


def test_a_connection_is_used_again_unless_the_server_closes_it():
    assert ask_twice(ANSWER)[1] == 1
    assert ask_twice(LAST) == (["200", "200"], 2)


def test_a_connection_that_was_used_too_long_ago_is_not_used_again(monkeypatch):
    """However late its last answer was read: the server may be about to end it."""
    monkeypatch.setattr(connections, "MAX_UNUSED_S", 0.0)
    assert ask_twice(ANSWER) == (["200", "200"], 2)


def test_each_request_has_an_id_of_its_own_that_the_server_is_told():
    async def scene():
        pool = Pool(*server.server_address)
        endings = await Generator(pool, Load([(0.1, 50.0)], [get("/")])).run()
        pool.close()
        return [ending.request_id for ending in endings]

    with answering(ANSWER) as server:
        ids = asyncio.run(scene())
    assert len(ids) > 0
    assert sorted(ids) == sorted(server.ids)
    assert len(set(ids)) == len(ids)


def test_requests_do_not_wait_for_the_answers_to_others():
    load = Load([(0.2, 100.0)], [get("/")], hang_up_share=1.0, hang_up_s=0.3)
    assert generate(None, load) == {HUNG_UP}


def test_a_request_without_an_answer_is_lost():
    assert generate(b"", Load([(0.1, 50.0)], [get("/")])) == {LOST}


def test_a_server_that_is_not_there_is_told_from_one_that_lost_a_request():
    with answering(ANSWER) as server:
        address = server.server_address
    load = Load([(0.1, 50.0)], [get("/")])
    endings = asyncio.run(Generator(Pool(*address), load).run())
    assert {ending.outcome for ending in endings} == {NOT_CONNECTED}


@pytest.mark.parametrize(
    ("answer", "outcome", "is_asked_again"),
    [
        (b"", LOST, True),
        (b"HTTP/1.1 503 Unavailable\r\ncontent-length: 2\r\n\r\nok", "503", True),
        (PROBLEM, "429 overloaded", False),
        (ANSWER, "200", False),
    ],
)
def test_only_what_another_replica_could_answer_is_asked_again(answer, outcome, is_asked_again):
    async def scene():
        pool = Pool(*server.server_address)
        generator = Generator(pool, Load([(0.1, 100.0)], [get("/")]), retries=1)
        await generator.run()
        pool.close()
        return generator

    with answering(answer) as server:
        generator = asyncio.run(scene())
    assert {ending.outcome for ending in generator.endings} == {outcome}
    assert generator.num_retried == (len(generator.endings) if is_asked_again else 0)


def test_the_photo_is_a_picture_of_the_size_and_weight_that_it_should_have():
    data = jpeg(640, 480, 60_000)
    assert decode_image(data, max_pixels=10**6).size_hw == (480, 640)
    assert len(data) == pytest.approx(60_000, rel=0.05)
