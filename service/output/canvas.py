"""The maps of all instances, painted into one map per output over the whole image."""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import DTypeLike

from service.datatypes import Instance, Map, Output, Prediction, RegionXYWH, SizeHW
from service.output.placement import Grid
from service.output.strips import mask_of, strips_of

_CHANNELS_AND_TYPE: Mapping[Output, tuple[tuple[int, ...], DTypeLike]] = {
    Output.IUV: ((3,), np.uint8),
    Output.IUV16: ((3,), np.uint16),
    Output.LABELS: ((), np.uint8),
    Output.COARSE: ((), np.uint8),
    Output.MASK: ((), np.uint8),
    Output.VERTICES: ((), np.uint16),
    Output.VERTEX_COLOURS: ((3,), np.uint8),
}


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
    if covers_image([one.region_xywh for one in prediction.instances], size_hw):
        (only,) = prediction.instances
        own = {name: map_ for name, map_ in only.maps.items() if name in shared & {*outputs}}
        return own | _paint_maps(prediction, {*outputs} - own.keys())
    return _paint_maps(prediction, outputs)


def covers_image(regions: Sequence[RegionXYWH], image_size_hw: SizeHW) -> bool:
    """Whether there is one region alone, and it is the whole image."""
    return list(regions) == [(0, 0, image_size_hw[1], image_size_hw[0])]


def _paint_maps(prediction: Prediction, outputs: Collection[Output]) -> dict[str, Map]:
    size_hw = prediction.image_size_hw
    grid = Grid(size_hw, size_hw)
    canvases = {
        output.value: Map(np.zeros((*size_hw, *channels), dtype))
        for output, (channels, dtype) in _CHANNELS_AND_TYPE.items()
        if output in outputs
    }
    if Output.UV in outputs:
        canvases[Output.UV.value] = Map(np.zeros((2, *size_hw), np.float32))
    for instance in prediction.instances:
        for name, map_ in instance.maps.items():
            if name.partition(".")[0] in outputs:
                if name not in canvases:
                    blank = np.zeros(size_hw, map_.samples.dtype)
                    canvases[name] = Map(blank, map_.scale, map_.offset)
                if (map_.scale, map_.offset) != (canvases[name].scale, canvases[name].offset):
                    raise ValueError(f"The instances' ranges of {name} differ.")
        for strip in strips_of(instance):
            for name in strip.maps.keys() & canvases.keys():
                _paint(name, strip, canvases[name], grid)
    return canvases


def _paint(name: str, instance: Instance, canvas: Map, grid: Grid) -> None:
    """Copy the samples that the instance's mask lets through to their place on the canvas."""
    place, mask_hw = grid.place(instance.region_xywh), mask_of(instance)
    samples = instance.maps[name].samples
    if name == Output.UV:
        for plane_HW, plane_hw in zip(canvas.samples, samples, strict=True):
            place.paint(plane_HW, plane_hw, mask_hw)
    else:
        place.paint(canvas.samples, samples, mask_hw)
