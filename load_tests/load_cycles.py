"""Loads and unloads a model again and again, and watches this process' memory.

    python -m load_tests.load_cycles [--cycles 200] [--demo]

The model is of the default one's size, with random weights, and describes an image each time; with
`--demo` it is the demo model. Exits with 1 if memory at the end is more than 5% above that after
the tenth cycle.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from load_tests.memory import resident_bytes
from load_tests.model_load import CARD, write_checkpoint
from model_store.catalogue import ModelCard, load_catalogue
from model_store.store import ModelStore
from service.allocator import keep_freed_memory
from service.app import build_models
from service.datatypes import Output, Query, Sample
from service.inference.loading import parameter_shapes
from service.residency.resident import ResidentModels
from service.settings import Settings

SIDE = 128
SETTLED_CYCLES = 10
MAX_GROWTH = 0.05
TIMEOUT_S = 120.0
MEGABYTE = 10**6


@contextmanager
def served_models(folder: Path, model_id: str) -> Iterator[tuple[ResidentModels, ModelCard]]:
    """The device side of a server, and the card of one of its models."""
    models = build_models(Settings(model_store=folder, device="cpu", preload=()))
    try:
        yield models, models.cards()[model_id]
    finally:
        models.close()


def run_cycle(models: ResidentModels, card: ModelCard) -> None:
    """Loads the model, has it describe an image, and waits until it has left."""
    models.request(card).result(TIMEOUT_S)
    box = (0.0, 0.0, float(SIDE), float(SIDE))
    query = Query(frozenset((Output.IUV,)), boxes_xyxy=(box,), class_ids=(0,))
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    models.predict(card.id, [Sample(grey, (SIDE, SIDE), query)])
    models.unload(card.id)
    end_s = time.monotonic() + TIMEOUT_S
    while models.memory().device_bytes["used"]:
        if time.monotonic() > end_s:
            raise TimeoutError(f"{card.id} does not leave")
        time.sleep(0.002)


def measure(models: ResidentModels, card: ModelCard, num_cycles: int) -> list[int]:
    """Resident bytes of this process after each cycle."""
    readings = []
    for _ in range(num_cycles):
        run_cycle(models, card)
        readings.append(resident_bytes())
    return readings


def growth(readings: list[int]) -> float:
    """By how much of what it was after the tenth cycle the memory has grown at the end."""
    return readings[-1] / readings[SETTLED_CYCLES - 1] - 1


def main() -> int:
    """Run, and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--demo", action="store_true")
    chosen = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model_id = "demo" if chosen.demo else add_model(folder)
        begun_s = time.monotonic()
        with served_models(folder, model_id) as (models, card):
            readings = measure(models, card, chosen.cycles)
    cycle_s = (time.monotonic() - begun_s) / chosen.cycles
    print(
        f"{card.id}: {chosen.cycles} cycles of {cycle_s:.2f} s, "
        f"{readings[SETTLED_CYCLES - 1] / MEGABYTE:.1f} MB after the tenth, "
        f"{max(readings) / MEGABYTE:.1f} MB at most, {readings[-1] / MEGABYTE:.1f} MB at the end: "
        f"{growth(readings):+.2%}"
    )
    return 1 if growth(readings) > MAX_GROWTH else 0


def add_model(folder: Path) -> str:
    """Puts a model of random weights into a store; its id."""
    with tempfile.TemporaryDirectory() as name:
        write_checkpoint(Path(name), CARD)
        (file,) = Path(name).glob("*/*.pkl")
        shapes = parameter_shapes(CARD.architecture)
        return ModelStore(folder, load_catalogue()).add("random", file, CARD.id, shapes).id


if __name__ == "__main__":
    sys.exit(main())
