"""The maps of a batch, on the host, cut into those of each instance."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.datatypes import Map, Output, Query, RegionXYWH
from service.inference.chart_maps import CONFIDENCE_RANGES, QUANTIZED_MAX
from service.inference.embedding_maps import COARSE_LOGITS

# Of a map, at once.
MAX_PIXELS = 2**18


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
                if output is Output.CONFIDENCE:
                    maps |= self._confidences(pixels, (height, width))
                elif output is Output.EMBEDDING:
                    for name in (Output.EMBEDDING, COARSE_LOGITS):
                        maps[str(name)] = Map(self._arrays[name][self._instance])
                elif output is Output.TEXTURE:
                    maps[str(output)] = Map(next(self._textures))
                elif output is Output.UV:
                    maps[str(output)] = Map(
                        self._arrays[output][:, pixels].reshape(2, height, width)
                    )
                else:
                    samples = self._arrays[output][pixels]
                    maps[str(output)] = Map(samples.reshape(height, width, *samples.shape[1:]))
            instances.append(maps)
            self._instance += 1
            self._pixel = pixels.stop
        if query.is_confidence_range_shared:
            return _share_ranges(instances)
        return instances

    def _confidences(self, pixels: slice, size_hw: tuple[int, int]) -> dict[str, Map]:
        maps = {}
        for index, name in enumerate(self._confidence_names):
            low, high = self._arrays[CONFIDENCE_RANGES][:, self._instance, index].tolist()
            if not np.isfinite(high - low):  # nothing of the instance is body
                low = high = 0.0
            samples = self._arrays[Output.CONFIDENCE][index, pixels].reshape(size_hw)
            maps[f"{Output.CONFIDENCE}.{name}"] = Map(samples, (high - low) / QUANTIZED_MAX, low)
        return maps


def _share_ranges(instances: list[dict[str, Map]]) -> list[dict[str, Map]]:
    """The same maps with one scale and offset per confidence; they must have masks."""
    bodies = [maps[Output.MASK].samples.reshape(-1) for maps in instances]
    shared = [dict(maps) for maps in instances]
    for name in {name for maps in instances for name in maps if name.startswith("confidence.")}:
        spans = [
            (maps[name].offset or 0.0, maps[name].scale or 0.0)
            for maps, body in zip(instances, bodies, strict=True)
            if body.any()
        ]
        low = min((offset for offset, _ in spans), default=0.0)
        high = max((offset + QUANTIZED_MAX * scale for offset, scale in spans), default=0.0)
        step = (high - low) / QUANTIZED_MAX
        for maps, body in zip(shared, bodies, strict=True):
            own = maps[name]
            # Piece by piece and in place, as in floats a large map takes several times its room.
            samples = own.samples.reshape(-1)
            for first in range(0, len(samples), MAX_PIXELS):
                here = slice(first, first + MAX_PIXELS)
                values = (own.offset or 0.0) + (own.scale or 0.0) * samples[here].astype(np.float64)
                samples[here] = ((values - low) / (step or 1.0)).round() * (body[here] > 0)
            maps[name] = Map(own.samples, step, low)
    return shared
