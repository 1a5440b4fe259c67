"""Decode a texture that a stranger sent: like any picture, but what is transparent stays so."""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.imaging.decode import Encoded, open_image

MAX_ATLAS_PIXELS = 4096 * 6144


def open_atlas(data: bytes | bytearray | memoryview) -> Encoded:
    """A texture, yet to be decoded.

    Raises:
        ImageTooLarge: it has more pixels than `MAX_ATLAS_PIXELS`.
        UndecodableImage: the bytes are no image, or what comes before its pixels is damaged.
    """
    return open_image(data, max_pixels=MAX_ATLAS_PIXELS, is_alpha_kept=True)


def decode_atlas(encoded: Encoded) -> NDArray[np.uint8]:
    """The texture, uint8 [H, W, 3], R, G, B; of a PNG file with alpha [H, W, 4].

    Raises:
        UndecodableImage: it is damaged or cut short.
    """
    pixels = encoded.decode_pixels()
    is_opaque = pixels.shape[2] == 3
    order = cv2.COLOR_BGR2RGB if is_opaque else cv2.COLOR_BGRA2RGBA
    return np.asarray(cv2.cvtColor(pixels, order), np.uint8)
