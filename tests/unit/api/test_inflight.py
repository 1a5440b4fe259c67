import pytest

from service.api.inflight import InflightBytes
from service.errors import Overloaded


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
