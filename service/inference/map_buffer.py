"""One piece of device memory for many maps, so that they cross to the host at once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.datatypes import RegionXYWH
from service.inference.transfer import to_host

MapLayout: TypeAlias = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
# Every map begins at a multiple of this, as the largest sample asks.
ALIGNMENT = 16


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
