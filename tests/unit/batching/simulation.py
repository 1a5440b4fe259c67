"""A device and a clock that exist on paper alone: the scheduler's tests run hours in no time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service.batching.isolation import run_isolated
from service.batching.scheduler import Budget, Scheduler
from service.batching.ticket import NOBODY, Batch, BatchKey, Ticket, resolve

SMALL, LARGE = (320, 448), (800, 1088)
FAR_S = 3600.0


def budget(**changes: int) -> Budget:
    limits = {"max_images": 8, "max_pixels": 10**9, "max_instances": 10**6} | changes
    return Budget(**limits)


def answer(sample: int) -> str:
    return f"answer {sample}"


def affine(batch: Batch[int, str]) -> float:
    """20 ms and 5 ms per image: what is gained falls with the size."""
    return 0.020 + 0.005 * len(batch.tickets)


@dataclass
class Simulation:
    """Scheduler, device and clock; samples are numbers, counted up."""

    scheduler: Scheduler[int, str] = field(default_factory=lambda: Scheduler(budget()))
    seconds_of: Callable[[Batch[int, str]], float] = affine
    now_s: float = 1000.0
    # The batches that were run, and when each ended.
    log: list[Batch[int, str]] = field(default_factory=list)
    num_samples: int = 0

    def submit(
        self,
        model: str = "a",
        size_hw: tuple[int, int] = SMALL,
        *,
        timeout_s: float = FAR_S,
        max_instances: int = 1,
        are_instances_given: bool = False,
        party: str = NOBODY,
    ) -> Ticket[int, str]:
        self.num_samples += 1
        ticket = Ticket[int, str](
            BatchKey(model, size_hw),
            self.num_samples,
            self.now_s + timeout_s,
            self.now_s,
            max_instances,
            are_instances_given,
            party,
        )
        self.scheduler.submit(ticket, self.now_s)
        return ticket

    def start(self) -> Batch[int, str] | None:
        batch = self.scheduler.next_batch(self.now_s)
        if batch is not None:
            self.log.append(batch)
        return batch

    def finish(
        self,
        run: Callable[[BatchKey, Sequence[int]], Sequence[str | Exception]] | None = None,
        num_instances: int = 0,
    ) -> None:
        """Lets the running batch take its time, and ends its tickets as a device thread does."""
        batch = self.scheduler.running
        assert batch is not None
        outcome = run_isolated(
            run or (lambda _, samples: list(map(answer, samples))),
            batch.key,
            [ticket.sample for ticket in batch.tickets],
        )
        self.now_s += self.seconds_of(batch)
        self.scheduler.finished(self.now_s, None if outcome.num_splits else num_instances)
        for ticket, result in zip(batch.tickets, outcome.results, strict=True):
            resolve(ticket, result)

    def step(self) -> Batch[int, str] | None:
        """One batch from its start to its end; the clock goes on."""
        batch = self.start()
        if batch is not None:
            self.finish()
        return batch

    def run_all(self) -> list[Batch[int, str]]:
        first = len(self.log)
        while self.scheduler.num_waiting:
            if self.step() is None:
                due_s = self.scheduler.next_due_s(self.now_s)
                self.now_s = self.now_s if due_s is None else due_s
        return self.log[first:]

    def learn(self, model: str = "a", size_hw: tuple[int, int] = SMALL) -> None:
        """Batches of every size, so that costs are known and the largest batch is allowed."""
        for _ in range(64):
            self.submit(model, size_hw)
        self.run_all()


def samples_of(batch: Batch[int, str] | None) -> list[int]:
    assert batch is not None
    return [ticket.sample for ticket in batch.tickets]
