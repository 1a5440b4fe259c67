"""The one thread that uses the device, and the queue before it.

Knows neither tensors nor HTTP: it is handed a function, and keys that tell what may go together.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.errors import Overloaded, Unhealthy

K = TypeVar("K", bound=Hashable)
S = TypeVar("S")
R = TypeVar("R")


@dataclass(slots=True)
class Ticket(Generic[K, S, R]):
    """One sample in the queue; `result` is cancelled by whoever no longer wants it."""

    key: K
    sample: S
    deadline: float
    result: Future[R] = field(default_factory=Future)
    queued_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None


class DeviceThread(Generic[K, S, R]):
    """Runs batches in the order of arrival; samples of one key that wait go together.

    `run` gets a key and samples, and returns for each its result or the exception it ends in.
    """

    def __init__(
        self,
        run: Callable[[K, Sequence[S]], Sequence[R | Exception]],
        *,
        max_batch: int,
        max_queue: int,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._waiting: deque[Ticket[K, S, R]] = deque()
        # Guards the queue and the flag: the event loop appends, the device's thread takes.
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether what is submitted will be answered."""
        return not self._is_stopping and self._thread.is_alive()

    def submit(self, key: K, sample: S, deadline: float) -> Ticket[K, S, R]:
        """A place in the queue; the deadline is by the monotonic clock.

        Raises:
            Overloaded: the queue is full.
            Unhealthy: the thread has stopped.
        """
        ticket = Ticket[K, S, R](key, sample, deadline)
        with self._changed:
            if not self.is_alive:
                raise Unhealthy("The service cannot compute any more; try another replica.")
            if len(self._waiting) >= self._max_queue:
                raise Overloaded("The queue is full; try again later.")
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def stop(self) -> None:
        """Finish what was accepted, then end the thread."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        batch: list[Ticket[K, S, R]] = []
        try:
            while batch := self._take():
                self._answer(batch)
        finally:
            # Also when something ends the thread that no request can be blamed for.
            with self._changed:
                self._is_stopping = True
                stopped = Unhealthy("The service has stopped computing.")
                for ticket in batch:
                    if not ticket.result.done():
                        ticket.result.set_exception(stopped)
                for ticket in self._waiting:
                    _fail(ticket, stopped)
                self._waiting.clear()

    def _take(self) -> list[Ticket[K, S, R]]:
        """The next batch; empty at the end."""
        with self._changed:
            while True:
                self._drop_expired()
                if self._waiting:
                    break
                if self._is_stopping:
                    return []
                self._changed.wait()
            key = self._waiting[0].key
            taken = [ticket for ticket in self._waiting if ticket.key == key][: self._max_batch]
            for ticket in taken:
                self._waiting.remove(ticket)
        # From here on a ticket cannot be cancelled.
        started = [ticket for ticket in taken if ticket.result.set_running_or_notify_cancel()]
        for ticket in started:
            ticket.started_at = time.monotonic()
        return started or self._take()

    def _drop_expired(self) -> None:
        now = time.monotonic()
        for ticket in [t for t in self._waiting if t.deadline <= now or t.result.cancelled()]:
            self._waiting.remove(ticket)
            _fail(ticket, Overloaded("The request waited in the queue until its deadline."))

    def _answer(self, batch: list[Ticket[K, S, R]]) -> None:
        try:
            results = self._run(batch[0].key, [ticket.sample for ticket in batch])
        except Exception as error:  # noqa: BLE001 - one sample's failure must not be everybody's
            if len(batch) == 1:
                batch[0].result.set_exception(error)
            else:
                for ticket in batch:
                    self._answer([ticket])
            return
        for ticket, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                ticket.result.set_exception(result)
            else:
                ticket.result.set_result(result)


def _fail(ticket: Ticket[K, S, R], error: Exception) -> None:
    if ticket.result.set_running_or_notify_cancel():
        ticket.result.set_exception(error)
