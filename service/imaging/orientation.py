"""Which way up a camera was held, from EXIF, and the turn that puts the picture upright."""

import struct
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from service.imaging.directory import Directory, read_directory

_ORIENTATION = 0x0112
_UPRIGHT = 1
EXIF_PREFIX = b"Exif\0\0"

# What undoes each orientation. CIPA DC-008 (Exif 2.32), section 4.6.4
_TURNS: dict[int, Callable[[NDArray[np.uint8]], cv2.typing.MatLike]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
# Those that make rows of columns.
TRANSPOSED = frozenset({5, 6, 7, 8})


def orientation_of(directory: Directory) -> int:
    """The orientation that a directory of tags names, 1 to 8; 1 where it names none of them."""
    orientation = directory.integer(_ORIENTATION, _UPRIGHT)
    return orientation if orientation in _TURNS else _UPRIGHT


def read_orientation(exif: bytes | memoryview) -> int:
    """The orientation in a block of EXIF, 1 to 8; 1 where the block is damaged."""
    block = memoryview(exif)
    if block[: len(EXIF_PREFIX)] == EXIF_PREFIX:
        block = block[len(EXIF_PREFIX) :]
    try:
        return orientation_of(read_directory(block))
    except (ValueError, struct.error):
        return _UPRIGHT


def turn_upright(pixels_HW3: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The picture upright, C-contiguous; the same array where it is upright already."""
    if orientation == _UPRIGHT:
        return pixels_HW3
    return np.asarray(_TURNS[orientation](pixels_HW3), np.uint8)
