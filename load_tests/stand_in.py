"""A real server around a device that only takes its time: what is left is what we add to it.

    python -m load_tests.stand_in [--batch-ms 20] [--image-ms 5] [--short-side 480]

Everything but the device side is the service's own; settings are `DENSEPOSE_*` variables.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from model_store.catalogue import ModelCard, load_catalogue
from service.allocator import keep_freed_memory
from service.api.backend import ModelStatus
from service.assembly import assemble
from service.datatypes import Instance, Map, Output, Prediction, Sample
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

    def request(self, _: ModelCard) -> Future[None]:
        """Every model is there."""
        loaded = Future[None]()
        loaded.set_result(None)
        return loaded

    def unload(self, _: str) -> None:
        """There is nothing to give up."""

    def predict(self, _: str, samples: Sequence[Sample]) -> Sequence[Prediction]:
        """What is in the images: always the same."""
        time.sleep((self.batch_ms + self.image_ms * len(samples)) / 1000)
        return [replace(self._prediction, image_size_hw=sample.image_size_hw) for sample in samples]

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
    chosen = parser.parse_args()
    keep_freed_memory()
    settings = read_settings()
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    sides = {"short_side": chosen.short_side, "long_side": 5 * chosen.short_side // 3}
    cards: Mapping[str, ModelCard] = {"demo": replace(load_catalogue()["demo"], **sides)}
    service = assemble(
        settings,
        StandIn(chosen.batch_ms, chosen.image_ms),
        lambda: cards,
        lambda _: ModelStatus("ready"),
        {"torch": "none", "cuda": "none"},
    )
    run_server(
        service.application,
        service.engine,
        host=settings.host,
        port=settings.port,
        drain_delay_ms=settings.drain_delay_ms,
        shutdown_timeout_ms=settings.shutdown_timeout_ms,
    )


if __name__ == "__main__":
    main()
