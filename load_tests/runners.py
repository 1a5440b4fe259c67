"""Our predictor and detectron2's, asked the same, and what their runs took."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage

from load_tests.ceilings import timed
from load_tests.stages import MAPS, PREPROCESS, Stages, stopwatch
from load_tests.stand_in_weights import DATA
from model_store.catalogue import ModelCard
from service.datatypes import BoxXYXY, Image, Output, Prediction, Query, Sample
from service.imaging.pictures import resize_image
from service.inference.devices import DTYPES
from service.inference.loading import build_predictor
from service.inference.predictor import Predictor

WIDTH, HEIGHT = 1066, 800
# Of a person in the middle distance.
GIVEN_SIDES = (150, 400)
TOTAL = "total"

Answer = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Case:
    """What both are asked."""

    card: ModelCard
    images: Sequence[Image]
    num_instances: int
    boxes: Sequence[BoxXYXY] | None
    device: torch.device


@dataclass(slots=True)
class Runner:
    """One predictor, and what its runs took."""

    step: Callable[[], Answer]
    stages: Stages
    totals_s: list[float] = field(default_factory=list)
    stages_s: list[Mapping[str, float]] = field(default_factory=list)

    def run(self, device: torch.device) -> None:
        """Once more. On CUDA the stages are timed apart, as waiting for each takes its own time."""
        if device.type == "cuda":
            self.totals_s.append(timed(self.step, device))
            self.stages.time(self.step)
        else:
            self.totals_s.append(timed(lambda: self.stages.time(self.step), device))
        self.stages_s.append(dict(self.stages.seconds))

    def median_s(self, stage: str) -> float:
        """Of all runs."""
        if stage == TOTAL:
            return statistics.median(self.totals_s)
        return statistics.median(seconds.get(stage, 0.0) for seconds in self.stages_s)

    def ratio(self, theirs: "Runner", stage: str) -> float:
        """How many times as long the other takes: the median over the pairs of runs."""
        if stage == TOTAL:
            pairs = zip(theirs.totals_s, self.totals_s, strict=True)
        else:
            both = zip(theirs.stages_s, self.stages_s, strict=True)
            pairs = ((one.get(stage, 0.0), other.get(stage, 0.0)) for one, other in both)  # type: ignore[assignment]
        return statistics.median(other / own if own else float("nan") for other, own in pairs)


def our_runner(case: Case, arrays: Mapping[str, NDArray[np.float32]], precision: str) -> Runner:
    """Our predictor, from pixels in memory to maps in memory."""
    predictor, _ = build_predictor(case.card, arrays, case.device, DTYPES[precision])
    output = Output.IUV if case.card.kind == "chart" else Output.VERTICES
    query = Query(frozenset({output}), min_score=0.0, max_instances=case.num_instances)
    if case.boxes is not None:
        query = Query(
            frozenset({output}), boxes_xyxy=tuple(case.boxes), class_ids=(0,) * len(case.boxes)
        )

    def describe() -> Answer:
        seconds: dict[str, float] = {}
        with stopwatch(seconds, PREPROCESS):
            samples = [_sample(case.card, image, query) for image in case.images]
        predictions = predictor.predict_batch(samples)
        first = predictions[0]
        assert isinstance(first, Prediction)
        for prediction in predictions:
            assert isinstance(prediction, Prediction)
            assert len(prediction.instances) == case.num_instances, len(prediction.instances)
        seconds[PREPROCESS] += first.stage_seconds["preprocess"]
        seconds[MAPS] = first.stage_seconds["postprocess"]
        return seconds

    return Runner(describe, Stages(network_of(predictor), case.device))


def their_runner(case: Case, arrays: Mapping[str, NDArray[np.float32]]) -> Runner:
    """detectron2's predictor and converters on the same images."""
    from load_tests.detectron2_predictor import Detectron2  # noqa: PLC0415

    theirs = Detectron2(
        case.card, arrays, case.device, num_instances=case.num_instances, boxes=case.boxes
    )
    pixels = [image.pixels_HW3 for image in case.images]
    return Runner(lambda: theirs.describe(pixels), Stages(theirs.network, case.device))


def network_of(predictor: Predictor) -> torch.nn.Module:
    """The modules that it runs, to be watched."""
    network: torch.nn.Module = predictor._network  # noqa: SLF001 - nobody else may touch it
    return network


def pictures(count: int) -> list[Image]:
    """Images of one size, two by turns."""
    images = []
    for name in ("figures_2.png", "figure_1.png"):
        picture = PillowImage.open(DATA / "pictures" / name).convert("RGB")
        rgb = np.asarray(picture.resize((WIDTH, HEIGHT)))
        images.append(Image(np.ascontiguousarray(rgb[:, :, ::-1])))
    return [images[index % 2] for index in range(count)]


def given_boxes(count: int) -> list[BoxXYXY]:
    """Boxes of people in the middle distance, side by side."""
    width, height = GIVEN_SIDES
    lefts = np.linspace(0, WIDTH - width, count)
    return [(float(x), 100.0, float(x + width), float(100 + height)) for x in lefts]


def _sample(card: ModelCard, image: Image, query: Query) -> Sample:
    pixels = resize_image(image, short_side=card.short_side, long_side=card.long_side)
    return Sample(pixels, image.size_hw, query)
