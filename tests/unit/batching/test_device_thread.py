"""The real thread: what ends it, what it tells those who wait, and that it comes back."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError

import pytest

from service.batching.device_thread import (
    MAX_RESTARTS,
    BatchReport,
    DeviceThread,
    Failure,
    Patience,
)
from service.batching.scheduler import Scheduler
from service.batching.ticket import BatchKey, Ticket
from service.errors import DeviceFailed, Draining, OutOfMemory, Overloaded, Unhealthy
from tests.unit.batching.simulation import SMALL, answer, budget

TIMEOUT_S = 20

Run = Callable[[BatchKey, Sequence[int]], Sequence[str | Exception]]


class Gate:
    """A stand-in for the device that waits to be let through, and keeps what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.is_open = threading.Event()
        self.is_entered = threading.Event()

    def run(self, key: BatchKey, samples: Sequence[int]) -> list[str | Exception]:
        self.is_entered.set()
        assert self.is_open.wait(TIMEOUT_S)
        self.batches.append(list(samples))
        return list(map(answer, samples))


class Device(DeviceThread[int, str]):
    """The thread, and what it reported; samples are numbers."""

    def __init__(
        self,
        run: Run,
        *,
        max_delay_s: float = 0.0,
        max_images: int = 8,
        patience: Patience = Patience(3600.0, 3600.0),  # noqa: B008 - it is frozen
    ) -> None:
        self.reports: list[BatchReport[int, str]] = []
        self.failures: list[Failure] = []
        self.is_reported = threading.Semaphore(0)
        super().__init__(
            run,
            Scheduler(budget(max_images=max_images), max_delay_s=max_delay_s),
            count_instances=len,
            on_batch=self.note,
            on_failure=self.failures.append,
            patience=patience,
        )

    def note(self, report: BatchReport[int, str]) -> None:
        self.reports.append(report)
        self.is_reported.release()

    def ask(
        self,
        sample: int,
        *,
        model: str = "a",
        timeout_s: float = 3600.0,
        is_warm_up: bool = False,
    ) -> Ticket[int, str]:
        now_s = time.monotonic()
        key = BatchKey(model, SMALL, is_warm_up)
        ticket = Ticket[int, str](key, sample, now_s + timeout_s, now_s)
        self.submit(ticket)
        return ticket


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def device(gate: Gate) -> Iterator[Device]:
    device = Device(gate.run)
    yield device
    gate.is_open.set()
    device.stop()


def occupy(device: Device, gate: Gate) -> Ticket[int, str]:
    ticket = device.ask(0, model="first")
    assert gate.is_entered.wait(TIMEOUT_S)
    return ticket


def test_each_gets_its_own_answer(device: Device, gate: Gate) -> None:
    occupy(device, gate)
    tickets = [device.ask(sample) for sample in range(1, 20)]
    assert (device.num_running, device.waiting_by_model()) == (1, {"a": 19})
    gate.is_open.set()
    assert [ticket.result.result(TIMEOUT_S) for ticket in tickets] == list(
        map(answer, range(1, 20))
    )


def test_what_a_warm_up_takes_says_nothing_of_images(device: Device, gate: Gate) -> None:
    gate.is_open.set()
    device.ask(1, is_warm_up=True).result.result(TIMEOUT_S)
    assert device.image_s("a") == 0
    device.ask(1).result.result(TIMEOUT_S)
    assert device.image_s("a") > 0


def test_a_batch_is_reported_with_why_it_was_sent(device: Device, gate: Gate) -> None:
    gate.is_open.set()
    device.ask(1).result.result(TIMEOUT_S)
    assert device.is_reported.acquire(timeout=TIMEOUT_S)
    (report,) = device.reports
    assert (report.batch.key.model_id, report.batch.trigger, report.num_splits) == ("a", "idle", 0)
    assert report.seconds >= 0


def test_a_withdrawn_sample_costs_no_work(device: Device, gate: Gate) -> None:
    occupy(device, gate)
    kept, left = device.ask(1), device.ask(2)
    assert left.result.cancel()
    device.withdraw(left)
    assert device.waiting_by_model() == {"a": 1}
    gate.is_open.set()
    assert kept.result.result(TIMEOUT_S) == answer(1)
    with pytest.raises(CancelledError):
        left.result.result(TIMEOUT_S)
    assert gate.batches[1:] == [[1]]


