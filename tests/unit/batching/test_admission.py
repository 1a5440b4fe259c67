from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from service.batching.admission import Admission
from service.batching.device_thread import Failure
from service.batching.ticket import NOBODY
from service.errors import Draining, ModelLoading, Overloaded, Unhealthy


@dataclass
class Device:
    """In the place of the device's thread."""

    num_running: int = 0
    is_alive: bool = True
    seconds_ahead: float = 0.0
    seconds_per_image: float = 0.0
    failure: Failure | None = None
    waiting: Counter[str] = field(default_factory=Counter)

    def wait_s(self) -> float:
        return self.seconds_ahead

    def turn_s(self, model_id: str, party: str) -> float:
        return self.seconds_ahead

    def waiting_by_model(self) -> Counter[str]:
        return self.waiting

    def image_s(self, model_id: str) -> float:
        return self.seconds_per_image


def make(max_queue: int = 2, **device: Any) -> tuple[Admission, Device]:
    stand_in = Device(**device)
    return Admission(stand_in, max_queue=max_queue), stand_in  # type: ignore[arg-type]


def fill(admission: Admission, device: Device, **by_model: int) -> ExitStack:
    """Accepts so many requests, whose images all wait for the device."""
    places = ExitStack()
    for model_id, count in by_model.items():
        for _ in range(count):
            admission.check(model_id, NOBODY)
            places.enter_context(admission.admit(NOBODY))
            device.waiting[model_id] += 1
    return places


def test_a_full_queue_refuses_with_an_estimate_of_when_to_come_again() -> None:
    admission, _ = make(seconds_ahead=3.5)
    with admission.admit(NOBODY):
        admission.check("a", NOBODY)
        with admission.admit(NOBODY):
            assert admission.fill == 1
            with pytest.raises(Overloaded) as caught:
                admission.check("a", NOBODY)
            with pytest.raises(Overloaded), admission.admit(NOBODY):
                pass
            assert admission.num_accepted == 2
        admission.check("a", NOBODY)
    assert (caught.value.reason, caught.value.retry_after_s) == ("queue_full", 3.5)
    assert admission.num_accepted == 0


def test_those_on_the_device_are_not_in_the_queue() -> None:
    admission, device = make(max_queue=1)
    with admission.admit(NOBODY):
        device.num_running = 1
        assert admission.fill == 0
        with admission.admit(NOBODY), pytest.raises(Overloaded):
            admission.check("a", NOBODY)


def test_a_place_is_given_back_by_whoever_fails() -> None:
    admission, _ = make()
    with pytest.raises(ZeroDivisionError), admission.admit(NOBODY):
        raise ZeroDivisionError
    assert admission.num_accepted == 0


def test_who_waits_for_a_model_keeps_nobody_from_others() -> None:
    admission, _ = make(max_queue=1)
    with admission.admit(NOBODY), admission.step_aside("a", NOBODY):
        assert admission.num_accepted == 1
        with admission.admit(NOBODY):
            assert admission.num_accepted == 2


def test_who_waits_for_a_model_is_bounded_too() -> None:
    admission, _ = make(max_queue=1)
    with admission.admit(NOBODY), admission.step_aside("a", NOBODY), admission.admit(NOBODY):
        with pytest.raises(ModelLoading), admission.step_aside("a", NOBODY):
            pass
        assert admission.num_accepted == 2
    assert admission.num_accepted == 0


def test_who_comes_back_from_waiting_for_a_model_may_find_the_queue_full() -> None:
    admission, _ = make(max_queue=1)
    with admission.admit(NOBODY):
        with admission.step_aside("a", NOBODY):
            other = admission.admit(NOBODY)
            other.__enter__()
        with pytest.raises(Overloaded):
            admission.check_turn("a", NOBODY, 10.0)
        other.__exit__(None, None, None)
        admission.check_turn("a", NOBODY, 10.0)


def test_a_full_queue_is_full_for_the_model_that_fills_it_and_not_for_others() -> None:
    admission, device = make(max_queue=8)
    with fill(admission, device, hot=8):
        with pytest.raises(Overloaded):
            admission.check("hot", NOBODY)
        # Half of a queue of eight is its share.
        with fill(admission, device, cold=4):
            for model_id in ("hot", "cold"):
                with pytest.raises(Overloaded):
                    admission.check(model_id, NOBODY)
            admission.check("third", NOBODY)
            assert admission.num_accepted == 12
            assert admission.fill == 1


