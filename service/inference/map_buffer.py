"""The maps of a batch: one piece of memory on the device, and each instance's own on the host.

They cross to the host at once.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.datatypes import COARSE_LOGITS, AnyMap, Map, Output, Query, RawMap, RegionXYWH, SizeHW
from service.inference.devices import to_host

MapLayout: TypeAlias = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
# Every map begins at a multiple of this, as the largest sample asks.
ALIGNMENT = 16
# Beside the outputs' own maps.
CONFIDENCE_RANGES = "confidence_ranges"
# Of confidences: sample 0 is off the body, so that their least value is 1.
QUANTIZED_MIN, QUANTIZED_MAX = 1, 65535
# Of a map, at once.
MAX_PIXELS = 2**18


@dataclass(frozen=True, slots=True)
class Chunk:
    """The instances that are painted together, and where their part of the maps begins."""

    regions: Sequence[RegionXYWH]
    meshes: Sequence[str | None]
    first_instance: int
    first_pixel: int
    max_tile_pixels: int

    @property
    def instances(self) -> slice:
        """Their place among the batch's instances."""
        return slice(self.first_instance, self.first_instance + len(self.regions))

    def place(self, pixels: slice) -> slice:
        """The place of some of the chunk's pixels among the batch's."""
        return slice(self.first_pixel + pixels.start, self.first_pixel + pixels.stop)


def spread(values: Tensor, pixel_B: Tensor, out: Tensor, *, dim: int = 0) -> None:
    """Give some of a map's pixels, which lie along a dimension, these values, and all others 0."""
    if out.dtype is torch.uint16:  # that operator has it signed only
        values, out = values.view(torch.int16), out.view(torch.int16)
    out.zero_().index_copy_(dim, pixel_B, values)


def num_bytes(layout: MapLayout) -> int:
    """What the maps take together."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in layout.values())


class MapBuffer:
    """Named arrays side by side in one uint8 tensor."""

    def __init__(self, layout: MapLayout, device: torch.device) -> None:
        self._slots: dict[str, tuple[int, tuple[int, ...], torch.dtype]] = {}
        end = 0
        for name, (shape, dtype) in layout.items():
            self._slots[name] = (end, shape, dtype)
            end += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self._bytes = torch.empty(end, dtype=torch.uint8, device=device)

    def __contains__(self, name: str) -> bool:
        return name in self._slots

    def __getitem__(self, name: str) -> Tensor:
        return self._view(self._bytes, name)

    def to_host(self) -> dict[str, NDArray[np.generic]]:
        """All arrays in host memory, by one copy; waits for the device."""
        host_bytes = to_host(self._bytes)
        return {name: self._view(host_bytes, name).numpy() for name in self._slots}

    def _view(self, buffer: Tensor, name: str) -> Tensor:
        start, shape, dtype = self._slots[name]
        stop = start + math.prod(shape) * dtype.itemsize
        return buffer[start:stop].view(dtype).view(shape)


class MapReader:
    """Reads image after image, instance after instance; the maps are views of the arrays.

    `textures` has those of the instances of whose images textures were asked for.
    """

    def __init__(
        self,
        arrays: Mapping[str, NDArray[Any]],
        confidence_names: Sequence[str],
        textures: Iterable[NDArray[np.uint8]] = (),
    ) -> None:
        self._arrays = arrays
        self._confidence_names = confidence_names
        self._textures = iter(textures)
        self._instance = 0
        self._pixel = 0

    def read(self, regions: Sequence[RegionXYWH], query: Query) -> list[dict[str, Map]]:
        """The maps that the query asks for, of each of the next image's instances."""
        instances = []
        for _, _, width, height in regions:
            pixels = slice(self._pixel, self._pixel + width * height)
            maps: dict[str, Map] = {}
            for output in sorted(query.outputs):
                maps |= self._maps(output, pixels, (height, width))
            instances.append(maps)
            self._instance += 1
            self._pixel = pixels.stop
        if query.is_confidence_range_shared:
            return _share_ranges(instances)
        return instances

    def _maps(self, output: AnyMap, pixels: slice, size_hw: SizeHW) -> dict[str, Map]:
        match output:
            case Output.CONFIDENCE:
                return self._confidences(pixels, size_hw)
            case RawMap.CONFIDENCE:
                # The derived ones come behind the head's own, and are none of them.
                pairs = zip(self._confidence_names, self._arrays[output], strict=False)
                return {
                    f"{output}.{name}": Map(own[pixels].reshape(size_hw)) for name, own in pairs
                }
            case Output.EMBEDDING:
                names = (str(output), COARSE_LOGITS)
                return {name: Map(self._arrays[name][self._instance]) for name in names}
            case Output.TEXTURE:
                return {str(output): Map(next(self._textures))}
            case Output.UV | RawMap.UV:
                return {str(output): Map(self._arrays[output][:, pixels].reshape(2, *size_hw))}
        samples = self._arrays[output][pixels]
        return {str(output): Map(samples.reshape(*size_hw, *samples.shape[1:]))}

    def _confidences(self, pixels: slice, size_hw: SizeHW) -> dict[str, Map]:
        maps = {}
        for index, name in enumerate(self._confidence_names):
            low, high = self._arrays[CONFIDENCE_RANGES][:, self._instance, index].tolist()
            if not np.isfinite(high - low):  # nothing of the instance is body
                low = high = 0.0
            samples = self._arrays[Output.CONFIDENCE][index, pixels].reshape(size_hw)
            maps[f"{Output.CONFIDENCE}.{name}"] = _quantized(samples, low, high)
        return maps


def _quantized(samples: NDArray[Any], low: float, high: float) -> Map:
    """The map of samples whose least value stands for `low`, and whose greatest for `high`."""
    scale = (high - low) / (QUANTIZED_MAX - QUANTIZED_MIN)
    return Map(samples, scale, low - QUANTIZED_MIN * scale)


def _span(map_: Map) -> tuple[float, float]:
    """What the least and the greatest quantized sample stand for."""
    scale, offset = map_.scale or 0.0, map_.offset or 0.0
    return offset + QUANTIZED_MIN * scale, offset + QUANTIZED_MAX * scale


def _share_ranges(instances: list[dict[str, Map]]) -> list[dict[str, Map]]:
    """The same maps with one scale and offset per confidence; they must have masks."""
    bodies = [maps[Output.MASK].samples.reshape(-1) for maps in instances]
    shared = [dict(maps) for maps in instances]
    for name in {name for maps in instances for name in maps if name.startswith("confidence.")}:
        spans = [
            _span(maps[name]) for maps, body in zip(instances, bodies, strict=True) if body.any()
        ]
        low = min((least for least, _ in spans), default=0.0)
        high = max((greatest for _, greatest in spans), default=0.0)
        step = (high - low) / (QUANTIZED_MAX - QUANTIZED_MIN) or 1.0
        for maps, body in zip(shared, bodies, strict=True):
            own = maps[name]
            # Piece by piece and in place, as in floats a large map takes several times its room.
            samples = own.samples.reshape(-1)
            for first in range(0, len(samples), MAX_PIXELS):
                here = slice(first, first + MAX_PIXELS)
                values = (own.offset or 0.0) + (own.scale or 0.0) * samples[here].astype(np.float64)
                steps = QUANTIZED_MIN + ((values - low) / step).round()
                samples[here] = steps.clip(QUANTIZED_MIN, QUANTIZED_MAX) * (body[here] > 0)
            maps[name] = _quantized(own.samples, low, high)
    return shared
