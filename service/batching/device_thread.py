"""The one thread that uses the device.

Knows neither tensors nor HTTP: it is handed a function, and tickets.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal

from service.batching.isolation import Outcome, Run, run_isolated
from service.batching.scheduler import Scheduler
from service.batching.ticket import Batch, R, S, Ticket, resolve
from service.errors import DeviceFailed, Unhealthy

logger = logging.getLogger(__name__)

# The thread is started anew after this many deaths without a batch between them, and no more.
MAX_RESTARTS = 3


@dataclass(frozen=True, slots=True)
class Failure:
    """Why nothing can be computed any more in this process.

    The device is lost, it hangs (a watchdog's finding), or its thread dies again and again.
    `message` is for operators.
    """

    reason: Literal["device", "watchdog", "thread"]
    message: str


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a batch may take before the device counts as hanging, in seconds.

    The first batch of a model may have kernels to choose, compile and load.
    """

    batch_s: float
    first_batch_s: float


@dataclass(frozen=True, slots=True)
class BatchReport(Generic[S, R]):
    """A batch that was run."""

    batch: Batch[S, R]
    seconds: float
    num_splits: int
    num_out_of_memory: int


class DeviceThread(Generic[S, R]):
    """Runs what the scheduler says is next, and ends every ticket that it was given."""

    def __init__(
        self,
        run: Run[S, R],
        scheduler: Scheduler[S, R],
        *,
        count_instances: Callable[[R], int],
        on_batch: Callable[[BatchReport[S, R]], None],
        on_failure: Callable[[Failure], None],
        patience: Patience,
    ) -> None:
        """`on_batch` is called on the device's thread after each batch; `on_failure` once."""
        self._run = run
        self._scheduler = scheduler
        self._count_instances = count_instances
        self._on_batch = on_batch
        self._on_failure = on_failure
        self._patience = patience
        # Guards the scheduler and the flags: the event loop submits, the device's thread takes.
        self._changed = threading.Condition()
        self._is_stopping = False
        self._num_deaths = 0
        # Models that have had a batch run to its end.
        self._known_models = set[str]()
        self.failure: Failure | None = None
        self._thread = self._start()

    @property
    def is_alive(self) -> bool:
        """Whether what is submitted will be computed."""
        return not self._is_stopping and self.failure is None

    @property
    def num_running(self) -> int:
        """Tickets of the batch that the device is busy with."""
        batch = self._scheduler.running
        return 0 if batch is None else len(batch.tickets)

    def wait_s(self) -> float:
        """Seconds until all that is queued now has been run, as far as costs are known."""
        with self._changed:
            return self._scheduler.wait_s(time.monotonic())

    def turn_s(self, model_id: str, party: str) -> float:
        """The same of what a party has queued of a model, while others have their fair share."""
        with self._changed:
            return self._scheduler.turn_s(model_id, party, time.monotonic())

    def image_s(self, model_id: str) -> float:
        """What an image of the model takes on average; 0 where that is not known, or not lately."""
        with self._changed:
            return self._scheduler.image_s(model_id, time.monotonic())

    def waiting_by_model(self) -> Counter[str]:
        """Tickets that no batch has taken, by their model."""
        with self._changed:
            return self._scheduler.waiting_by_model()

    def submit(self, ticket: Ticket[S, R]) -> None:
        """Queues a ticket, which from then on will be ended, whatever happens.

        Raises:
            Overloaded: it would not be done by its deadline.
            Unhealthy: nothing is computed any more.
        """
        with self._changed:
            if not self.is_alive:
                raise Unhealthy("The service cannot compute any more: try another replica.")
            self._scheduler.submit(ticket, time.monotonic())
            self._changed.notify()

    def withdraw(self, ticket: Ticket[S, R]) -> None:
        """Forgets a ticket if it still waits; its result is its owner's to cancel."""
        with self._changed:
            self._scheduler.withdraw(ticket)

    def refuse_waiting(self, error: Exception) -> None:
        """Ends the tickets that no batch has taken."""
        with self._changed:
            self._scheduler.refuse_waiting(error)

    def abandon(self, error: Exception) -> None:
        """Ends all tickets, those of a batch that still runs as well."""
        with self._changed:
            self._end_all(error)

    def fail(self, failure: Failure) -> None:
        """Gives the device up for good: ends all tickets, and takes no more."""
        with self._changed:
            if self.failure is not None:
                return
            self.failure = failure
            self._end_all(Unhealthy("The device has failed: try another replica."))
            self._changed.notify()
        logger.critical(
            "the device has failed",
            extra={"fields": {"reason": failure.reason, "message": failure.message}},
        )
        self._on_failure(failure)

    def check_hang(self) -> None:
        """Gives the device up if its batch takes longer than one possibly could."""
        with self._changed:
            batch = self._scheduler.running
            if batch is None or self.failure is not None:
                return
            model_id = batch.key.model_id
            is_known = model_id in self._known_models
            limit_s = self._patience.batch_s if is_known else self._patience.first_batch_s
            taken_s = time.monotonic() - batch.started_s
        if taken_s > limit_s:
            message = f"a batch of {model_id} has not come back for {taken_s:.0f} s"
            self.fail(Failure("watchdog", message))

    def stop(self) -> None:
        """Compute what is queued, then end the thread; one that has failed is left alone."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self.failure is None:
            self._thread.join()

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="device", daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        try:
            while self._step():
                pass
        except BaseException:
            # Whatever ends the thread, nobody may wait for it.
            logger.critical("the device's thread died", exc_info=True)
            self._bury()

    def _step(self) -> bool:
        """One batch; whether there may be another."""
        batch = self._next_batch()
        if batch is None:
            return False
        samples = [ticket.sample for ticket in batch.tickets]
        try:
            outcome = run_isolated(self._run, batch.key, samples)
        except DeviceFailed as error:
            self.fail(Failure("device", error.reason))
            return False
        self._finish(batch, outcome)
        return True

    def _next_batch(self) -> Batch[S, R] | None:
        """The next batch, when there is one; None at the end."""
        with self._changed:
            while self.failure is None:
                now_s = time.monotonic()
                batch = self._scheduler.next_batch(now_s, is_patient=not self._is_stopping)
                if batch is not None or self._is_stopping:
                    return batch
                due_s = self._scheduler.next_due_s(now_s)
                self._changed.wait(None if due_s is None else due_s - now_s)
            return None

    def _finish(self, batch: Batch[S, R], outcome: Outcome[R]) -> None:
        now_s = time.monotonic()
        num_instances = None
        if not (outcome.num_splits or batch.key.is_warm_up):
            results = [one for one in outcome.results if not isinstance(one, Exception)]
            num_instances = sum(map(self._count_instances, results)) if results else None
        with self._changed:
            self._scheduler.finished(now_s, num_instances, outcome.too_large)
            self._known_models.add(batch.key.model_id)
            self._num_deaths = 0
        for ticket, result in zip(batch.tickets, outcome.results, strict=True):
            resolve(ticket, result)
        self._on_batch(
            BatchReport(batch, now_s - batch.started_s, outcome.num_splits, len(outcome.too_large))
        )

    def _bury(self) -> None:
        """Tells everyone who waits, and starts another thread unless that has been of no use."""
        with self._changed:
            self._num_deaths += 1
            if self._num_deaths > MAX_RESTARTS:
                self.fail(Failure("thread", "the device's thread dies again and again"))
            self._end_all(Unhealthy("The device has failed: try again, or another replica."))
            self._scheduler.finished(time.monotonic(), None)
            if self.is_alive:
                self._thread = self._start()

    def _end_all(self, error: Exception) -> None:
        self._scheduler.refuse_waiting(error)
        if self._scheduler.running is not None:
            for ticket in self._scheduler.running.tickets:
                resolve(ticket, error)
