"""Instances cut into strips, so that what is worked out of a map is never as large as the map."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.datatypes import Instance, Map, Output, RawMap

# Of a strip; one row may have more, as a picture may be one row.
MAX_PIXELS = 2**18
# Maps that say by their own samples, or by the first channel of them, which pixels are body: those
# that are not 0. The first that is there is asked.
TELLING = (Output.LABELS, Output.IUV, Output.IUV16, Output.VERTICES)


def strips_of(instance: Instance) -> Iterator[Instance]:
    """The instance from top to bottom, in parts that are instances; the samples are views.

    Maps that are not of the region's pixels stay as they are.
    """
    _, _, width, height = instance.region_xywh
    num_rows = max(MAX_PIXELS // width, 1)
    for top in range(0, height, num_rows):
        for left in range(0, width, MAX_PIXELS):
            yield _part(instance, slice(top, top + num_rows), slice(left, left + MAX_PIXELS))


def column_strips_of(instance: Instance) -> Iterator[Instance]:
    """The same from left to right, and in a column from top to bottom."""
    _, _, width, height = instance.region_xywh
    num_columns = max(MAX_PIXELS // height, 1)
    for left in range(0, width, num_columns):
        for top in range(0, height, MAX_PIXELS):
            yield _part(instance, slice(top, top + MAX_PIXELS), slice(left, left + num_columns))


def mask_of(instance: Instance) -> NDArray[np.uint8]:
    """255 on the body, uint8 [h, w]: the map `mask`, or what another one tells.

    Raises:
        ValueError: no map does.
    """
    if Output.MASK in instance.maps:
        return np.asarray(instance.maps[Output.MASK].samples, np.uint8)
    for output in (*TELLING, Output.COARSE):
        if output in instance.maps:
            samples = instance.maps[output].samples
            is_body = (samples if samples.ndim == 2 else samples[..., 0]) > 0
            return np.asarray(is_body.view(np.uint8) * np.uint8(255))
    raise ValueError("No map tells which pixels are body.")


def _part(instance: Instance, rows: slice, columns: slice) -> Instance:
    x, y, width, height = instance.region_xywh
    region = (
        x + columns.start,
        y + rows.start,
        min(columns.stop, width) - columns.start,
        min(rows.stop, height) - rows.start,
    )
    maps = {
        name: replace(map_, samples=_cut(name, map_, rows, columns))
        for name, map_ in instance.maps.items()
    }
    return replace(instance, region_xywh=region, maps=maps)


def _cut(name: str, map_: Map, rows: slice, columns: slice) -> NDArray[Any]:
    if name in {Output.TEXTURE, Output.EMBEDDING, "coarse_logits"}:
        return map_.samples
    if name in {Output.UV, RawMap.UV}:
        return map_.samples[:, rows, columns]
    return map_.samples[rows, columns]
