"""The maps of a batch, on the host, cut into those of each instance."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.datatypes import AnyMap, Map, Output, Query, RawMap, RegionXYWH, SizeHW
from service.inference.chart_maps import CONFIDENCE_RANGES, QUANTIZED_MAX, QUANTIZED_MIN
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
