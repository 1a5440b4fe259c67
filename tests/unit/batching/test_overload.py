"""Admission, decoders and scheduler under more load than can be served, with a simulated clock."""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count

import pytest

from service.batching.admission import Admission
from service.batching.ticket import NOBODY, Batch, Ticket
from service.errors import Overloaded
from tests.unit.batching.simulation import Simulation, affine

# In batches of eight.
PEAK_PER_S = 8 / 0.060
# A little less than the device can do, so that the device is the bound.
DECODE_S = 0.004
SECONDS, WARM_UP_S = 6.0, 1.0


@dataclass
class Service:
    """One decoder and one device; events in the order of their times."""

    simulation: Simulation = field(default_factory=Simulation)
    failure: None = None
    is_alive: bool = True
    job_s: float = DECODE_S
    decoded_s: float = 0.0
    # When, what comes first at that time, and what happens then.
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.simulation.learn()
        self.scheduler = self.simulation.scheduler
        self.admission = Admission(self, max_queue=64, stages=[self.Decoder(self)])  # type: ignore[arg-type]
        self.numbers = count()
        self.inside: list[tuple[Ticket[int, str], ExitStack, str]] = []

    @dataclass
    class Decoder:
        """One thread, first come, first served."""

        service: "Service"
        job_s: float = DECODE_S

        def turn_s(self, _: str) -> float:
            return max(self.service.decoded_s - self.service.simulation.now_s, 0.0)

    @property
    def num_running(self) -> int:
        batch = self.scheduler.running
        return 0 if batch is None else len(batch.tickets)

    def wait_s(self) -> float:
        return self.scheduler.wait_s(self.simulation.now_s)

    def turn_s(self, model_id: str, party: str) -> float:
        return self.scheduler.turn_s(model_id, party, self.simulation.now_s)

    def image_s(self, model_id: str) -> float:
        return self.scheduler.image_s(model_id, self.simulation.now_s)

    def waiting_by_model(self) -> Counter[str]:
        return self.scheduler.waiting_by_model()

    def at(self, moment_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self.events, (moment_s, next(self.numbers), event))

    def run(self, load: float, timeout_s: Callable[[random.Random], float]) -> None:
        """Offers so many times the peak, with such deadlines."""
        chance = random.Random(1)
        begin_s = arrived_s = self.simulation.now_s
        while arrived_s < begin_s + SECONDS:
            arrived_s += chance.expovariate(load * PEAK_PER_S)
            deadline_s = arrived_s + timeout_s(chance)
            is_measured = arrived_s > begin_s + WARM_UP_S
            self.at(arrived_s, lambda d=deadline_s, m=is_measured: self.arrive(d, m))  # type: ignore[misc]
        while self.events:
            moment_s, _, event = heapq.heappop(self.events)
            self.simulation.now_s = moment_s
            event()
            self.feed_device()

    def arrive(self, deadline_s: float, is_measured: bool) -> None:
        place = ExitStack()
        outcome = "" if is_measured else "warm-up "
        now_s = self.simulation.now_s
        try:
            self.admission.check("a", NOBODY)
            place.enter_context(self.admission.admit(NOBODY))
            self.admission.check_turn("a", NOBODY, deadline_s - now_s)
        except Overloaded as error:
            place.close()
            self.outcomes[outcome + error.reason] += 1
            return
        self.decoded_s = max(self.decoded_s, now_s) + DECODE_S
        self.at(self.decoded_s, lambda: self.submit(deadline_s, place, outcome))

    def submit(self, deadline_s: float, place: ExitStack, outcome: str) -> None:
        try:
            ticket = self.simulation.submit(timeout_s=deadline_s - self.simulation.now_s)
        except Overloaded:
            place.close()
            self.outcomes[outcome + "decoded in vain"] += 1
        else:
            self.inside.append((ticket, place, outcome))

    def feed_device(self) -> None:
        batch = None if self.num_running else self.simulation.start()
        if batch is not None:
            self.at(self.simulation.now_s + affine(batch), lambda: self.finish(batch))
        self.let_out()

    def finish(self, batch: Batch[int, str]) -> None:
        self.simulation.now_s = batch.started_s
        self.simulation.finish()
        self.let_out()

    def let_out(self) -> None:
        """Those who were answered, or given up."""
        for one in [one for one in self.inside if one[0].result.done()]:
            self.inside.remove(one)
            ticket, place, outcome = one
            place.close()
            if ticket.result.exception() is not None:
                self.outcomes[outcome + "expired"] += 1
            elif self.simulation.now_s <= ticket.deadline_s:
                self.outcomes[outcome + "answered"] += 1
            else:
                self.outcomes[outcome + "late"] += 1

    @property
    def goodput(self) -> float:
        """Answers in time, of the peak."""
        return self.outcomes["answered"] / (SECONDS - WARM_UP_S) / PEAK_PER_S

    @property
    def refused(self) -> int:
        """All that had no answer."""
        refusals = ("queue_full", "deadline", "decoded in vain", "expired")
        return sum(self.outcomes[name] for name in refusals)


def fixed(timeout_s: float) -> Callable[[random.Random], float]:
    return lambda _: timeout_s


def between(least_s: float, most_s: float) -> Callable[[random.Random], float]:
    return lambda chance: chance.uniform(least_s, most_s)


TIMEOUTS = {
    "0.2 s": fixed(0.2),
    "0.3 s": fixed(0.3),
    "0.5 s": fixed(0.5),
    "2 s": fixed(2.0),
    "0.2 to 2 s": between(0.2, 2.0),
    "30 s": fixed(30.0),
    "short and long": lambda chance: chance.choice((0.2, 0.5, 2.0, 30.0)),
}


@pytest.mark.parametrize("timeout_s", TIMEOUTS.values(), ids=TIMEOUTS)
def test_at_twice_the_peak_who_is_refused_is_refused_at_once(
    timeout_s: Callable[[random.Random], float],
) -> None:
    service = Service()
    service.run(2.0, timeout_s)
    late = service.outcomes["expired"] + service.outcomes["decoded in vain"]
    assert service.refused > 300
    assert late <= 0.01 * service.refused
    assert service.outcomes["late"] <= 0.001 * service.outcomes["answered"]
    assert service.goodput > 0.98


@pytest.mark.parametrize("name", ["0.3 s", "0.2 to 2 s", "30 s"])
def test_answers_never_get_fewer_when_more_is_asked(name: str) -> None:
    goodput = []
    for load in (1.0, 1.5, 3.0, 10.0):
        service = Service()
        service.run(load, TIMEOUTS[name])
        goodput.append(service.goodput)
    assert goodput[0] > 0.94
    assert min(goodput[1:]) > 0.98
