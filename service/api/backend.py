"""What the HTTP side is given by the rest of the process: the models, the device, its health."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias

from model_store.catalogue import ModelCard
from service.datatypes import ModelStatus, Prediction, Sample

# Deadlines are seconds of time.monotonic(). Cancelling a call drops its work.
Prepare: TypeAlias = Callable[[ModelCard, float], Awaitable[None]]
Predict: TypeAlias = Callable[[ModelCard, Sample, float], Awaitable[Prediction]]
# Whether all is well, and in what state it is, or why not.
Probe: TypeAlias = Callable[[], tuple[bool, str]]


@dataclass(frozen=True, slots=True)
class Queue:
    """The way to the device, in the order in which a request takes it.

    `check` raises at once what `admit` would raise, before a body is read, about a model if it is
    known by then; `admit` accepts a request for the length of a block. Then, by the request's
    deadline, `prepare` waits for the model, and turns away whom the device could not serve in time;
    `predict` is the rest.
    """

    check: Callable[[str | None], None]
    admit: Callable[[], AbstractContextManager[None]]
    prepare: Prepare
    predict: Predict
    # Estimated seconds until what is queued now is done, and how near the queue is to refusing: 1.
    wait_s: Callable[[], float]
    saturation: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Backend:
    """The process behind the API; `cards` has the models that are served, by id."""

    cards: Callable[[], Mapping[str, ModelCard]]
    status_of: Callable[[ModelCard], ModelStatus]
    # Both begin at once what takes its time.
    load: Callable[[ModelCard], object]
    unload: Callable[[str], object]
    queue: Queue
    readiness: Probe
    liveness: Probe
    # Whether clients should take their next request elsewhere.
    is_draining: Callable[[], bool]
