"""The resize before the network, bit-equal with detectron2's."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from service.datatypes import Image, SizeHW
from service.errors import InvalidParameter
from service.imaging.picture import LARGE_PIXELS


def resized_size_hw(size_hw: SizeHW, *, short_side: int, long_side: int) -> SizeHW:
    """The size with the shorter side at `short_side`, unless the other one gets over `long_side`.

    detectron2/data/transforms/augmentation_impl.py: ResizeShortestEdge.get_output_shape, in the
    order of its floating-point operations.

    Raises:
        InvalidParameter: a side would have no pixel.
    """
    height, width = size_hw
    scale = float(short_side) / min(height, width)
    if height < width:
        new_height, new_width = float(short_side), scale * width
    else:
        new_height, new_width = scale * height, float(short_side)
    if max(new_height, new_width) > long_side:
        scale = float(long_side) / max(new_height, new_width)
        new_height *= scale
        new_width *= scale
    resized = int(new_height + 0.5), int(new_width + 0.5)
    if 0 in resized:
        raise InvalidParameter(
            f"short_side: at {short_side}, an image of {width} x {height} pixels would be resized "
            f"to {resized[1]} x {resized[0]}."
        )
    return resized


def resize_image(image: Image, *, short_side: int, long_side: int) -> NDArray[np.uint8]:
    """The picture as the network takes it: uint8 [h, w, 3], channels B, G, R, C-contiguous.

    It is the image's own array where that has the size already.

    Raises:
        InvalidParameter: a side would have no pixel.
    """
    height, width = resized_size_hw(image.size_hw, short_side=short_side, long_side=long_side)
    size = width, height
    if (height, width) == image.size_hw:
        return image.pixels_HW3
    if math.prod(image.size_hw) <= LARGE_PIXELS:
        return _resize(image.pixels_HW3, size)
    # Pillow copies colours, and takes 4 bytes for them. What has one channel it uses where it is.
    return np.dstack(
        [
            _resize(np.asarray(cv2.extractChannel(image.pixels_HW3, channel), np.uint8), size)
            for channel in range(3)
        ]
    )


def _resize(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    # The channels are B, G, R under Pillow's names R, G, B; it treats all of them alike. Only
    # Pillow's own filter rounds like Pillow's.
    picture = PillowImage.fromarray(pixels)
    return np.array(picture.resize(size, PillowImage.Resampling.BILINEAR))