def test_a_sample_past_its_deadline_costs_no_work(device: Device, gate: Gate) -> None:
    occupy(device, gate)
    late = device.ask(1, timeout_s=0.001)
    while time.monotonic() < late.deadline_s:
        pass
    gate.is_open.set()
    with pytest.raises(Overloaded):
        late.result.result(TIMEOUT_S)
    device.ask(2).result.result(TIMEOUT_S)
    assert gate.batches[1:] == [[2]]


def test_one_sample_s_failure_is_not_its_batch_s() -> None:
    def run(key: BatchKey, samples: Sequence[int]) -> list[str | Exception]:
        if 13 in samples:
            raise ValueError("unlucky")
        return [KeyError(n) if n == 7 else answer(n) for n in samples]

    device = Device(run)
    tickets = [device.ask(n) for n in (1, 13, 7, 2)]
    assert tickets[0].result.result(TIMEOUT_S) == answer(1)
    assert tickets[3].result.result(TIMEOUT_S) == answer(2)
    with pytest.raises(ValueError, match="unlucky"):
        tickets[1].result.result(TIMEOUT_S)
    with pytest.raises(KeyError):
        tickets[2].result.result(TIMEOUT_S)
    device.stop()


def test_a_delay_is_waited_for_and_no_longer() -> None:
    device = Device(lambda key, samples: list(map(answer, samples)), max_delay_s=0.05)
    for sample in range(3):  # until a batch of two would be worth a try
        device.ask(sample).result.result(TIMEOUT_S)
    ticket = device.ask(3)
    assert ticket.result.result(TIMEOUT_S) == answer(3)
    assert ticket.started_s is not None
    assert ticket.started_s - ticket.queued_s >= 0.05
    device.stop()


class Mortal:
    """Ends the device's thread as often as it is told to, from its next batch on."""

    def __init__(self, num_deaths: int) -> None:
        self.num_deaths = num_deaths
        self.is_entered = threading.Event()
        self.may_die = threading.Event()

    def run(self, key: BatchKey, samples: Sequence[int]) -> list[str | Exception]:
        self.is_entered.set()
        assert self.may_die.wait(TIMEOUT_S)
        if self.num_deaths:
            self.num_deaths -= 1
            raise SystemExit("the device is gone")
        return list(map(answer, samples))


def test_everyone_who_waits_is_told_when_the_thread_dies_and_another_takes_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mortal = Mortal(num_deaths=1)
    device = Device(mortal.run)
    running = device.ask(0)
    assert mortal.is_entered.wait(TIMEOUT_S)
    waiting = [device.ask(n, model=model) for n, model in enumerate("abca")]
    mortal.may_die.set()
    for ticket in (running, *waiting):
        with pytest.raises(Unhealthy):
            ticket.result.result(TIMEOUT_S)
    assert device.is_alive
    assert device.ask(5).result.result(TIMEOUT_S) == answer(5)
    assert "died" in caplog.text
    device.stop()


def test_a_thread_that_dies_again_and_again_is_given_up() -> None:
    mortal = Mortal(num_deaths=1000)
    mortal.may_die.set()
    device = Device(mortal.run)
    for sample in range(MAX_RESTARTS + 1):
        assert device.is_alive
        with pytest.raises(Unhealthy):
            device.ask(sample).result.result(TIMEOUT_S)
    # The last ticket ends before the death is counted to its end, under the same lock.
    with pytest.raises(Unhealthy):
        device.ask(1)
    assert not device.is_alive
    device.stop()
    device._thread.join(TIMEOUT_S)
    assert [failure.reason for failure in device.failures] == ["thread"]


def test_a_device_that_is_lost_is_given_up_at_once_and_everyone_is_told() -> None:
    may_fail = threading.Event()
    batches = []

    def run(key: BatchKey, samples: Sequence[int]) -> list[str | Exception]:
        batches.append(list(samples))
        assert may_fail.wait(TIMEOUT_S)
        raise DeviceFailed("it is gone", reason="an illegal memory access")

    device = Device(run)
    tickets = [device.ask(n, model=model) for n, model in enumerate("aab")]
    may_fail.set()
    for ticket in tickets:
        with pytest.raises(Unhealthy):
            ticket.result.result(TIMEOUT_S)
    # Nothing was tried again.
    assert len(batches) == 1
    assert device.failure == Failure("device", "an illegal memory access")
    with pytest.raises(Unhealthy):
        device.ask(1)
    device.stop()
    device._thread.join(TIMEOUT_S)
    assert device.failures == [device.failure]


