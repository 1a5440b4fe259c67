"""What the resident models are made from, and what is known of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from model_store.catalogue import ModelCard
from service.inference.device_memory import Arrays
from service.inference.predictor import Predictor

Place: TypeAlias = Literal["loading", "ready", "host", "failed"]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on the device, and the arrays of its checkpoint that it has no use for."""

    predictor: Predictor
    unused_arrays: tuple[str, ...]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where models come from: the network, the disk, and copies in host memory."""

    # Whether `read` is quick; what comes from the network, or takes long to read; what is on the
    # disk; the same as a copy from where the device has it fast; onto the device.
    is_at_hand: Callable[[ModelCard], bool]
    fetch: Callable[[ModelCard], Arrays]
    read: Callable[[ModelCard], Arrays]
    copy: Callable[[Arrays], Arrays]
    build: Callable[[ModelCard, Arrays], LoadedModel]
    # What arrays will take on the device, about, and what gives back what was freed there.
    count_bytes: Callable[[Arrays], int]
    give_back: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Residence:
    """Where a model is in memory, if anywhere, and what it takes."""

    place: Place | None
    bytes_on_device: int | None
    bytes_on_host: int | None
    unused_arrays: tuple[str, ...] | None
