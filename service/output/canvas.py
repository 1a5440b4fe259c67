"""Where the pixels of instances come to lie on a picture, strip by strip, and maps painted so.

What is worked out of a map is never as large as the map: instances are cut into strips first.
"""

from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from service.datatypes import MAPS, Instance, Map, Output, Prediction, RegionXYWH, SizeHW

_Indices: TypeAlias = slice | NDArray[np.intp]

# Of a strip; one row may have more, as a picture may be one row.
MAX_PIXELS = 2**18
# Those that tell the mask; the first that is there is asked.
_TELLING = sorted(
    (output for output in Output if MAPS[output].tells_mask),
    key=lambda output: (len(MAPS[output].tells_more), len(MAPS[output].depth)),
)
# Those that an image can have one of; floats come last.
_PAINTED = sorted(
    (output for output in Output if not (MAPS[output].of_instance or MAPS[output].is_per_field)),
    key=lambda output: len(MAPS[output].planes),
)
_WHOLE = frozenset(name for kind in MAPS.values() for name in kind.of_instance)
_IN_PLANES = frozenset(name for name, kind in MAPS.items() if kind.planes)


@dataclass(frozen=True, slots=True)
class Placement:
    """The picture's rows and columns that show a region, and which of the region's they show."""

    rows: slice
    columns: slice
    source_rows: _Indices
    source_columns: _Indices

    def take(self, samples_hw: NDArray[Any]) -> NDArray[Any]:
        """The region's samples [h, w, ...] as the picture shows them."""
        return samples_hw[self.source_rows][:, self.source_columns]

    def paint(
        self, canvas: NDArray[Any], samples_hw: NDArray[Any], mask_hw: NDArray[np.uint8]
    ) -> None:
        """Copy the region's samples, where its mask is on, to their place on the picture."""
        self.copy(self.take(samples_hw), self.take(mask_hw), canvas)

    def copy(self, samples: NDArray[Any], mask: NDArray[np.uint8], canvas: NDArray[Any]) -> None:
        """The same with samples and mask that were taken already."""
        if mask.size:
            # NumPy's copyto with `where` does the same, 50 times as slowly with three channels.
            cv2.copyTo(samples, mask, canvas[self.rows, self.columns])


@dataclass(frozen=True, slots=True)
class Grid:
    """The pixels of a picture of an image.

    A pixel of the picture shows the pixel of the image that its centre falls into, so that labels
    stay labels, and U and V of one part never mix with another's.
    """

    image_size_hw: SizeHW
    size_hw: SizeHW

    def place(self, region_xywh: RegionXYWH) -> Placement:
        """Where the region lies; what sticks out of the image is cut off."""
        x, y, width, height = region_xywh
        rows, source_rows = _place(y, height, self.image_size_hw[0], self.size_hw[0])
        columns, source_columns = _place(x, width, self.image_size_hw[1], self.size_hw[1])
        return Placement(rows, columns, source_rows, source_columns)


def _place(start: int, length: int, image_side: int, side: int) -> tuple[slice, _Indices]:
    if side == image_side:
        first, stop = min(max(start, 0), side), max(min(start + length, side), 0)
        first = min(first, stop)
        return slice(first, stop), slice(first - start, stop - start)
    shown = (2 * np.arange(side) + 1) * image_side // (2 * side)
    first, stop = np.searchsorted(shown, (start, start + length)).tolist()
    return slice(first, stop), shown[first:stop] - start


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
    for output in _TELLING:
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
    if name in _WHOLE:
        return map_.samples
    if name in _IN_PLANES:
        return map_.samples[:, rows, columns]
    return map_.samples[rows, columns]


def paint_maps(
    prediction: Prediction,
    outputs: Collection[Output],
    shared: AbstractSet[Output] = frozenset(),
) -> dict[str, Map]:
    """One map per output, of the size of the image, 0 where no instance is.

    Each instance brings a map that tells its mask, whether or not it is asked for: a later one
    overwrites an earlier one only where its own mask is on. Confidences have one range per field
    over all instances, which the maps keep; without an instance there are none. Where there is one
    instance, and its region is the image, `shared` are its own maps, and no copies.
    """
    size_hw = prediction.image_size_hw
    own: dict[str, Map] = {}
    if covers_image([one.region_xywh for one in prediction.instances], size_hw):
        (only,) = prediction.instances
        own = {name: map_ for name, map_ in only.maps.items() if name in shared & {*outputs}}
    canvases = {
        output.value: Map(np.zeros((*kind.planes, *size_hw, *kind.depth), kind.dtype))
        for output, kind in ((output, MAPS[output]) for output in _PAINTED)
        if output in outputs and output not in own
    }
    grid = Grid(size_hw, size_hw)
    for instance in prediction.instances:
        for name, map_ in instance.maps.items():
            if name.partition(".")[0] in outputs and name not in own:
                if name not in canvases:
                    blank = np.zeros(size_hw, map_.samples.dtype)
                    canvases[name] = Map(blank, map_.scale, map_.offset)
                if (map_.scale, map_.offset) != (canvases[name].scale, canvases[name].offset):
                    raise ValueError(f"The instances' ranges of {name} differ.")
        for strip in strips_of(instance):
            for name in strip.maps.keys() & canvases.keys():
                _paint(name, strip, canvases[name], grid)
    return own | canvases


def covers_image(regions: Sequence[RegionXYWH], image_size_hw: SizeHW) -> bool:
    """Whether there is one region alone, and it is the whole image."""
    return list(regions) == [(0, 0, image_size_hw[1], image_size_hw[0])]


def _paint(name: str, instance: Instance, canvas: Map, grid: Grid) -> None:
    """Copy the samples that the instance's mask lets through to their place on the canvas."""
    place, mask_hw = grid.place(instance.region_xywh), mask_of(instance)
    samples = instance.maps[name].samples
    if name in _IN_PLANES:
        for plane_HW, plane_hw in zip(canvas.samples, samples, strict=True):
            place.paint(plane_HW, plane_hw, mask_hw)
    else:
        place.paint(canvas.samples, samples, mask_hw)