def test_a_batch_that_hangs_is_given_up_and_everyone_is_told(gate: Gate) -> None:
    device = Device(gate.run, patience=Patience(0.05, 3600.0))
    gate.is_open.set()
    device.ask(0).result.result(TIMEOUT_S)
    assert device.is_reported.acquire(timeout=TIMEOUT_S)
    gate.is_open.clear()
    gate.is_entered.clear()
    hanging = device.ask(1)
    assert gate.is_entered.wait(TIMEOUT_S)
    waiting = device.ask(2, model="b")
    while device.failure is None:
        device.check_hang()
    assert device.failure.reason == "watchdog"
    for ticket in (hanging, waiting):
        with pytest.raises(Unhealthy):
            ticket.result.result(0)
    # To stop it does not wait for what hangs.
    device.stop()
    gate.is_open.set()


def test_the_first_batch_of_a_model_may_take_longer(gate: Gate) -> None:
    device = Device(gate.run, patience=Patience(0.0, 3600.0))
    ticket = occupy(device, gate)
    device.check_hang()
    assert device.failure is None
    gate.is_open.set()
    assert ticket.result.result(TIMEOUT_S) == answer(0)
    device.check_hang()
    assert device.failure is None
    device.stop()


def test_running_out_of_memory_is_reported_and_the_next_batches_are_smaller() -> None:
    sizes = []

    def run(key: BatchKey, samples: Sequence[int]) -> list[str | Exception]:
        sizes.append(len(samples))
        if len(samples) > 2:
            raise OutOfMemory("too many")
        return list(map(answer, samples))

    device = Device(run)
    tickets = [device.ask(sample) for sample in range(64)]
    assert [ticket.result.result(TIMEOUT_S) for ticket in tickets] == list(map(answer, range(64)))
    device.stop()
    assert max(sizes) > 2
    num_too_large = sum(report.num_out_of_memory for report in device.reports)
    assert num_too_large == sum(size > 2 for size in sizes) <= 2


def test_deaths_with_batches_between_them_do_not_add_up() -> None:
    mortal = Mortal(num_deaths=0)
    mortal.may_die.set()
    device = Device(mortal.run)
    for _ in range(3 * MAX_RESTARTS):
        mortal.num_deaths = 1
        with pytest.raises(Unhealthy):
            device.ask(0).result.result(TIMEOUT_S)
        assert device.ask(1).result.result(TIMEOUT_S) == answer(1)
    assert device.is_alive
    device.stop()


def test_what_was_accepted_is_answered_before_the_thread_stops(gate: Gate) -> None:
    device = Device(gate.run, max_images=2, max_delay_s=3600.0)
    tickets = [device.ask(sample) for sample in range(5)]
    gate.is_open.set()
    device.stop()
    assert [ticket.result.result(0) for ticket in tickets] == list(map(answer, range(5)))
    with pytest.raises(Unhealthy):
        device.ask(1)
    assert not device.is_alive


def test_in_a_hurry_those_who_wait_are_refused_and_the_batch_on_the_device_is_answered(
    device: Device, gate: Gate
) -> None:
    running = occupy(device, gate)
    waiting = device.ask(1)
    device.refuse_waiting(Draining("going"))
    with pytest.raises(Draining):
        waiting.result.result(0)
    gate.is_open.set()
    assert running.result.result(TIMEOUT_S) == answer(0)


def test_at_the_limit_everyone_is_told_though_the_device_hangs(device: Device, gate: Gate) -> None:
    tickets = [occupy(device, gate), device.ask(1)]
    device.abandon(Draining("gone"))
    for ticket in tickets:
        with pytest.raises(Draining):
            ticket.result.result(0)
    # The answer that comes too late harms nobody.
    gate.is_open.set()
    assert device.ask(2).result.result(TIMEOUT_S) == answer(2)
    assert device.is_alive
