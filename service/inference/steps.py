"""The network's steps for one batch: launched kernel by kernel, or replayed from graphs.

Shape letters: N images, H W = their padded height and width, R boxes of all images, P = side of
what the DensePose head reads, C channels, D rows of the detector for each image.
"""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from service.datatypes import Sample, SizeHW
from service.inference.detection import Found, detector_inputs, find_boxes, read_boxes, to_search
from service.inference.devices import to_device, to_host, traits_of
from service.inference.graphs import GraphCache, GraphCapture
from service.network.densepose_head import HeadOutput
from service.network.rcnn import DensePoseRCNN

# Of the B, G and R channel over ImageNet. detectron2/config/defaults.py: MODEL.PIXEL_MEAN
PIXEL_MEAN_BGR = (103.53, 116.28, 123.675)
# Of all captured batches together; their features take about 80 bytes per pixel in half precision.
MAX_CAPTURED_PIXELS = 2**26
MAX_CAPTURED_HEADS = 32
# Boxes that the head is captured for; others are made up to the next of them, by a third at most.
HEAD_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)

Fields: TypeAlias = tuple[str, ...]


class NetworkSteps:
    """A network whose batches of frequent shapes are replayed, where its device captures graphs."""

    def __init__(
        self,
        network: DensePoseRCNN,
        device: torch.device,
        dtype: torch.dtype,
        capture: GraphCapture | None,
    ) -> None:
        self._network = network
        self._device = device
        self._dtype = dtype
        self._batches: GraphCache[tuple[int, SizeHW], CapturedBatch] | None = None
        self._heads: GraphCache[tuple[int, Fields], CapturedHead] | None = None
        if capture is None:
            return
        self._batches = GraphCache(
            lambda shape: CapturedBatch(network, *shape, device, dtype, capture),
            weigh=lambda shape: shape[0] * shape[1][0] * shape[1][1],
            capacity=MAX_CAPTURED_PIXELS,
        )
        self._heads = GraphCache(
            lambda shape: CapturedHead(network, *shape, device, dtype, capture),
            weigh=lambda _: 1,
            capacity=MAX_CAPTURED_HEADS,
        )

    def begin(self, samples: Sequence[Sample]) -> "EagerBatch | CapturedBatch":
        """The batch, its pictures on their way to the device."""
        if self._batches is not None:
            captured = self._batches.find((len(samples), samples[0].padded_size_hw))
            if captured is not None:
                return captured.load(samples)
        return EagerBatch(self._network, samples, self._device, self._dtype)

    def describe(self, fused: list[Tensor], rois_R5: Tensor, fields: Fields) -> HeadOutput:
        """The DensePose head's named outputs for each box; they hold until the next call."""
        if self._heads is None:
            return self._network.describe(fused, rois_R5, fields)
        pooled_RCPP = self._network.roi_heads.densepose_pooler(fused, rois_R5)
        size = next((size for size in HEAD_SIZES if size >= len(rois_R5)), None)
        head = None if size is None else self._heads.find((size, fields))
        if head is None:
            return self._network.describe_pooled(pooled_RCPP, fields)
        return head.describe(pooled_RCPP)

    def capture(self, num_images: int, padded_size_hw: SizeHW, fields: Fields) -> None:
        """Capture the steps of such batches, and the heads of all sizes, where this device can."""
        if self._batches is not None and self._heads is not None:
            self._batches.add((num_images, padded_size_hw))
            for size in HEAD_SIZES:
                self._heads.add((size, fields))

    def free_graphs(self) -> None:
        """Give the memory of all graphs back; they are captured anew when they are worth it."""
        for graphs in (self._batches, self._heads):
            if graphs is not None:
                graphs.clear()


class EagerBatch:
    """A batch of any shape, kernel by kernel: first its boxes, then what the head reads."""

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