def test_a_model_that_is_known_late_is_turned_away_then() -> None:
    admission, device = make(max_queue=2)
    with fill(admission, device, hot=2):
        # As far as the body is not read it may be about another model.
        admission.check(None, NOBODY)
        with admission.admit(NOBODY):
            admission.check_turn("cold", NOBODY, 10.0)
            with pytest.raises(Overloaded) as caught:
                admission.check_turn("hot", NOBODY, 10.0)
    assert caught.value.reason == "queue_full"


@pytest.mark.parametrize("models", [("a", None), (None,), ("a", "b", "c", None)])
def test_there_are_never_more_than_twice_as_many(models: tuple[str | None, ...]) -> None:
    admission, device = make(max_queue=6)
    num_accepted = 0
    with ExitStack() as places:
        for _ in range(50):
            for model_id in models:
                try:
                    admission.check(model_id, NOBODY)
                    places.enter_context(admission.admit(NOBODY))
                except Overloaded:
                    continue
                device.waiting[model_id or "late"] += 1
                num_accepted += 1
        assert 6 <= num_accepted == admission.num_accepted <= 12


def test_who_waits_for_one_model_keeps_nobody_from_waiting_for_another() -> None:
    admission, _ = make(max_queue=2)
    with ExitStack() as places:
        for _ in range(2):
            places.enter_context(admission.admit(NOBODY))
            places.enter_context(admission.step_aside("hot", NOBODY))
        with admission.admit(NOBODY):
            with pytest.raises(ModelLoading), admission.step_aside("hot", NOBODY):
                pass
            with admission.step_aside("cold", NOBODY):
                assert admission.num_accepted == 3


def test_a_closed_service_refuses_new_requests_and_keeps_those_it_has() -> None:
    admission, _ = make()
    with admission.admit(NOBODY):
        with admission.step_aside("a", NOBODY):
            admission.is_closed = True
        with pytest.raises(Draining):
            admission.check("a", NOBODY)
        assert admission.num_accepted == 1


def test_a_device_that_is_lost_refuses() -> None:
    admission, _ = make(is_alive=False)
    with pytest.raises(Unhealthy):
        admission.check("a", NOBODY)


def test_a_device_that_has_failed_refuses_though_the_service_is_shutting_down() -> None:
    admission, _ = make(failure=Failure("watchdog", "it hangs"))
    admission.is_closed = True
    with pytest.raises(Unhealthy), admission.admit(NOBODY):
        pass


def test_an_estimate_past_the_deadline_refuses_before_anything_is_decoded() -> None:
    admission, _ = make(seconds_ahead=2.0, seconds_per_image=0.5)
    # Half of the wait must be to spare.
    admission.check_turn("a", NOBODY, 3.6)
    with pytest.raises(Overloaded) as caught:
        admission.check_turn("a", NOBODY, 3.4)
    assert (caught.value.reason, caught.value.retry_after_s) == ("deadline", 2.0)


def test_a_queue_that_one_party_fills_has_room_for_others() -> None:
    admission, _ = make(max_queue=8)
    with ExitStack() as places:
        for _ in range(8):
            admission.check("a", "flood")
            places.enter_context(admission.admit("flood"))
        with pytest.raises(Overloaded):
            admission.check("a", "flood")
        for _ in range(4):
            admission.check("a", "bob")
            places.enter_context(admission.admit("bob"))
            admission.check_turn("a", "bob", 10.0)
        for party in ("flood", "bob"):
            with pytest.raises(Overloaded), admission.admit(party):
                pass
        admission.check("a", "carol")
    admission.check("a", "flood")
    assert admission.num_accepted == 0


def test_a_party_that_fills_the_queue_with_all_models_keeps_no_other_out() -> None:
    admission, device = make(max_queue=8)
    with ExitStack() as places:
        for number in range(100):
            model_id = f"model {number}"
            try:
                admission.check(model_id, "flood")
                places.enter_context(admission.admit("flood"))
            except Overloaded:
                continue
            device.waiting[model_id] += 1
        assert admission.num_accepted <= 16
        for _ in range(4):
            admission.check("model 1", "bob")
            places.enter_context(admission.admit("bob"))
        assert admission.num_accepted <= 24


def test_the_estimate_has_what_decoding_and_encoding_will_take() -> None:
    @dataclass
    class Stage:
        job_s: float
        wait_s: float

        def turn_s(self, party: str) -> float:
            return self.wait_s if party == "flood" else 0.0

    stages = (Stage(0.5, 2.0), Stage(0.25, 4.0))
    admission = Admission(Device(), max_queue=2, stages=stages)  # type: ignore[arg-type]
    admission.check_turn("a", "bob", 0.76)
    with pytest.raises(Overloaded):
        admission.check_turn("a", "bob", 0.74)
    admission.check_turn("a", "flood", 9.8)
    with pytest.raises(Overloaded):
        admission.check_turn("a", "flood", 9.7)
