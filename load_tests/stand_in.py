"""A real server around a device that only takes its time: what is left is what we add to it.

    python -m load_tests.stand_in [--batch-ms 20] [--image-ms 5] [--short-side 480]
                                  [--models demo,second] [--load-ms 500 --capacity 1]

Everything but the device side is the service's own; settings are `DENSEPOSE_*` variables.
"""

import argparse
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from model_store.catalogue import ModelCard, load_catalogue
from service.allocator import keep_freed_memory
from service.assembly import assemble, build_metrics
from service.datatypes import Instance, Map, ModelStatus, Output, Prediction, Sample
from service.logs import configure_logging
from service.server import run_server
from service.settings import read_settings

# Of the one instance in every image.
WIDTH, HEIGHT = 200, 300


@dataclass(frozen=True)
class StandIn:
    """In the place of the resident models: finds one person in every image, after a while."""

    batch_ms: float = 20.0
    image_ms: float = 5.0
    # What a model takes to be loaded, and how many are at a time; those used last stay.
    load_ms: float = 0.0
    capacity: int = 64
    _loads: OrderedDict[str, Future[None]] = field(default_factory=OrderedDict, init=False)

    def request(self, card: ModelCard) -> Future[None]:
        """Done when the model is there."""
        if card.id not in self._loads:
            load = self._loads[card.id] = Future[None]()
            if len(self._loads) > self.capacity:
                self._loads.popitem(last=False)
            if self.load_ms:
                threading.Timer(self.load_ms / 1000, load.set_result, [None]).start()
            else:
                load.set_result(None)
        self._loads.move_to_end(card.id)
        return self._loads[card.id]

    def lease(self, _: str) -> AbstractContextManager[object] | None:
        """Nothing leaves while it is used."""
        return nullcontext()

    def unload(self, model_id: str) -> None:
        """Gives a model up."""
        self._loads.pop(model_id, None)

    def predict(self, _: str, samples: Sequence[Sample]) -> Sequence[Prediction]:
        """What is in the images: always the same."""
        time.sleep((self.batch_ms + self.image_ms * len(samples)) / 1000)
        return [replace(self._prediction, image_size_hw=sample.image_size_hw) for sample in samples]

    def warm_up(self, _: str) -> None:
        """There is nothing to warm up."""

    def close(self) -> None:
        """There is nothing to close."""

    @cached_property
    def _prediction(self) -> Prediction:
        box = (10.0, 20.0, 10.0 + WIDTH, 20.0 + HEIGHT)
        maps = {Output.IUV.value: Map(paint_iuv())}
        instance = Instance(0.9, 0, box, (10, 20, WIDTH, HEIGHT), None, maps)
        return Prediction((0, 0), (instance,))


def paint_iuv() -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """An ellipse of 24 parts, in each of which U and V rise."""
    y_hw, x_hw = np.mgrid[:HEIGHT, :WIDTH]
    part_hw = 1 + y_hw * 6 // HEIGHT * 4 + x_hw * 4 // WIDTH
    u_hw, v_hw = x_hw * 4 * 255 // WIDTH % 256, y_hw * 6 * 255 // HEIGHT % 256
    is_body_hw = np.hypot(x_hw / WIDTH - 0.5, y_hw / HEIGHT - 0.5) < 0.5
    iuv_hw3 = np.stack([part_hw, u_hw, v_hw], axis=-1) * is_body_hw[..., None]
    return np.ascontiguousarray(iuv_hw3.astype(np.uint8))


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-ms", type=float, default=20.0)
    parser.add_argument("--image-ms", type=float, default=5.0)
    parser.add_argument("--short-side", type=int, default=480, help="what images are resized to")
    parser.add_argument("--models", default="demo", help="a comma list of invented ids")
    parser.add_argument("--load-ms", type=float, default=0.0)
    parser.add_argument("--capacity", type=int, default=64, help="models that are loaded at a time")
    chosen = parser.parse_args()
    keep_freed_memory()
    settings = read_settings()
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    sides = {"short_side": chosen.short_side, "long_side": 5 * chosen.short_side // 3}
    demo = replace(load_catalogue()["demo"], **sides)
    cards = {name: replace(demo, id=name, aliases=()) for name in chosen.models.split(",")}
    service = assemble(
        settings,
        StandIn(chosen.batch_ms, chosen.image_ms, chosen.load_ms, chosen.capacity),
        lambda: cards,
        lambda _: ModelStatus("ready"),
        build_metrics({"torch": "none", "cuda": "none"}),
    )
    run_server(
        service.application,
        service.engine,
        host=settings.host,
        port=settings.port,
        keep_alive_ms=settings.keep_alive_ms,
        drain_delay_ms=settings.drain_delay_ms,
        shutdown_timeout_ms=settings.shutdown_timeout_ms,
    )


if __name__ == "__main__":
    main()
