"""Try a model from the download to an answer, and report on every step."""

import hashlib
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata

import numpy as np
import torch

from model_store.catalogue import ModelCard
from model_store.download import Progress
from model_store.store import ModelStore
from service.datatypes import Instance, Output, Query, Sample
from service.imaging.decode import decode_image
from service.imaging.pictures import resize_image
from service.inference.devices import DTYPES, find_device
from service.inference.loading import build_predictor
from service.settings import Settings

Report = Callable[[str, object], None]


def check_model(
    store: ModelStore,
    card: ModelCard,
    photo: bytes,
    settings: Settings,
    *,
    progress: Progress,
    report: Report,
) -> None:
    """Fetch, verify and load a model, and describe a photo with it; `report` is told each finding.

    Raises:
        ModelStoreError: a step failed.
        ServiceError: the photo, or the device, cannot be used.
    """
    packages = ("densepose-serving", "torch", "torchvision", "numpy")
    report("versions", ", ".join(f"{name} {metadata.version(name)}" for name in packages))
    report("platform", f"Python {platform.python_version()}, {platform.platform()}")
    report("model", card.id)
    report("source", card.source or card.file or "added by hand")
    report("expected", card.expectation)
    with _timed(report, "pull"):
        store.pull(card, progress)
    with _timed(report, "verify"):
        digest = store.verify(card)
    report("bytes", digest.num_bytes)
    report("sha256", digest.sha256)
    device = find_device(settings.device)
    report("device", f"{device}, {settings.precision}, {torch.get_num_threads()} threads")
    with _timed(report, "load"):
        arrays = store.load_arrays(card)
        predictor, unused = build_predictor(card, arrays, device, DTYPES[settings.precision])
    report("arrays", len(arrays))
    report("unused", f"{len(unused)} {', '.join(sorted(unused))}".rstrip())

    image = decode_image(photo, max_pixels=settings.max_pixels)
    height, width = image.size_hw
    report("photo", f"{width} x {height}, sha256 {hashlib.sha256(photo).hexdigest()}")
    pixels = resize_image(image, short_side=card.short_side, long_side=card.long_side)
    output = Output.IUV if card.kind == "chart" else Output.VERTICES
    sample = Sample(pixels, image.size_hw, Query(frozenset({output})))
    with _timed(report, "predict"):
        (prediction,) = predictor.predict_batch([sample])
    if isinstance(prediction, Exception):
        raise prediction
    report("instances", len(prediction.instances))
    for instance in prediction.instances:
        report("", _describe(instance, card, output))


@contextmanager
def _timed(report: Report, name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    report(name, f"{time.perf_counter() - start:.2f} s")


def _describe(instance: Instance, card: ModelCard, output: Output) -> str:
    samples = instance.maps[output.value].samples
    values = samples[..., 0] if output is Output.IUV else samples
    body = values[values > 0]
    name = card.class_names[instance.class_id or 0]
    box = ", ".join(f"{side:.1f}" for side in instance.box_xyxy)
    kinds = "parts" if output is Output.IUV else "vertices"
    return (
        f"{name} {instance.score:.3f}, box {box}, {body.size} pixels of the body, "
        f"{np.unique(body).size} {kinds}"
    )
