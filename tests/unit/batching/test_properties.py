"""No sequence of arrivals, cancellations and faults leaves a request without an end, or gives one
the answer of another."""

from collections.abc import Sequence
from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from service.batching.scheduler import Scheduler
from service.batching.ticket import BatchKey, Ticket, resolve
from service.errors import Draining, OutOfMemory, Overloaded, Unhealthy
from tests.unit.batching.simulation import LARGE, SMALL, Simulation, answer, budget

MODELS, SIZES = st.sampled_from("abc"), st.sampled_from([SMALL, LARGE])
SECONDS = st.floats(0, 3) | st.floats(0, 0.05)
EXPECTED = (Overloaded, Unhealthy, Draining, OutOfMemory, ZeroDivisionError, KeyError)


class AnySize:
    """In the place of the growth limit: all sizes are worth it, from the first batch on."""

    def __init__(self, max_images: int) -> None:
        self.max_images = max_images

    def limit(self, key: BatchKey) -> int:
        return self.max_images

    next_size = limit

    def measure(self, key: BatchKey, num_images: int, seconds: float) -> None:
        pass


class Device:
    """Fails as it was told: with some samples, with many samples, or for some samples alone."""

    def __init__(self) -> None:
        self.fates: dict[int, str] = {}
        self.max_samples = 1000

    def run(self, _: BatchKey, samples: Sequence[int]) -> list[str | Exception]:
        if len(samples) > self.max_samples:
            raise OutOfMemory("too many")
        if any(self.fates[n] == "poisonous" for n in samples):
            raise ZeroDivisionError
        return [KeyError(n) if self.fates[n] == "refused" else answer(n) for n in samples]


class Requests(RuleBasedStateMachine):
    """Whatever can happen to the scheduler, in any order."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.device = Device()
        self.accepted: list[Ticket[int, str]] = []
        self.budget = budget()
        self.simulation = Simulation()

    @initialize(
        max_images=st.sampled_from([6, 4, 2, 1]),
        max_pixels=st.sampled_from([10**7, 10**7, 4 * SMALL[0] * SMALL[1], 1]),
        max_instances=st.sampled_from([600, 600, 150, 50]),
        max_delay_s=st.sampled_from([0.0, 0.0, 0.02]),
        is_growth_learned=st.booleans(),
    )
    def choose(self, max_delay_s: float, is_growth_learned: bool, **limits: int) -> None:
        self.budget = budget(**limits)
        scheduler = Scheduler[int, str](self.budget, max_delay_s=max_delay_s)
        if not is_growth_learned:
            scheduler._growth = AnySize(self.budget.max_images)  # type: ignore[assignment]
        self.simulation = Simulation(scheduler)

    @rule(
        target=tickets,
        model=MODELS,
        size_hw=SIZES,
        timeout_s=st.floats(-1, 10) | st.just(1e6),
        max_instances=st.integers(1, 100),
        are_instances_given=st.booleans(),
        fates=st.lists(
            st.sampled_from(["answered"] * 5 + ["poisonous", "refused"]), min_size=1, max_size=6
        ),
    )
    def submit(
        self,
        model: str,
        size_hw: tuple[int, int],
        timeout_s: float,
        max_instances: int,
        are_instances_given: bool,
        fates: list[str],
    ) -> object:
        """Some that are alike, but for what becomes of them."""
        tickets = []
        for fate in fates:
            with suppress(Overloaded):
                ticket = self.simulation.submit(
                    model,
                    size_hw,
                    timeout_s=timeout_s,
                    max_instances=max_instances,
                    are_instances_given=are_instances_given,
                )
                tickets.append(ticket)
                self.device.fates[ticket.sample] = fate
        self.accepted += tickets
        return multiple(*tickets)

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.simulation.now_s += seconds

    @rule(ticket=consumes(tickets), is_withdrawn=st.booleans())
    def cancel(self, ticket: Ticket[int, str], is_withdrawn: bool) -> None:
        """A client leaves; its request is withdrawn at once, or found cancelled later."""
        ticket.result.cancel()
        if is_withdrawn:
            self.simulation.scheduler.withdraw(ticket)

    @precondition(lambda self: self.simulation.scheduler.running is None)
    @rule()
    def start(self) -> None:
        scheduler, now_s = self.simulation.scheduler, self.simulation.now_s
        batch = self.simulation.start()
        if batch is None:
            due_s = scheduler.next_due_s(now_s)
            assert (due_s is None) == (scheduler.num_waiting == 0)
            assert due_s is None or now_s < due_s <= now_s + 0.02
            return
        assert {ticket.key for ticket in batch.tickets} == {batch.key}
        assert all(ticket.deadline_s > now_s for ticket in batch.tickets)
        assert all(ticket.result.running() for ticket in batch.tickets)
        if len(batch.tickets) > 1:
            assert len(batch.tickets) <= self.budget.max_images
            assert len(batch.tickets) * batch.key.num_pixels <= self.budget.max_pixels
            num_instances = sum(ticket.max_instances for ticket in batch.tickets)
            assert num_instances <= self.budget.max_instances

    @precondition(lambda self: self.simulation.scheduler.running is not None)
    @rule(seconds=SECONDS, max_samples=st.sampled_from([1000, 1000, 2, 1, 0]))
    def finish(self, seconds: float, max_samples: int) -> None:
        batch = self.simulation.scheduler.running
        assert batch is not None
        self.device.max_samples = max_samples
        self.simulation.seconds_of = lambda _: seconds
        self.simulation.finish(self.device.run, num_instances=len(batch.tickets))
        assert all(ticket.result.done() for ticket in batch.tickets)

    @rule()
    def die(self) -> None:
        """The device's thread ends; what it does then is tested with a real thread."""
        scheduler = self.simulation.scheduler
        for ticket in [] if scheduler.running is None else scheduler.running.tickets:
            resolve(ticket, Unhealthy("died"))
        scheduler.refuse_waiting(Unhealthy("died"))
        scheduler.finished(self.simulation.now_s, None)
        assert all(ticket.result.done() for ticket in self.accepted)

    @invariant()
    def an_answer_is_one_s_own(self) -> None:
        for ticket in self.accepted:
            if not ticket.result.done() or ticket.result.cancelled():
                continue
            error = ticket.result.exception()
            if error is None:
                assert ticket.result.result() == answer(ticket.sample)
            else:
                assert isinstance(error, EXPECTED)

    @invariant()
    def the_wait_is_a_time(self) -> None:
        assert 0 <= self.simulation.scheduler.wait_s(self.simulation.now_s) < float("inf")

    def teardown(self) -> None:
        if self.simulation.scheduler.running is not None:
            self.simulation.finish(self.device.run)
        self.simulation.run_all()
        assert self.simulation.scheduler.num_waiting == 0
        assert all(ticket.result.done() for ticket in self.accepted)


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
