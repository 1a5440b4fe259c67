from concurrent.futures import ThreadPoolExecutor

import pytest

from service.batching.inflight import UNREAD_GRACE_S, InflightBytes
from service.errors import ClientLeft, Overloaded


def test_all_requests_together_may_hold_no_more_than_the_limit():
    inflight = InflightBytes(max_bytes=100, wait_s=lambda: 0.0)
    with inflight.hold() as first, inflight.hold() as second:
        first.resize(60)
        with pytest.raises(Overloaded):
            second.resize(41)
        second.resize(40)
        first.resize(10)
        second.resize(90)
        assert inflight.num_bytes == 100


def test_a_request_gives_back_what_it_held_also_when_it_fails():
    inflight = InflightBytes(max_bytes=100, wait_s=lambda: 0.0)

    def fail():
        with inflight.hold() as holding:
            holding.resize(60)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inflight.num_bytes == 0


def test_a_refused_growth_changes_nothing():
    inflight = InflightBytes(max_bytes=100, wait_s=lambda: 0.0)
    with inflight.hold() as holding:
        holding.resize(60)
        with pytest.raises(Overloaded):
            holding.resize(101)
        assert inflight.num_bytes == 60


def test_what_is_there_already_counts_and_is_not_refused():
    inflight = InflightBytes(max_bytes=100, wait_s=lambda: 2.5)
    with inflight.hold() as first, inflight.hold() as second:
        first.replace(150)
        assert inflight.fill == 1.5
        with pytest.raises(Overloaded) as caught:
            second.resize(1)
        assert (caught.value.reason, caught.value.retry_after_s) == ("bytes_in_flight", 2.5)
        assert inflight.num_requests == 2
    assert (inflight.num_bytes, inflight.num_requests) == (0, 0)


def test_to_hold_less_is_never_refused():
    inflight = InflightBytes(max_bytes=100, wait_s=lambda: 0.0)
    with inflight.hold() as holding:
        holding.resize(100)
        inflight.max_bytes = 10
        holding.resize(50)
        assert inflight.num_bytes == 50


def test_what_is_held_for_a_request_that_is_over_is_held_no_more():
    inflight = InflightBytes(max_bytes=100, wait_s=lambda: 0.0)
    with inflight.hold() as holding:
        holding.resize(60)
    # Some thread has not heard of it.
    with pytest.raises(ClientLeft):
        holding.resize(70)
    assert inflight.num_bytes == 0


def test_many_threads_count_every_byte():
    inflight = InflightBytes(max_bytes=10**9, wait_s=lambda: 0.0)

    def take_and_give(_):
        for size in range(500):
            with inflight.hold() as holding:
                holding.resize(size)
                holding.resize(2 * size)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(take_and_give, range(8)))
    assert inflight.num_bytes == 0


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def test_who_holds_more_than_a_quarter_leaves_the_last_quarter_to_others():
    inflight = InflightBytes(max_bytes=100, wait_s=lambda: 0.0)
    with (
        inflight.hold("greedy") as first,
        inflight.hold("greedy") as second,
        inflight.hold("other") as other,
    ):
        first.resize(26)
        second.resize(49)
        with pytest.raises(Overloaded):
            second.resize(50)
        other.resize(25)
        assert inflight.num_bytes == 100


def test_one_request_alone_may_take_all_that_there_is():
    inflight = InflightBytes(max_bytes=100, wait_s=lambda: 0.0)
    with inflight.hold("one") as holding:
        holding.resize(100)


def test_unread_answers_of_who_holds_more_than_a_quarter_give_way_to_others():
    clock, cut = Clock(), []
    inflight = InflightBytes(max_bytes=100, wait_s=lambda: 0.0, clock=clock)
    with (
        inflight.hold("greedy") as small,
        inflight.hold("greedy") as large,
        inflight.hold("modest") as modest,
        inflight.hold("other") as other,
    ):
        for holding, num_bytes in ((small, 20), (large, 50), (modest, 25)):
            holding.resize(num_bytes)
            holding.note_unread(lambda num_bytes=num_bytes: cut.append(num_bytes))
        with pytest.raises(Overloaded):
            # They have had no time to read.
            other.resize(10)
        clock.now_s = UNREAD_GRACE_S + 0.1
        with pytest.raises(Overloaded):
            # Not even without them would there be room.
            other.resize(80)
        assert cut == []
        other.resize(10)
        assert (cut, inflight.num_bytes) == ([50], 55)
        with pytest.raises(Overloaded):
            # Who holds no more than a quarter stays.
            other.resize(60)
        with pytest.raises(ClientLeft):
            large.resize(1)
    assert inflight.num_bytes == 0


def test_an_unread_answer_does_not_give_way_to_its_own_reader():
    clock, cut = Clock(), []
    inflight = InflightBytes(max_bytes=100, wait_s=lambda: 0.0, clock=clock)
    with inflight.hold("one") as unread, inflight.hold("one") as next_:
        unread.resize(90)
        unread.note_unread(lambda: cut.append(unread))
        clock.now_s = 1000
        with pytest.raises(Overloaded):
            next_.resize(20)
        assert cut == []
