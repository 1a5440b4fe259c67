"""Decode a texture that a stranger sent: like any picture, but what is transparent stays so."""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.imaging.decode import decode_image
from service.imaging.orientation import turn_upright
from service.imaging.png import SIGNATURE, open_png


def decode_atlas(data: bytes | memoryview, *, max_pixels: int) -> NDArray[np.uint8]:
    """The picture, uint8 [H, W, 3], R, G, B; of a PNG file with alpha [H, W, 4].

    Raises:
        ImageTooLarge: it has more pixels than `max_pixels`; none was decoded.
        UndecodableImage: the bytes are no image, or one that is damaged or cut short.
    """
    view = memoryview(data)
    image = decode_image(view, max_pixels=max_pixels)
    rgb_HW3 = np.asarray(cv2.cvtColor(image.pixels_HW3, cv2.COLOR_BGR2RGB), np.uint8)
    if view[: len(SIGNATURE)] != SIGNATURE:
        return rgb_HW3
    # It could be decoded a moment ago.
    file, orientation = open_png(view)
    if "A" not in file.getbands():
        return rgb_HW3
    alpha_HW = turn_upright(np.asarray(file.getchannel("A")), orientation)
    return np.dstack((rgb_HW3, alpha_HW))
