"""What the HTTP side is given by the rest of the process: the models, the device, its health."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from model_store.catalogue import ModelCard
from service.datatypes import Prediction, Sample

ModelState: TypeAlias = Literal[
    "absent", "downloading", "stored", "loading", "ready", "host", "failed"
]
# By a deadline in seconds of time.monotonic(). Cancelling the call drops the work.
Predict: TypeAlias = Callable[[ModelCard, Sample, float], Awaitable[Prediction]]
# Whether all is well, and in what state it is, or why not.
Probe: TypeAlias = Callable[[], tuple[bool, str]]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Where a model is, and what it takes there, as far as is known."""

    state: ModelState
    bytes_on_disk: int | None = None
    bytes_on_host: int | None = None
    bytes_on_device: int | None = None
    # Arrays of the checkpoint that the network has no use for; known once it was read.
    unused_arrays: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Backend:
    """The process behind the API; `cards` has the models that are served, by id."""

    cards: Callable[[], Mapping[str, ModelCard]]
    status_of: Callable[[ModelCard], ModelStatus]
    predict: Predict
    readiness: Probe
    liveness: Probe
