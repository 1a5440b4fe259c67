"""One request in the queue before the device, and the batch that it goes with."""

from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from service.datatypes import SizeHW

S = TypeVar("S")
R = TypeVar("R")

# All requests without a key together: behind a balancer nobody knows whose they are.
NOBODY = ""
# Whose request is worked on, by the name of its key, wherever its task goes: parties share evenly
# what is scarce.
PARTY: ContextVar[str] = ContextVar("party", default=NOBODY)


@dataclass(frozen=True, slots=True)
class BatchKey:
    """What may go together: one model, one padded size.

    So no image is padded to another's size, and an answer never depends on whom it was with. A
    model's warm-up has its place in the queue, too; what it takes says nothing of images.
    """

    model_id: str
    size_hw: SizeHW
    is_warm_up: bool = False

    @property
    def num_pixels(self) -> int:
        """Pixels of one image, padding included."""
        return self.size_hw[0] * self.size_hw[1]


@dataclass(slots=True, eq=False)
class Ticket(Generic[S, R]):
    """One sample in the queue; `result` is cancelled by whoever no longer wants it.

    `max_instances` bounds the instances of its answer; they are exactly that many where
    `are_instances_given`. `party` is whose it is: parties share evenly. Times are those of the
    monotonic clock.
    """

    key: BatchKey
    sample: S
    deadline_s: float
    queued_s: float
    max_instances: int = 1
    are_instances_given: bool = False
    party: str = NOBODY
    result: Future[R] = field(default_factory=Future)
    started_s: float | None = None


class Trigger(StrEnum):
    """Why a batch was sent as it was, and not later or larger."""

    IDLE = "idle"  # no other of its kind waited, or came during the operator's delay
    FULL = "full"  # with more images it would not be faster, or larger than the operator allows
    PIXELS = "pixels"
    INSTANCES = "instances"
    DEADLINE = "deadline"  # with one more it would miss a deadline


@dataclass(frozen=True, slots=True, eq=False)
class Batch(Generic[S, R]):
    """Tickets of one key that the device takes at once."""

    key: BatchKey
    tickets: Sequence[Ticket[S, R]]
    trigger: Trigger
    started_s: float


def refuse(ticket: Ticket[S, R], error: Exception) -> None:
    """Ends a ticket that waits, unless it was cancelled."""
    if ticket.result.set_running_or_notify_cancel():
        ticket.result.set_exception(error)


def resolve(ticket: Ticket[S, R], outcome: R | Exception) -> None:
    """Ends a ticket that a batch has taken; one that has ended already stays as it is."""
    # Shutting down ends tickets while their batch runs.
    with suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            ticket.result.set_exception(outcome)
        else:
            ticket.result.set_result(outcome)
