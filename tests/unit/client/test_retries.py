import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.client import retries
from service.client.errors import (
    DeadlineExceeded,
    Draining,
    InternalError,
    InvalidParameter,
    ModelLoading,
    OutOfTime,
    Overloaded,
    Refused,
    ServerUnreachable,
    Unhealthy,
    UnreadableAnswer,
)
from service.client.retries import Attempts

LONG_S = 1e6


def refused(kind=Overloaded, code="overloaded", status=429, retry_after_s=None):
    return kind("no", status=status, code=code, retry_after_s=retry_after_s)


def attempts(timeout_s=LONG_S, max_retries=100, *, is_safe=True) -> Attempts:
    return Attempts(timeout_s=timeout_s, max_retries=max_retries, is_safe=is_safe)


TRANSIENT = [
    refused(),
    refused(ModelLoading, "loading", 503),
    refused(Draining, "draining", 503),
    refused(Unhealthy, "unhealthy", 503),
]
BETWEEN = [refused(Refused, None, status) for status in (429, 502, 503, 504)]
LASTING = [
    refused(InvalidParameter, "invalid_parameter", 422),
    refused(InternalError, "internal_error", 500),
    refused(DeadlineExceeded, "deadline_exceeded", 504),
    refused(Refused, None, 500),
    refused(Refused, None, 404),
    UnreadableAnswer("what?"),
    OutOfTime("late"),
]


def name_of(error):
    return f"{type(error).__name__}-{getattr(error, 'status', '')}"


@pytest.mark.parametrize("error", [*TRANSIENT, *BETWEEN], ids=name_of)
def test_what_may_pass_is_tried_again(error):
    assert attempts().pause_s(error) >= 0


@pytest.mark.parametrize("error", LASTING, ids=name_of)
def test_what_will_not_pass_is_raised(error):
    with pytest.raises(type(error)) as raised:
        attempts().pause_s(error)
    assert raised.value is error


@pytest.mark.parametrize("error", [*BETWEEN, ServerUnreachable("gone", was_sent=True)], ids=name_of)
def test_what_may_have_been_done_is_not_done_twice_unless_that_is_safe(error):
    assert attempts().pause_s(error) >= 0
    with pytest.raises(type(error)):
        attempts(is_safe=False).pause_s(error)


@pytest.mark.parametrize(
    "error", [*TRANSIENT, ServerUnreachable("no", was_sent=False)], ids=name_of
)
def test_what_was_not_begun_is_tried_again_even_if_it_is_not_safe_twice(error):
    assert attempts(is_safe=False).pause_s(error) >= 0


@given(asked_s=st.floats(0, 1000))
def test_a_pause_is_at_least_what_the_server_asks_and_not_all_come_back_at_once(asked_s):
    pauses = {attempts().pause_s(refused(retry_after_s=asked_s)) for _ in range(5)}
    assert min(pauses) >= asked_s
    assert max(pauses) <= asked_s + retries.FIRST_BACKOFF_S
    assert len(pauses) > 1


def test_pauses_grow_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(retries.random, "uniform", lambda low, high: high)
    one = attempts()
    pauses = [one.pause_s(refused()) for _ in range(9)]
    assert pauses[:3] == [0.25, 0.5, 1.0]
    assert pauses[-2:] == [10.0, 10.0]


def test_a_call_is_repeated_so_often_and_no_more():
    one, error = attempts(max_retries=2), refused()
    assert one.pause_s(error) >= 0
    assert one.pause_s(error) >= 0
    with pytest.raises(Overloaded):
        one.pause_s(error)


def test_nobody_waits_for_a_moment_after_the_deadline():
    with pytest.raises(Overloaded):
        attempts(timeout_s=5.0).pause_s(refused(retry_after_s=6.0))


def test_a_call_without_time_left_says_so():
    with pytest.raises(OutOfTime):
        attempts(timeout_s=-1.0).left_s()
    assert 0 < attempts(timeout_s=5.0).left_s() <= 5.0
