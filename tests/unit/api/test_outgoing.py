import pytest

from service.api.outgoing import (
    MAX_READ_S,
    MIN_BYTES_READ_PER_S,
    WRITE_GRACE_S,
    Outgoing,
    Unread,
)
from service.batching.inflight import InflightBytes


class Transport:
    """What of a transport is used here; nobody is at its other end."""

    def __init__(self):
        self.num_unsent = 0
        self.calls = []
        self.counts = []
        self.is_gone = False

    def is_closing(self):
        return self.is_gone

    def get_write_buffer_size(self):
        return self.num_unsent

    def write(self, data):
        assert not self.is_gone
        self.calls.append(data)

    def write_eof(self):
        assert not self.is_gone
        self.calls.append("eof")

    def close(self):
        self.calls.append("close")

    def abort(self):
        self.calls.append("abort")


class Loop:
    """Timers of a clock that is put forward by hand."""

    def __init__(self):
        self.now_s = 0.0
        self.timers = []

    def time(self):
        return self.now_s

    def call_later(self, seconds, callback, *arguments):
        timer = Timer(self.now_s + seconds, callback, arguments)
        self.timers.append(timer)
        return timer

    def pass_by(self, seconds):
        self.now_s += seconds
        for timer in [timer for timer in self.timers if timer.due_s <= self.now_s]:
            self.timers.remove(timer)
            if not timer.is_cancelled:
                timer.callback(*timer.arguments)


class Timer:
    is_cancelled = False

    def __init__(self, due_s, callback, arguments):
        self.due_s, self.callback, self.arguments = due_s, callback, arguments

    def cancel(self):
        self.is_cancelled = True


@pytest.fixture
def transport():
    return Transport()


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def inflight():
    return InflightBytes(10**9, lambda: 0.0)


@pytest.fixture
def unread(transport, inflight, loop):
    return Unread(transport, inflight, loop)


def test_what_is_written_to_a_client_that_has_gone_is_dropped(transport):
    transport.is_gone = True
    outgoing = Outgoing(transport, lambda: transport.calls.append("told"), transport.counts.append)
    outgoing.write(b"answer")
    outgoing.close()
    assert transport.calls == []


def test_the_last_answer_leaves_the_end_to_the_client(transport):
    outgoing = Outgoing(transport, lambda: transport.calls.append("told"), transport.counts.append)
    outgoing.write(b"answer")
    outgoing.close()
    assert transport.calls == [b"answer", "eof", "told"]
    assert transport.counts == [6]


def test_much_that_is_not_read_counts_as_in_flight_and_has_its_time(
    unread, transport, loop, inflight
):
    transport.num_unsent = 10 * MIN_BYTES_READ_PER_S
    unread.note_written(transport.num_unsent)
    unread.note_much()
    unread.note_answer()
    assert inflight.num_bytes == transport.num_unsent
    loop.pass_by(WRITE_GRACE_S + 9.9)
    assert transport.calls == []
    loop.pass_by(0.2)
    assert transport.calls == ["abort"]


def test_what_is_read_in_time_is_forgotten(unread, transport, loop, inflight):
    transport.num_unsent = 1000
    unread.note_much()
    unread.note_little()
    assert inflight.num_bytes == 0
    loop.pass_by(1000)
    assert transport.calls == []


def test_a_little_that_is_never_read_is_given_up_too(unread, transport, loop):
    transport.num_unsent = 1000
    unread.note_answer()
    loop.pass_by(WRITE_GRACE_S + 1)
    assert transport.calls == ["abort"]


def test_an_answer_has_its_own_time_where_the_one_before_was_read(unread, transport, loop):
    transport.num_unsent = 1000
    unread.note_written(1000)
    unread.note_answer()
    loop.pass_by(WRITE_GRACE_S - 1)
    unread.note_written(1000)
    unread.note_answer()
    loop.pass_by(2)
    assert transport.calls == []
    transport.num_unsent = 0
    loop.pass_by(WRITE_GRACE_S + 1)
    assert transport.calls == []


def test_an_answer_in_parts_is_read_at_the_least_rate_from_its_first_byte_on(
    unread, transport, loop
):
    part = 10 * MIN_BYTES_READ_PER_S
    for _ in range(4):
        # Each is read in time, but all of them together are not.
        transport.num_unsent = part
        unread.note_written(part)
        unread.note_much()
        loop.pass_by(14)
        unread.note_little()
    assert transport.calls == []
    unread.note_written(part)
    unread.note_much()
    loop.pass_by(14.1)
    assert transport.calls == ["abort"]


def test_no_answer_has_more_than_two_minutes(unread, transport, loop):
    transport.num_unsent = 1000 * MIN_BYTES_READ_PER_S
    unread.note_written(transport.num_unsent)
    unread.note_much()
    loop.pass_by(MAX_READ_S - 0.1)
    assert transport.calls == []
    loop.pass_by(0.2)
    assert transport.calls == ["abort"]


def test_to_be_told_to_send_a_body_is_no_answer(transport):
    outgoing = Outgoing(transport, lambda: None, transport.counts.append)
    outgoing.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert transport.counts == []
