"""The maps of all instances, painted into one map per output over the whole image."""

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import DTypeLike

from service.datatypes import Instance, Map, Output, Prediction
from service.output.placement import Grid

_CHANNELS_AND_TYPE: Mapping[Output, tuple[tuple[int, ...], DTypeLike]] = {
    Output.IUV: ((3,), np.uint8),
    Output.IUV16: ((3,), np.uint16),
    Output.LABELS: ((), np.uint8),
    Output.COARSE: ((), np.uint8),
    Output.MASK: ((), np.uint8),
    Output.VERTICES: ((), np.uint16),
    Output.VERTEX_COLOURS: ((3,), np.uint8),
}


def paint_maps(prediction: Prediction, outputs: Collection[Output]) -> dict[str, Map]:
    """One map per output, of the size of the image, 0 where no instance is.

    Each instance brings `mask` among its maps, whether or not it is asked for: a later one
    overwrites an earlier one only where its own mask is on. Confidences have one range per field
    over all instances, which the maps keep; without an instance there are none.
    """
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
                _paint(name, map_, instance, canvases[name], grid)
    return canvases


def _paint(name: str, map_: Map, instance: Instance, canvas: Map, grid: Grid) -> None:
    """Copy the samples that the instance's mask lets through to their place on the canvas."""
    if (map_.scale, map_.offset) != (canvas.scale, canvas.offset):
        raise ValueError(f"The instances' ranges of {name} differ.")
    place = grid.place(instance.region_xywh)
    mask_hw = instance.maps[Output.MASK].samples
    if name == Output.UV:
        for plane_HW, plane_hw in zip(canvas.samples, map_.samples, strict=True):
            place.paint(plane_HW, plane_hw, mask_hw)
    else:
        place.paint(canvas.samples, map_.samples, mask_hw)
