"""What a format's reader finds before any pixel is decoded, and Pillow's pixels as ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from PIL.ImageFile import ImageFile

from service.datatypes import SizeHW
from service.errors import UndecodableImage

Part: TypeAlias = bytes | memoryview

# From here on a picture takes so much memory and time that other pictures would notice.
LARGE_PIXELS = 16_000_000
_PIXELS_AT_A_TIME = 2**17


class Source(Protocol):
    """The pixels of a picture, yet to be decoded."""

    def read_pixels(self) -> NDArray[np.uint8]:
        """Uint8 [H, W, 3], channels B, G, R, of the size that the header says, unless it lies."""


@dataclass(frozen=True, slots=True)
class Picture:
    """The first picture of a file; `size_hw` is before the turn that `orientation` asks for."""

    size_hw: SizeHW
    orientation: int
    """As in EXIF, 1 to 8."""
    source: Source
    is_costly: bool = False
    """Whether its size alone bounds neither the time nor the memory that its decoder takes."""
    max_pixels: int | None = None
    """Where pictures of its kind take so much that fewer are decoded than of others."""


@dataclass(frozen=True, slots=True)
class PillowFile:
    """A file, in parts, that Pillow decodes; where alpha is kept, it is a fourth channel."""

    reader: type[ImageFile]
    parts: Sequence[Part]
    is_alpha_kept: bool = False

    def read_pixels(self) -> NDArray[np.uint8]:
        """As `read_pixels` does it."""
        with self.reader(BytesIO(b"".join(self.parts))) as image:
            pixels_HW3 = read_pixels(image)
            if self.is_alpha_kept and "A" in image.getbands():
                return np.dstack((pixels_HW3, np.asarray(image.getchannel("A"))))
            return pixels_HW3


def read_pixels(image: Image, *, grey_bits: int = 16) -> NDArray[np.uint8]:
    """Decode: alpha dropped, palette, grey and CMYK converted as Pillow does it.

    Samples of 16 bits keep their upper 8, which is what Pillow does with 16-bit colour; with
    16-bit grey it would clip. `grey_bits` says how many bits those grey samples really use.
    """
    if image.mode in {"I", "F"}:
        raise UndecodableImage("Samples of 32 bits have no range to scale from.")
    image.load()
    num_rows = max(_PIXELS_AT_A_TIME // max(image.width, 1), 1)
    if image.height <= num_rows:
        return _converted(image, grey_bits)
    # Some rows at a time: each step on the way would take as much memory as the whole picture.
    pixels_HW3 = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, num_rows):
        bottom = min(top + num_rows, image.height)
        rows = image.crop((0, top, image.width, bottom))
        pixels_HW3[top:bottom] = _converted(rows, grey_bits)
    return pixels_HW3


def _converted(image: Image, grey_bits: int) -> NDArray[np.uint8]:
    if image.mode == "L" or image.mode.startswith("I;16"):
        grey_HW = np.asarray(image)
        if image.mode != "L":
            grey_HW = (grey_HW >> (grey_bits - 8)).astype(np.uint8)
        return np.asarray(cv2.cvtColor(grey_HW, cv2.COLOR_GRAY2BGR), np.uint8)
    if image.mode in {"La", "RGBa"}:
        image = image.convert(image.mode.upper())
    if image.mode not in {"RGB", "RGBA"}:
        image = image.convert("RGB")
    # Pillow keeps both in 4 bytes a pixel: to copy them as they are and let OpenCV pack them is
    # twice as fast as to let Pillow pack them, and gives an array that may be written to.
    raw_mode = "RGBA" if image.mode == "RGBA" else "RGBX"
    packed = np.frombuffer(image.tobytes("raw", raw_mode), np.uint8)
    pixels_HW4 = packed.reshape(image.height, image.width, 4)
    return np.asarray(cv2.cvtColor(pixels_HW4, cv2.COLOR_RGBA2BGR), np.uint8)
