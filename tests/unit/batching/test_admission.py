from dataclasses import dataclass
from typing import Any

import pytest

from service.batching.admission import Admission
from service.errors import Draining, ModelLoading, Overloaded, Unhealthy


@dataclass
class Device:
    """In the place of the device's thread."""

    num_running: int = 0
    is_alive: bool = True
    seconds_ahead: float = 0.0
    seconds_per_image: float = 0.0

    def wait_s(self) -> float:
        return self.seconds_ahead

    def image_s(self, model_id: str) -> float:
        return self.seconds_per_image


def make(max_queue: int = 2, **device: Any) -> tuple[Admission, Device]:
    stand_in = Device(**device)
    return Admission(stand_in, max_queue=max_queue), stand_in  # type: ignore[arg-type]


def test_a_full_queue_refuses_with_an_estimate_of_when_to_come_again() -> None:
    admission, _ = make(seconds_ahead=3.5)
    with admission.admit():
        admission.check()
        with admission.admit():
            assert admission.fill == 1
            with pytest.raises(Overloaded) as caught:
                admission.check()
            with pytest.raises(Overloaded), admission.admit():
                pass
            assert admission.num_accepted == 2
        admission.check()
    assert (caught.value.reason, caught.value.retry_after_s) == ("queue_full", 3.5)
    assert admission.num_accepted == 0


def test_those_on_the_device_are_not_in_the_queue() -> None:
    admission, device = make(max_queue=1)
    with admission.admit():
        device.num_running = 1
        assert admission.fill == 0
        with admission.admit(), pytest.raises(Overloaded):
            admission.check()


def test_a_place_is_given_back_by_whoever_fails() -> None:
    admission, _ = make()
    with pytest.raises(ZeroDivisionError), admission.admit():
        raise ZeroDivisionError
    assert admission.num_accepted == 0


def test_who_waits_for_a_model_keeps_nobody_from_others() -> None:
    admission, _ = make(max_queue=1)
    with admission.admit(), admission.step_aside():
        assert admission.num_accepted == 1
        with admission.admit():
            assert admission.num_accepted == 2


def test_who_waits_for_a_model_is_bounded_too() -> None:
    admission, _ = make(max_queue=1)
    with admission.admit(), admission.step_aside(), admission.admit():
        with pytest.raises(ModelLoading), admission.step_aside():
            pass
        assert admission.num_accepted == 2
    assert admission.num_accepted == 0


def test_who_comes_back_from_waiting_for_a_model_may_find_the_queue_full() -> None:
    admission, _ = make(max_queue=1)
    late = admission.admit()
    late.__enter__()
    aside = admission.step_aside()
    aside.__enter__()
    with admission.admit():
        with pytest.raises(Overloaded):
            aside.__exit__(None, None, None)
        assert admission.num_accepted == 2


def test_a_closed_service_refuses_new_requests_and_keeps_those_it_has() -> None:
    admission, _ = make()
    with admission.admit():
        with admission.step_aside():
            admission.is_closed = True
        with pytest.raises(Draining):
            admission.check()
        assert admission.num_accepted == 1


def test_a_device_that_is_lost_refuses() -> None:
    admission, _ = make(is_alive=False)
    with pytest.raises(Unhealthy):
        admission.check()


def test_an_estimate_past_the_deadline_refuses_before_anything_is_decoded() -> None:
    admission, _ = make(seconds_ahead=2.0, seconds_per_image=0.5)
    admission.check_deadline("a", 2.6)
    with pytest.raises(Overloaded) as caught:
        admission.check_deadline("a", 2.4)
    assert (caught.value.reason, caught.value.retry_after_s) == ("deadline", 2.0)
