"""Decode a picture that a stranger sent."""

import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.Image import DecompressionBombError

from service.datatypes import Image, SizeHW
from service.errors import ImageTooLarge, UndecodableImage
from service.imaging.bmp import read_bmp
from service.imaging.gif import read_gif
from service.imaging.jpeg import read_jpeg
from service.imaging.picture import LARGE_PIXELS, Picture
from service.imaging.png import read_png
from service.imaging.tiff import read_tiff
from service.imaging.unread import name_of_file
from service.imaging.webp import read_webp

# How a file of each format begins, and who reads it.
_FORMATS: Mapping[str, tuple[re.Pattern[bytes], Callable[[memoryview], Picture]]] = {
    "JPEG": (re.compile(rb"\xff\xd8\xff"), read_jpeg),
    "PNG": (re.compile(rb"\x89PNG\r\n\x1a\n"), read_png),
    "WebP": (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), read_webp),
    "GIF": (re.compile(rb"GIF8[79]a"), read_gif),
    "BMP": (re.compile(rb"BM"), read_bmp),
    "TIFF": (re.compile(rb"II\*\0|MM\0\*"), read_tiff),
}
# What undoes each orientation. CIPA DC-008 (Exif 2.32), section 4.6.4
_TURNS: Mapping[int, Callable[[NDArray[np.uint8]], cv2.typing.MatLike]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
# Those that make rows of columns.
_TRANSPOSED = frozenset({5, 6, 7, 8})

TOO_MUCH_MEMORY = "To decode the image takes more memory than one may take: send it smaller."
# What readers and decoders raise on damaged files, for want of one error of theirs.
_DECODER_ERRORS = (
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture whose header was read, of an allowed size; no pixel was decoded yet."""

    format: str
    picture: Picture
    max_pixels: int

    @property
    def num_pixels(self) -> int:
        """How many there will be."""
        return math.prod(self.picture.size_hw)

    @property
    def size_hw(self) -> SizeHW:
        """Height and width, upright."""
        height, width = self.picture.size_hw
        return (width, height) if self.picture.orientation in _TRANSPOSED else (height, width)

    @property
    def is_costly(self) -> bool:
        """Whether to decode it may take much time or memory."""
        return self.picture.is_costly or self.num_pixels > LARGE_PIXELS

    def decode(self) -> NDArray[np.uint8]:
        """Decodes it as `decode_image` does, with a fourth channel where alpha is kept.

        Raises:
            UndecodableImage: it is damaged or cut short.
        """
        with _errors_of_ours(self.format, self.max_pixels):
            pixels = self.picture.source.read_pixels()
        if pixels.shape[:2] != self.picture.size_hw:
            message = f"The {self.format} image is not of the size that its header says."
            raise UndecodableImage(message)
        return turn_upright(pixels, self.picture.orientation)


def decode_image(data: bytes | bytearray | memoryview, *, max_pixels: int) -> Image:
    """The first picture of a JPEG, PNG, WebP, GIF, BMP or TIFF file, upright; the bytes decide.

    Alpha is dropped; palette, grey and CMYK are converted as Pillow does it; of 16-bit samples
    the upper 8 bits are kept. Apart from that the pixels are those that Pillow reads, but for TIFF
    and BMP files that it reads wrong.

    Raises:
        ImageTooLarge: it has more pixels than `max_pixels`; none was decoded.
        UndecodableImage: the bytes are no such image, or one that is damaged or cut short.
    """
    return Image(open_image(data, max_pixels=max_pixels).decode())


def open_image(
    data: bytes | bytearray | memoryview, *, max_pixels: int, is_alpha_kept: bool = False
) -> Encoded:
    """The same picture, yet to be decoded; `is_alpha_kept` concerns PNG files.

    Raises:
        ImageTooLarge: it has more pixels than `max_pixels`.
        UndecodableImage: the bytes are no such image, or what comes before its pixels is damaged.
    """
    view = memoryview(data)
    name = _format_of(view)
    with _errors_of_ours(name, max_pixels):
        if name == "PNG":
            picture = read_png(view, is_alpha_kept=is_alpha_kept)
        else:
            picture = _FORMATS[name][1](view)
        _check_size(picture, max_pixels)
    return Encoded(name, picture, max_pixels)


def turn_upright(pixels_HW3: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The picture upright, C-contiguous; the same array where it is upright already."""
    if orientation == 1:
        return pixels_HW3
    return np.asarray(_TURNS[orientation](pixels_HW3), np.uint8)


@contextmanager
def _errors_of_ours(name: str, max_pixels: int) -> Iterator[None]:
    try:
        yield
    except DecompressionBombError as error:
        raise ImageTooLarge(f"The image has more than {max_pixels} pixels.") from error
    except (MemoryError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
            raise UndecodableImage(f"The {name} image is damaged or cut short.") from error
        raise UndecodableImage(TOO_MUCH_MEMORY) from error
    except _DECODER_ERRORS as error:
        raise UndecodableImage(f"The {name} image is damaged or cut short.") from error


def _format_of(data: memoryview) -> str:
    if not len(data):
        raise UndecodableImage("The image is empty.")
    for name, (beginning, _) in _FORMATS.items():
        if beginning.match(data):
            return name
    what = f"{kind}, " if (kind := name_of_file(data)) else ""
    formats = ", ".join(_FORMATS)
    raise UndecodableImage(f"The bytes are {what}no image of a format that is read: {formats}.")


def _check_size(picture: Picture, max_pixels: int) -> None:
    height, width = picture.size_hw
    if not height * width:
        raise UndecodableImage("The image has no pixels.")
    if height * width > max_pixels:
        raise ImageTooLarge(
            f"The image has {width} x {height} pixels, and at most {max_pixels} are taken."
        )
    if picture.max_pixels is not None and height * width > picture.max_pixels:
        raise ImageTooLarge(
            f"The image has {width} x {height} pixels, and of its kind, which takes longer than "
            f"others, at most {picture.max_pixels} are taken: send it as a baseline JPEG."
        )
