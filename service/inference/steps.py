"""The network's steps for one batch: launched kernel by kernel, or replayed from recordings.

Shape letters: N images, H W = their padded height and width, R boxes of all images, P = side of
what the DensePose head reads, C channels, D rows of the detector for each image.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from service.datatypes import Sample, SizeHW
from service.inference.detection import Found, detector_inputs, find_boxes, read_boxes
from service.inference.preprocess import normalise, pixel_mean, stack_samples, write_samples
from service.inference.recorder import Recorder
from service.inference.recordings import Recordings
from service.inference.transfer import to_host
from service.network.densepose_head import HeadOutput
from service.network.rcnn import DensePoseRCNN

# Of all recorded batches together; their features take about 80 bytes per pixel in half precision.
MAX_RECORDED_PIXELS = 2**26
MAX_RECORDED_HEADS = 32
# Boxes that the head is recorded for; others are made up to the next of them, by a third at most.
HEAD_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)

Fields = tuple[str, ...]


class BatchSteps(Protocol):
    """One batch: first its boxes, then what the DensePose head reads, if it has any."""

    def find_boxes(self) -> list[Found]:
        """The boxes of each image; the one time that the host waits before they are described."""
        ...

    def fuse(self) -> list[Tensor]:
        """The maps that the DensePose head reads."""
        ...


class NetworkSteps:
    """A network whose batches of frequent shapes are replayed, where its device can record."""

    def __init__(
        self,
        network: DensePoseRCNN,
        device: torch.device,
        dtype: torch.dtype,
        record: Recorder | None,
    ) -> None:
        self._network = network
        self._device = device
        self._dtype = dtype
        self._batches: Recordings[tuple[int, SizeHW], RecordedBatch] | None = None
        self._heads: Recordings[tuple[int, Fields], RecordedHead] | None = None
        if record is None:
            return
        self._batches = Recordings(
            lambda shape: RecordedBatch(network, *shape, device, dtype, record),
            weigh=lambda shape: shape[0] * shape[1][0] * shape[1][1],
            capacity=MAX_RECORDED_PIXELS,
        )
        self._heads = Recordings(
            lambda shape: RecordedHead(network, *shape, device, dtype, record),
            weigh=lambda _: 1,
            capacity=MAX_RECORDED_HEADS,
        )

    def begin(self, samples: Sequence[Sample]) -> BatchSteps:
        """The batch, its pictures on their way to the device."""
        if self._batches is not None:
            recorded = self._batches.find((len(samples), samples[0].padded_size_hw))
            if recorded is not None:
                return recorded.load(samples)
        return EagerBatch(self._network, samples, self._device, self._dtype)

    def describe(self, fused: list[Tensor], rois_R5: Tensor, fields: Fields) -> HeadOutput:
        """The DensePose head's named outputs for each box; they hold until the next call."""
        if self._heads is None:
            return self._network.describe(fused, rois_R5, fields)
        pooled_RCPP = self._network.roi_heads.densepose_pooler(fused, rois_R5)
        num_boxes = len(rois_R5)
        size = next((size for size in HEAD_SIZES if size >= num_boxes), None)
        head = None if size is None else self._heads.find((size, fields))
        if head is None:
            return self._network.describe_pooled(pooled_RCPP, fields)
        return head.describe(pooled_RCPP)

    def record(self, num_images: int, padded_size_hw: SizeHW, fields: Fields) -> None:
        """Record the steps of such batches, and the heads of all sizes, where this device can."""
        if self._batches is not None and self._heads is not None:
            self._batches.add((num_images, padded_size_hw))
            for size in HEAD_SIZES:
                self._heads.add((size, fields))

    def forget(self) -> None:
        """Give the memory of all recordings back; they are made anew when they are worth it."""
        for recordings in (self._batches, self._heads):
            if recordings is not None:
                recordings.clear()


