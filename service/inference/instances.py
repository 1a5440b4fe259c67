"""The maps of a batch, on the host, cut into those of each instance."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.datatypes import AnyMap, Map, Output, Query, RawMap, RegionXYWH, SizeHW
from service.inference.chart_maps import CONFIDENCE_RANGES, QUANTIZED_MAX, QUANTIZED_MIN
from service.inference.embedding_maps import COARSE_LOGITS


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


def _share_ranges(instances: list[dict[str, Map]]) -> list[dict[str, Map]]:
    """The same maps with one scale and offset per confidence; they must have masks."""
    bodies = [maps[Output.MASK].samples > 0 for maps in instances]
    shared = [dict(maps) for maps in instances]
    for name in {name for maps in instances for name in maps if name.startswith("confidence.")}:
        values = [maps[name].values() for maps in instances]
        on_bodies = [own[is_body] for own, is_body in zip(values, bodies, strict=True)]
        low = min((float(own.min()) for own in on_bodies if own.size), default=0.0)
        high = max((float(own.max()) for own in on_bodies if own.size), default=0.0)
        span = (high - low) or 1.0
        for maps, own, is_body in zip(shared, values, bodies, strict=True):
            steps = (own.astype(np.float64) - low) / span * (QUANTIZED_MAX - QUANTIZED_MIN)
            samples = (QUANTIZED_MIN + steps.round()) * is_body
            maps[name] = _quantized(samples.astype(np.uint16), low, high)
    return shared
