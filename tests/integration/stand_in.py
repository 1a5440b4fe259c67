"""A device side without a device: it finds what it is told to, and paints maps that are known."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field

import numpy as np

from model_store.catalogue import ModelCard
from service.datatypes import (
    AnyMap,
    BoxXYXY,
    Instance,
    Map,
    ModelStatus,
    Output,
    Prediction,
    Query,
    RawMap,
    Sample,
    region_of,
)

STAGE_SECONDS = {"queue": 0.001, "preprocess": 0.002, "network": 0.003, "postprocess": 0.004}
FIRST_BOX = (1.25, 2.5, 5.75, 8.0)
SECOND_BOX = (4.0, 4.0, 7.5, 9.5)


class Models:
    """What is served, and what was done to it."""

    def __init__(self, cards) -> None:
        self.served = cards
        self.loads: list[ModelCard] = []
        self.unloads: list[str] = []

    def cards(self):
        return self.served

    def status_of(self, card):
        return ModelStatus("stored" if card.url else "ready")

    def request(self, card):
        self.loads.append(card)

    def unload(self, model_id):
        self.unloads.append(model_id)


@dataclass
class StandIn:
    """Answers every request alike; notes what it was asked. In the place of the engine."""

    served: InitVar[Mapping[str, ModelCard]]
    boxes: tuple[BoxXYXY, ...] = (FIRST_BOX, SECOND_BOX)
    error: Exception | None = None
    delay_s: float = 0.0
    # What the queue says to whoever wants to come in, and what it does not get done in time.
    refusal: Exception | None = None
    unprepared: Exception | None = None
    is_draining: bool = False
    num_inside: int = 0
    asked: list[tuple[ModelCard, Sample, float]] = field(default_factory=list)
    num_cancelled: int = 0
    models: Models = field(init=False)
    found: dict[str, tuple[bool, str]] = field(
        default_factory=lambda: {"readiness": (True, "ready"), "liveness": (True, "alive")}
    )

    def __post_init__(self, served) -> None:
        self.models = Models(served)

    @property
    def is_over(self) -> bool:
        return self.is_draining

    def readiness(self):
        return self.found["readiness"]

    def liveness(self):
        return self.found["liveness"]

    def wait_s(self) -> float:
        return 12.3

    def saturation(self) -> float:
        return 0.25

    def check(self, model_id: str | None) -> None:
        if self.refusal is not None:
            raise self.refusal

    @contextmanager
    def admit(self) -> Iterator[None]:
        self.check(None)
        self.num_inside += 1
        try:
            yield
        finally:
            self.num_inside -= 1

    async def prepare(self, card: ModelCard, deadline_s: float) -> None:
        if self.unprepared is not None:
            raise self.unprepared

    async def predict(self, card: ModelCard, sample: Sample, deadline_s: float) -> Prediction:
        self.asked.append((card, sample, deadline_s))
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        query = sample.query
        boxes = self.boxes if query.boxes_xyxy is None else query.boxes_xyxy
        if sample.reserve is not None:
            sample.reserve([region_of(box) for box in boxes])
        instances = tuple(find(card, query, index, box) for index, box in enumerate(boxes))
        return Prediction(sample.image_size_hw, instances, STAGE_SECONDS)


def find(card: ModelCard, query: Query, index: int, box: BoxXYXY) -> Instance:
    """The instance of this index; its samples tell which it is."""
    is_given = query.boxes_xyxy is not None
    class_id = query.class_ids[index] if is_given else 0
    mesh = None
    if card.kind == "cse":
        mesh = query.mesh or card.architecture.class_to_mesh[class_id]
    region = region_of(box)
    maps = {}
    for output in query.outputs:
        maps |= paint(card, output, index, size_hw=(region[3], region[2]))
    score = 1.0 if is_given else 0.9 - 0.1 * index
    return Instance(score, class_id, box, region, mesh, maps)


def paint(card: ModelCard, output: AnyMap, index: int, size_hw: tuple[int, int]) -> dict[str, Map]:
    """One output of one instance; its mask leaves the region's first row and column off."""
    mask_hw = np.full(size_hw, 255, np.uint8)
    mask_hw[0], mask_hw[:, 0] = 0, 0
    is_on_hw = mask_hw > 0
    if output is Output.CONFIDENCE:
        quantized_hw = np.uint16(100 + index) * is_on_hw
        fields = (*card.architecture.confidence_fields, "u_std", "v_std")
        return {f"confidence.{name}": Map(quantized_hw, 0.5, 0.25) for name in fields}
    if output is Output.EMBEDDING:
        return {
            "embedding": Map(np.full((16, 112, 112), index, np.float16)),
            "coarse_logits": Map(np.full((2, 112, 112), index, np.float16)),
        }
    if output is Output.TEXTURE:
        return {"texture": Map(np.full((1200, 800, 4), index, np.uint8))}
    if output is RawMap.CONFIDENCE:
        fields = card.architecture.confidence_fields
        raw_hw = np.float32(-30 + index) * is_on_hw
        return {f"{output}.{name}": Map(raw_hw.astype(np.float32)) for name in fields}
    if output in {Output.UV, RawMap.UV}:
        return {output.value: Map(np.array([0.25, 0.5], np.float32)[:, None, None] * is_on_hw)}
    on_the_body = {
        Output.IUV: np.array([index + 1, 10, 20], np.uint8),
        Output.IUV16: np.array([index + 1, 1000, 2000], np.uint16),
        Output.LABELS: np.uint8(index + 1),
        Output.COARSE: np.uint8(index + 1),
        Output.MASK: np.uint8(255),
        Output.VERTICES: np.uint16(1000 + index),
        Output.VERTEX_COLOURS: np.array([index + 1, 128, 255], np.uint8),
    }[output]
    is_on = is_on_hw if on_the_body.ndim == 0 else is_on_hw[..., None]
    return {output.value: Map(on_the_body * is_on)}
