import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError

import pytest

from service.batching.device_thread import DeviceThread
from service.errors import Overloaded, Unhealthy

Runner = Callable[[str, Sequence[int]], Sequence[int | Exception]]
FAR = time.monotonic() + 3600
TIMEOUT_S = 20


class Gate:
    """A stand-in for the device that waits to be let through, and keeps what it was given."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.is_open = threading.Event()
        self.is_entered = threading.Event()

    def run(self, key: str, samples: Sequence[int]) -> list[int | Exception]:
        self.is_entered.set()
        assert self.is_open.wait(TIMEOUT_S)
        self.batches.append((key, list(samples)))
        return [sample * 10 for sample in samples]


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def device(gate: Gate) -> Iterator[DeviceThread[str, int, int]]:
    device = DeviceThread[str, int, int](gate.run, max_batch=3, max_queue=5)
    yield device
    gate.is_open.set()
    device.stop()


def occupy(device: DeviceThread[str, int, int], gate: Gate) -> None:
    device.submit("first", 0, FAR)
    assert gate.is_entered.wait(TIMEOUT_S)


def test_samples_of_one_key_that_wait_go_together_up_to_the_largest_batch(
    device: DeviceThread[str, int, int], gate: Gate
) -> None:
    occupy(device, gate)
    tickets = [device.submit(key, n, FAR) for n, key in enumerate("aabaa", start=1)]
    gate.is_open.set()
    results = [ticket.result.result(TIMEOUT_S) for ticket in tickets]
    assert results == [10, 20, 30, 40, 50]
    assert gate.batches == [("first", [0]), ("a", [1, 2, 4]), ("b", [3]), ("a", [5])]


def test_a_full_queue_refuses_at_once(device: DeviceThread[str, int, int], gate: Gate) -> None:
    occupy(device, gate)
    for n in range(5):
        device.submit("a", n, FAR)
    with pytest.raises(Overloaded):
        device.submit("a", 5, FAR)


def test_a_cancelled_sample_costs_no_work(device: DeviceThread[str, int, int], gate: Gate) -> None:
    occupy(device, gate)
    kept, left = device.submit("a", 1, FAR), device.submit("a", 2, FAR)
    assert left.result.cancel()
    gate.is_open.set()
    assert kept.result.result(TIMEOUT_S) == 10
    with pytest.raises(CancelledError):
        left.result.result(TIMEOUT_S)
    assert gate.batches[1:] == [("a", [1])]


def test_a_sample_past_its_deadline_costs_no_work(
    device: DeviceThread[str, int, int], gate: Gate
) -> None:
    occupy(device, gate)
    late = device.submit("a", 1, time.monotonic() - 1)
    gate.is_open.set()
    with pytest.raises(Overloaded):
        late.result.result(TIMEOUT_S)
    device.submit("a", 2, FAR).result.result(TIMEOUT_S)
    assert gate.batches[1:] == [("a", [2])]


def test_one_sample_s_failure_is_not_its_batch_s() -> None:
    def run(key: str, samples: Sequence[int]) -> list[int | Exception]:
        assert started.wait(TIMEOUT_S)
        if 13 in samples:
            raise ValueError("unlucky")
        return [KeyError(n) if n == 7 else n for n in samples]

    started = threading.Event()
    device = DeviceThread[str, int, int](run, max_batch=8, max_queue=8)
    tickets = [device.submit("a", n, FAR) for n in (1, 13, 7, 2)]
    started.set()
    assert tickets[0].result.result(TIMEOUT_S) == 1
    assert tickets[3].result.result(TIMEOUT_S) == 2
    with pytest.raises(ValueError, match="unlucky"):
        tickets[1].result.result(TIMEOUT_S)
    with pytest.raises(KeyError):
        tickets[2].result.result(TIMEOUT_S)
    device.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_everyone_who_waits_is_told_when_the_thread_dies() -> None:
    def run(key: str, samples: Sequence[int]) -> list[int | Exception]:
        assert started.wait(TIMEOUT_S)
        raise SystemExit("the device is gone")

    started = threading.Event()
    device = DeviceThread[str, int, int](run, max_batch=1, max_queue=8)
    tickets = [device.submit("a", n, FAR) for n in range(3)]
    started.set()
    for ticket in tickets:
        with pytest.raises(Unhealthy):
            ticket.result.result(TIMEOUT_S)
    device.stop()
    assert not device.is_alive
    with pytest.raises(Unhealthy):
        device.submit("a", 1, FAR)


def test_what_was_accepted_is_answered_before_the_thread_stops(gate: Gate) -> None:
    device = DeviceThread[str, int, int](gate.run, max_batch=2, max_queue=8)
    tickets = [device.submit("a", n, FAR) for n in range(5)]
    gate.is_open.set()
    device.stop()
    assert [ticket.result.result(0) for ticket in tickets] == [0, 10, 20, 30, 40]
    with pytest.raises(Unhealthy):
        device.submit("a", 1, FAR)