class EagerBatch:
    """A batch of any shape, kernel by kernel."""

    def __init__(
        self,
        network: DensePoseRCNN,
        samples: Sequence[Sample],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._network = network
        self._samples = samples
        self._images_N3HW = stack_samples(samples, device, dtype)

    def find_boxes(self) -> list[Found]:
        """The boxes of each image; the detector sees only those images that need it."""
        self._pyramid = self._network.extract(self._images_N3HW)
        return find_boxes(self._network, self._pyramid, self._samples)

    def fuse(self) -> list[Tensor]:
        """The maps that the DensePose head reads."""
        return self._network.fuse(self._pyramid)


class RecordedBatch:
    """All batches of one shape, one after the other, on tensors that stay where they are."""

    def __init__(
        self,
        network: DensePoseRCNN,
        num_images: int,
        padded_size_hw: SizeHW,
        device: torch.device,
        dtype: torch.dtype,
        record: Recorder,
    ) -> None:
        shape = (num_images, *padded_size_hw, 3)
        self._staging_NHW3 = torch.zeros(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        # What is recorded names these, and not the batch, which would never be freed then.
        pixels_NHW3 = torch.zeros(shape, dtype=torch.uint8, device=device)
        sizes_N2 = torch.tensor([padded_size_hw] * num_images, dtype=torch.float32, device=device)
        min_scores_N = torch.ones(num_images, device=device)
        mean_3 = pixel_mean(device)
        self._pixels_NHW3, self._sizes_N2 = pixels_NHW3, sizes_N2
        self._min_scores_N = min_scores_N
        self._extract = record(
            "extract", lambda: network.extract(normalise(pixels_NHW3, sizes_N2, mean_3, dtype))
        )
        # In turn, as each reads what the one before it wrote.
        pyramid = self._extract()
        self._detect = record("detect", lambda: network.detect(pyramid, sizes_N2, min_scores_N))
        self._fuse: Callable[[], list[Tensor]] = lambda: network.fuse(pyramid)
        # Without a decoder there is nothing to record.
        if not isinstance(network.roi_heads.decoder, nn.Identity):
            self._fuse = record("fuse", self._fuse)

    def load(self, samples: Sequence[Sample]) -> "RecordedBatch":
        """The same, about these samples from now on."""
        self._samples = samples
        write_samples(samples, self._staging_NHW3)
        self._pixels_NHW3.copy_(self._staging_NHW3, non_blocking=True)
        sizes_N2, min_scores_N = detector_inputs(samples)
        self._sizes_N2.copy_(sizes_N2, non_blocking=True)
        self._min_scores_N.copy_(min_scores_N, non_blocking=True)
        return self

    def find_boxes(self) -> list[Found]:
        """The boxes of each image; the detector sees all images, or none."""
        self._extract()
        return read_boxes(self._samples, self._detect_some)

    def fuse(self) -> list[Tensor]:
        """The maps that the DensePose head reads."""
        return self._fuse()

    def _detect_some(self, searched: Sequence[int]) -> Tensor:
        return to_host(self._detect())[list(searched)]


class RecordedHead:
    """The DensePose head for so many boxes or fewer, on tensors that stay where they are."""

    def __init__(
        self,
        network: DensePoseRCNN,
        num_boxes: int,
        fields: Fields,
        device: torch.device,
        dtype: torch.dtype,
        record: Recorder,
    ) -> None:
        side = network.roi_heads.densepose_pooler.resolution
        shape = (num_boxes, network.backbone.channels, side, side)
        pooled_RCPP = torch.zeros(shape, dtype=dtype, device=device)
        pooled_RCPP = pooled_RCPP.contiguous(memory_format=torch.channels_last)
        self._pooled_RCPP = pooled_RCPP
        self._describe = record("head", lambda: network.describe_pooled(pooled_RCPP, fields))

    def describe(self, pooled_RCPP: Tensor) -> HeadOutput:
        """What the head says of these boxes, however many were recorded."""
        self._pooled_RCPP[: len(pooled_RCPP)].copy_(pooled_RCPP)
        raw = self._describe()
        return HeadOutput(raw.values_RCSS[: len(pooled_RCPP)], raw.channels)
