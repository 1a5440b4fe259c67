"""A device side without a device: it finds what it is told to, and paints maps that are known."""

import asyncio
from dataclasses import dataclass, field

import numpy as np

from model_store.catalogue import ModelCard
from service.datatypes import BoxXYXY, Instance, Map, Output, Prediction, Query, Sample, region_of

STAGE_SECONDS = {"queue": 0.001, "preprocess": 0.002, "network": 0.003, "postprocess": 0.004}
FIRST_BOX = (1.25, 2.5, 5.75, 8.0)
SECOND_BOX = (4.0, 4.0, 7.5, 9.5)


@dataclass
class StandIn:
    """Answers every request alike; notes what it was asked."""

    boxes: tuple[BoxXYXY, ...] = (FIRST_BOX, SECOND_BOX)
    error: Exception | None = None
    delay_s: float = 0.0
    asked: list[tuple[ModelCard, Sample, float]] = field(default_factory=list)
    num_cancelled: int = 0

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


def paint(card: ModelCard, output: Output, index: int, size_hw: tuple[int, int]) -> dict[str, Map]:
    """One output of one instance; its mask leaves the region's first row and column off."""
    mask_hw = np.full(size_hw, 255, np.uint8)
    mask_hw[0], mask_hw[:, 0] = 0, 0
    is_on_hw = mask_hw > 0
    match output:
        case Output.IUV:
            samples = np.array([index + 1, 10, 20], np.uint8) * is_on_hw[..., None]
        case Output.IUV16:
            samples = np.array([index + 1, 1000, 2000], np.uint16) * is_on_hw[..., None]
        case Output.LABELS | Output.COARSE:
            samples = np.uint8(index + 1) * is_on_hw
        case Output.MASK:
            samples = mask_hw
        case Output.VERTICES:
            samples = np.uint16(1000 + index) * is_on_hw
        case Output.CONFIDENCE:
            quantized_hw = np.uint16(100 + index) * is_on_hw
            fields = (*card.architecture.confidence_fields, "u_std", "v_std")
            return {f"confidence.{name}": Map(quantized_hw, 0.5, 0.25) for name in fields}
        case Output.EMBEDDING:
            return {
                "embedding": Map(np.full((16, 112, 112), index, np.float16)),
                "coarse_logits": Map(np.full((2, 112, 112), index, np.float16)),
            }
    return {output.value: Map(samples)}