class CapturedBatch:
    """All batches of one shape, one after the other, on tensors that stay where they are."""

    def __init__(
        self,
        network: DensePoseRCNN,
        num_images: int,
        padded_size_hw: SizeHW,
        device: torch.device,
        dtype: torch.dtype,
        capture: GraphCapture,
    ) -> None:
        shape = (num_images, *padded_size_hw, 3)
        is_pinned = traits_of(device).is_asynchronous
        self._staging_NHW3 = torch.zeros(shape, dtype=torch.uint8, pin_memory=is_pinned)
        # What is captured names these, and not the batch, which would never be freed then.
        pixels_NHW3 = torch.zeros(shape, dtype=torch.uint8, device=device)
        sizes_N2 = torch.tensor([padded_size_hw] * num_images, dtype=torch.float32, device=device)
        min_scores_N = torch.ones(num_images, device=device)
        mean_3 = pixel_mean(device)
        self._pixels_NHW3, self._sizes_N2 = pixels_NHW3, sizes_N2
        self._min_scores_N = min_scores_N
        self._extract = capture(
            "extract", lambda: network.extract(normalise(pixels_NHW3, sizes_N2, mean_3, dtype))
        )
        # In turn, as each reads what the one before it wrote.
        pyramid = self._extract()
        self._detect = capture("detect", lambda: network.detect(pyramid, sizes_N2, min_scores_N))

        def fuse() -> list[Tensor]:
            return network.fuse(pyramid)

        # Without a decoder there is nothing to capture.
        has_decoder = not isinstance(network.roi_heads.decoder, nn.Identity)
        self._fuse = capture("fuse", fuse) if has_decoder else fuse

    def load(self, samples: Sequence[Sample]) -> "CapturedBatch":
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
        searched = to_search(self._samples)
        rows_ND6 = to_host(self._detect()) if searched else ()
        return read_boxes(self._samples, {index: rows_ND6[index] for index in searched})

    def fuse(self) -> list[Tensor]:
        """The maps that the DensePose head reads."""
        return self._fuse()


class CapturedHead:
    """The DensePose head for so many boxes or fewer, on tensors that stay where they are."""

    def __init__(
        self,
        network: DensePoseRCNN,
        num_boxes: int,
        fields: Fields,
        device: torch.device,
        dtype: torch.dtype,
        capture: GraphCapture,
    ) -> None:
        side = network.roi_heads.densepose_pooler.resolution
        shape = (num_boxes, network.backbone.channels, side, side)
        pooled_RCPP = torch.zeros(shape, dtype=dtype, device=device)
        pooled_RCPP = pooled_RCPP.contiguous(memory_format=torch.channels_last)
        self._pooled_RCPP = pooled_RCPP
        self._describe = capture("head", lambda: network.describe_pooled(pooled_RCPP, fields))

    def describe(self, pooled_RCPP: Tensor) -> HeadOutput:
        """What the head says of these boxes, however many were captured."""
        self._pooled_RCPP[: len(pooled_RCPP)].copy_(pooled_RCPP)
        raw = self._describe()
        return HeadOutput(raw.values_RCSS[: len(pooled_RCPP)], raw.channels)


def pixel_mean(device: torch.device) -> Tensor:
    """The mean [3] of B, G and R."""
    return to_device(torch.tensor(PIXEL_MEAN_BGR), device)


def stack_samples(samples: Sequence[Sample], device: torch.device, dtype: torch.dtype) -> Tensor:
    """[N, 3, H, W] on the device: mean subtracted, padded with 0 at the right and the bottom.

    Channels last in memory.
    """
    height, width = samples[0].padded_size_hw
    batch_NHW3 = torch.zeros(len(samples), height, width, 3, device=device)
    mean_3 = pixel_mean(device)
    for image_HW3, sample in zip(batch_NHW3, samples, strict=True):
        pixels_hw3 = to_device(torch.as_tensor(sample.pixels_hw3), device)
        h, w = pixels_hw3.shape[:2]
        image_HW3[:h, :w] = pixels_hw3 - mean_3
    return batch_NHW3.permute(0, 3, 1, 2).to(dtype)


def write_samples(samples: Sequence[Sample], out_NHW3: Tensor) -> None:
    """Write the pictures into the corners of these; what lies beside them stays as it was."""
    for image_HW3, sample in zip(out_NHW3, samples, strict=True):
        pixels_hw3 = torch.as_tensor(sample.pixels_hw3)
        image_HW3[: pixels_hw3.shape[0], : pixels_hw3.shape[1]] = pixels_hw3


def normalise(pixels_NHW3: Tensor, sizes_N2: Tensor, mean_3: Tensor, dtype: torch.dtype) -> Tensor:
    """What `stack_samples` gives, of pictures of these heights and widths that lie in the corners.

    Nothing in it depends on the sizes but the values, so that it can be captured.
    """
    device = pixels_NHW3.device
    is_row_NH = torch.arange(pixels_NHW3.shape[1], device=device) < sizes_N2[:, :1]
    is_column_NW = torch.arange(pixels_NHW3.shape[2], device=device) < sizes_N2[:, 1:]
    is_inside_NHW1 = is_row_NH[:, :, None, None] & is_column_NW[:, None, :, None]
    images_NHW3 = (pixels_NHW3 - mean_3).masked_fill(~is_inside_NHW1, 0.0)
    return images_NHW3.permute(0, 3, 1, 2).to(dtype)
