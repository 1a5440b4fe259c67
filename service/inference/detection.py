"""Which boxes of a batch are to be described: the detector's, or the client's own.

Shape letters: N images, B boxes of one image, D rows for each image that the detector sees.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from service.datatypes import BoxXYXY, RegionXYWH, Sample, SizeHW, region_of
from service.inference.devices import to_device, to_host
from service.network.faster_rcnn import NO_SCORE, are_boxes, clip
from service.network.rcnn import DensePoseRCNN


@dataclass(frozen=True, slots=True)
class Found:
    """The boxes of one image, all on the host.

    `network_boxes_B4` are float32 in the network's input's pixels, `boxes_xyxy` in those of the
    client's image.
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
    """The boxes of each image; the detector sees only those images that need it.

    The one time that the host waits before boxes are described.
    """
    searched, device = to_search(samples), pyramid[0].device
    if not searched:
        return read_boxes(samples, {})
    levels = pyramid
    if len(searched) < len(samples):
        levels = [level[searched] for level in pyramid]
    sizes_N2, min_scores_N = detector_inputs([samples[index] for index in searched])
    rows_ND6 = to_host(
        network.detect(levels, to_device(sizes_N2, device), to_device(min_scores_N, device))
    )
    return read_boxes(samples, dict(zip(searched, rows_ND6, strict=True)))


def to_search(samples: Sequence[Sample]) -> list[int]:
    """The indices of the images whose boxes are not given."""
    return [index for index, sample in enumerate(samples) if sample.query.boxes_xyxy is None]


def detector_inputs(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """The sizes [N, 2] of the pictures that the network sees, and the least scores [N]; float32."""
    sizes = [sample.pixels_hw3.shape[:2] for sample in samples]
    scores = [sample.query.min_score for sample in samples]
    return torch.tensor(sizes, dtype=torch.float32), torch.tensor(scores, dtype=torch.float32)


def read_boxes(samples: Sequence[Sample], rows_of: Mapping[int, Tensor]) -> list[Found]:
    """The boxes of each image, given or among its rows on the host; grown as the query says.

    `rows_of` has those of `DensePoseRCNN.detect`, by the image's index.
    """
    return [
        _expand(_detected(rows_of[i], sample) if i in rows_of else _given(sample), sample)
        for i, sample in enumerate(samples)
    ]


def _given(sample: Sample) -> Found:
    boxes = list(sample.query.boxes_xyxy or ())
    return Found(
        _to_network(boxes, sample),
        boxes,
        [1.0] * len(boxes),
        list(sample.query.class_ids),
    )


def _expand(found: Found, sample: Sample) -> Found:
    """The same with boxes that grew around their centres by the share that the query names."""
    share = sample.query.box_expand
    if not share:
        return found
    boxes = [_grow(box, share, sample.image_size_hw) for box in found.boxes_xyxy]
    return replace(found, network_boxes_B4=_to_network(boxes, sample), boxes_xyxy=boxes)


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


def _to_network(boxes: Sequence[BoxXYXY], sample: Sample) -> Tensor:
    """Boxes in the image's pixels as float32 [B, 4] in those of the network's input."""
    scale_4 = 1 / torch.tensor(_to_image_scale(sample), dtype=torch.float64)
    return (torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4) * scale_4).float()


def _detected(rows_D6: Tensor, sample: Sample) -> Found:
    num_found = int((rows_D6[:, 4] != NO_SCORE).sum())
    rows_B6 = rows_D6[: min(num_found, sample.query.max_instances)]
    scale_4 = rows_B6.new_tensor(_to_image_scale(sample))
    boxes_B4 = clip(rows_B6[:, :4] * scale_4, torch.tensor(sample.image_size_hw))
    # Rounding can leave a sliver outside the image.
    is_box_B = are_boxes(boxes_B4)
    rows_B6 = rows_B6[is_box_B]
    return Found(
        rows_B6[:, :4],
        [(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes_B4[is_box_B].tolist()],
        rows_B6[:, 4].tolist(),
        [int(class_id) for class_id in rows_B6[:, 5].tolist()],
    )


def _to_image_scale(sample: Sample) -> tuple[float, float, float, float]:
    image_height, image_width = sample.image_size_hw
    height, width = sample.pixels_hw3.shape[:2]
    return (image_width / width, image_height / height) * 2
