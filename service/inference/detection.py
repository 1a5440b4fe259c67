"""Which boxes of a batch are to be described: the detector's, or the client's own.

Shape letters: B boxes of one image, R boxes of all images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from service.datatypes import BoxXYXY, RegionXYWH, Sample, SizeHW, region_of
from service.network.boxes import clip
from service.network.rcnn import DensePoseRCNN


@dataclass(frozen=True, slots=True)
class Found:
    """The boxes of one image: in the network's input's pixels on the device, the rest on the host.

    `boxes_xyxy` are in the client's image's pixels.
    """

    network_boxes_B4: Tensor
    boxes_xyxy: list[BoxXYXY]
    scores: list[float]
    class_ids: list[int | None]

    @property
    def regions(self) -> list[RegionXYWH]:
        """The whole pixels that the maps of each box cover."""
        return [region_of(box) for box in self.boxes_xyxy]


def find_boxes(
    network: DensePoseRCNN, pyramid: list[Tensor], samples: Sequence[Sample]
) -> list[Found]:
    """The boxes of each image; the detector sees only those images that need it."""
    device = pyramid[0].device
    found = {
        index: _given(sample, device)
        for index, sample in enumerate(samples)
        if sample.query.boxes_xyxy is not None
    }
    searched = [index for index in range(len(samples)) if index not in found]
    if searched:
        if found:
            pyramid = [level[searched] for level in pyramid]
        found |= zip(
            searched, _detect(network, pyramid, [samples[i] for i in searched]), strict=True
        )
    return [_expand(found[index], sample, device) for index, sample in enumerate(samples)]


def _given(sample: Sample, device: torch.device) -> Found:
    boxes = list(sample.query.boxes_xyxy or ())
    return Found(
        _to_network(boxes, sample, device),
        boxes,
        [1.0] * len(boxes),
        list(sample.query.class_ids),
    )


def _expand(found: Found, sample: Sample, device: torch.device) -> Found:
    """The same with boxes that grew around their centres by the share that the query names."""
    share = sample.query.box_expand
    if not share:
        return found
    boxes = [_grow(box, share, sample.image_size_hw) for box in found.boxes_xyxy]
    return replace(found, network_boxes_B4=_to_network(boxes, sample, device), boxes_xyxy=boxes)


def _grow(box_xyxy: BoxXYXY, share: float, image_size_hw: SizeHW) -> BoxXYXY:
    x0, y0, x1, y1 = box_xyxy
    height, width = image_size_hw
    dx, dy = (x1 - x0) * share / 2, (y1 - y0) * share / 2
    return (
        max(x0 - dx, 0.0),
        max(y0 - dy, 0.0),
        min(x1 + dx, float(width)),
        min(y1 + dy, float(height)),
    )


def _to_network(boxes: Sequence[BoxXYXY], sample: Sample, device: torch.device) -> Tensor:
    """Boxes in the image's pixels as float32 [B, 4] in those of the network's input."""
    scale_4 = 1 / torch.tensor(_to_image_scale(sample), dtype=torch.float64)
    network_boxes_B4 = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4) * scale_4
    return network_boxes_B4.to(device=device, dtype=torch.float32)


def _detect(
    network: DensePoseRCNN, pyramid: list[Tensor], samples: Sequence[Sample]
) -> list[Found]:
    sizes_hw = [(sample.pixels_hw3.shape[0], sample.pixels_hw3.shape[1]) for sample in samples]
    detected = network.detect(
        pyramid,
        sizes_hw,
        min_scores=[sample.query.min_score for sample in samples],
        max_instances=[sample.query.max_instances for sample in samples],
    )
    rows = []
    for one, sample in zip(detected, samples, strict=True):
        scale_4 = one.boxes_B4.new_tensor(_to_image_scale(sample))
        boxes_B4 = clip(one.boxes_B4 * scale_4, sample.image_size_hw)
        rows.append(torch.cat((boxes_B4, one.scores_B[:, None], one.class_ids_B[:, None]), dim=1))
    # The one time that the host waits for the detector.
    table_R6 = torch.cat(rows).cpu()
    found = []
    for one, rows_B6 in zip(detected, table_R6.split([len(r) for r in rows]), strict=True):
        # Rounding can leave a sliver outside the image.
        kept = torch.nonzero((rows_B6[:, 2] > rows_B6[:, 0]) & (rows_B6[:, 3] > rows_B6[:, 1]))[
            :, 0
        ]
        boxes = (
            one.boxes_B4
            if len(kept) == len(rows_B6)
            else one.boxes_B4[kept.to(one.boxes_B4.device)]
        )
        values = rows_B6[kept].tolist()
        found.append(
            Found(
                boxes,
                [(x0, y0, x1, y1) for x0, y0, x1, y1, _, _ in values],
                [row[4] for row in values],
                [int(row[5]) for row in values],
            )
        )
    return found


def _to_image_scale(sample: Sample) -> tuple[float, float, float, float]:
    image_height, image_width = sample.image_size_hw
    height, width = sample.pixels_hw3.shape[:2]
    return (image_width / width, image_height / height) * 2
