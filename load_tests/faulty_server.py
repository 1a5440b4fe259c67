"""A real server around a device that fails in every way that a device can.

    python -m load_tests.faulty_server [--seed 1] [--end device|watchdog|thread --after 5]

Models are loaded, copied and evicted by the service's own code; they are pieces of memory, and what
they say of an image is always the same. Settings are `DENSEPOSE_*` variables.
"""

import argparse
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch

from load_tests.stand_in import StandIn
from model_store.catalogue import ModelCard, load_catalogue
from model_store.download import Progress
from model_store.errors import CheckpointUnavailable
from model_store.store import StoredState
from service.allocator import give_back_freed_memory, keep_freed_memory
from service.assembly import assemble, build_metrics
from service.datatypes import Prediction, Sample
from service.logs import configure_logging
from service.residency.device import Arrays, MemoryBudget
from service.residency.resident import Policy, ResidentModels
from service.server import run_server
from service.settings import read_settings

MODELS = tuple(f"model_{number}" for number in range(6))
MODEL_BYTES = 2**21
NUM_ON_DEVICE, NUM_COPIES = 3, 1
BATCH_MS, IMAGE_MS, LOAD_MS = 5.0, 2.0, 20.0
# Of the batches: these raise, these run out of memory, these take the device's thread with them,
# and these take ten times as long.
RAISE_SHARE, MEMORY_SHARE, DEATH_SHARE, SLOW_SHARE = 0.02, 0.03, 0.002, 0.01
# Of the loads: these fail, these run out of memory.
FAILED_LOAD_SHARE, MEMORY_LOAD_SHARE = 0.03, 0.03
# A batch that takes longer counts as hanging.
HANG_S = 2.0


class BrokenBatchError(Exception):
    """A defect of a network."""


@dataclass
class Faults:
    """When the device fails, and how; one for all models, as there is one device."""

    seed: int
    end: str | None
    after_s: float
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self._end_s = time.monotonic() + self.after_s

    def before_batch(self) -> None:
        """Fails, or does not."""
        if self.end is not None and time.monotonic() > self._end_s:
            self._end()
        draw = self.chance.random()
        if (draw := draw - RAISE_SHARE) < 0:
            raise BrokenBatchError
        if (draw := draw - MEMORY_SHARE) < 0:
            raise torch.OutOfMemoryError("out of memory, for a test")
        if (draw := draw - DEATH_SHARE) < 0:
            raise SystemExit("the device's thread dies, for a test")
        if draw < SLOW_SHARE:
            time.sleep(10 * BATCH_MS / 1000)

    def before_load(self) -> None:
        """Fails, or does not."""
        draw = self.chance.random()
        if (draw := draw - FAILED_LOAD_SHARE) < 0:
            raise CheckpointUnavailable("the disk fails, for a test")
        if draw < MEMORY_LOAD_SHARE:
            raise torch.OutOfMemoryError("out of memory, for a test")

    def _end(self) -> None:
        match self.end:
            case "device":
                raise torch.AcceleratorError("CUDA error: an illegal memory access, for a test")
            case "watchdog":
                time.sleep(3600)
            case "thread":
                raise SystemExit("the device's thread dies again and again, for a test")


@dataclass
class FaultyModel:
    """In the place of a predictor: takes memory and time, and fails now and then."""

    card: ModelCard
    weights: Arrays
    faults: Faults
    device: StandIn
    num_bytes: int = MODEL_BYTES

    def predict_batch(self, samples: Sequence[Sample]) -> Sequence[Prediction]:
        """What is in the images: always the same."""
        self.faults.before_batch()
        return self.device.predict("", samples)

    def warm_up(self) -> None:
        """There is nothing to warm up."""

    def free_graphs(self) -> None:
        """There are none."""


class FaultyDevice:
    """In the place of the device: its memory is the host's, and a model on it fails."""

    budget = MemoryBudget(NUM_ON_DEVICE * MODEL_BYTES, NUM_COPIES * MODEL_BYTES, 10 * MODEL_BYTES)

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._device = StandIn(BATCH_MS, IMAGE_MS)

    def load(self, card: ModelCard, arrays: Arrays) -> tuple[FaultyModel, tuple[str, ...]]:
        """A model that takes memory and time."""
        self._faults.before_load()
        time.sleep(LOAD_MS / 1000)
        return FaultyModel(card, self.copy(arrays), self._faults, self._device), ()

    def count_bytes(self, _: Arrays) -> int:
        """What each model takes."""
        return MODEL_BYTES

    def copy(self, arrays: Arrays) -> Arrays:
        """The same once more."""
        return {name: array.copy() for name, array in arrays.items()}

    def give_back_memory(self) -> None:
        """Gives back what is free."""
        give_back_freed_memory()


@dataclass
class FullStore:
    """In the place of the model store: every model is there, and quick to read."""

    cards: Mapping[str, ModelCard]

    def state(self, _: ModelCard) -> StoredState:
        """On the disk."""
        return StoredState("stored", MODEL_BYTES)

    def close(self) -> None:
        """There is nothing to close."""

    def is_converted(self, _: ModelCard) -> bool:
        """Always."""
        return True

    def load_arrays(self, _: ModelCard, __: Progress) -> Arrays:
        """What takes a model's memory."""
        return {"weights": np.ones(MODEL_BYTES // 4, np.float32)}


def main() -> None:
    """Serve until a signal comes, or the device has failed for good."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--end", choices=("device", "watchdog", "thread"))
    parser.add_argument("--after", type=float, default=5.0, help="seconds until the end")
    chosen = parser.parse_args()
    keep_freed_memory()
    settings = read_settings()
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    demo = replace(load_catalogue()["demo"], short_side=128, long_side=224)
    cards = {name: replace(demo, id=name, aliases=()) for name in MODELS}
    metrics = build_metrics({"torch": "none", "cuda": "none"})
    faults = Faults(chosen.seed, chosen.end, chosen.after)
    store, device = cast("Any", FullStore(cards)), cast("Any", FaultyDevice(faults))
    resident = ResidentModels(store, device, Policy(max_stay_s=0.2), metrics)
    run_server(assemble(settings, resident, metrics, hang_s=HANG_S), settings)


if __name__ == "__main__":
    main()
