"""Decode a picture that a stranger sent."""

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import cv2
from PIL.Image import DecompressionBombError

from service.datatypes import Image
from service.errors import ImageTooLarge, UndecodableImage
from service.imaging.bmp import read_bmp
from service.imaging.gif import read_gif
from service.imaging.jpeg import read_jpeg
from service.imaging.orientation import turn_upright
from service.imaging.picture import Picture
from service.imaging.png import read_png
from service.imaging.tiff import read_tiff
from service.imaging.unread import name_of_file
from service.imaging.webp import read_webp


@dataclass(frozen=True, slots=True)
class _Format:
    """A file format: how it begins, and who reads it."""

    name: str
    beginning: re.Pattern[bytes]
    read: Callable[[memoryview], Picture]


_FORMATS = (
    _Format("JPEG", re.compile(rb"\xff\xd8\xff"), read_jpeg),
    _Format("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), read_png),
    _Format("WebP", re.compile(rb"RIFF.{4}WEBP", re.DOTALL), read_webp),
    _Format("GIF", re.compile(rb"GIF8[79]a"), read_gif),
    _Format("BMP", re.compile(rb"BM"), read_bmp),
    _Format("TIFF", re.compile(rb"II\*\0|MM\0\*"), read_tiff),
)

# What readers and decoders raise on damaged files, for want of one error of theirs.
_DECODER_ERRORS = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,  # also where a header asks for more than can be had
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    cv2.error,
    struct.error,
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture whose header was read, of an allowed size; no pixel was decoded yet."""

    num_pixels: int
    decode: Callable[[], Image]
    """Decodes it as `decode_image` does, once.

    Raises:
        UndecodableImage: it is damaged or cut short.
    """


def decode_image(data: bytes | bytearray | memoryview, *, max_pixels: int) -> Image:
    """The first picture of a JPEG, PNG, WebP, GIF, BMP or TIFF file, upright; the bytes decide.

    Alpha is dropped; palette, grey and CMYK are converted as Pillow does it; of 16-bit samples
    the upper 8 bits are kept. Apart from that the pixels are those that Pillow reads, but for TIFF
    and BMP files that it reads wrong.

    Raises:
        ImageTooLarge: it has more pixels than `max_pixels`; none was decoded.
        UndecodableImage: the bytes are no such image, or one that is damaged or cut short.
    """
    return open_image(data, max_pixels=max_pixels).decode()


def open_image(data: bytes | bytearray | memoryview, *, max_pixels: int) -> Encoded:
    """The same picture, yet to be decoded.

    Raises:
        ImageTooLarge: it has more pixels than `max_pixels`.
        UndecodableImage: the bytes are no such image, or what comes before its pixels is damaged.
    """
    view = memoryview(data)
    kind = _format_of(view)
    with _errors_of_ours(kind, max_pixels):
        picture = kind.read(view)
        _check_size(picture, max_pixels)
    height, width = picture.size_hw
    return Encoded(height * width, partial(_decode, kind, picture, max_pixels))


def _decode(kind: _Format, picture: Picture, max_pixels: int) -> Image:
    with _errors_of_ours(kind, max_pixels):
        pixels_HW3 = picture.read_pixels()
    if pixels_HW3.shape[:2] != picture.size_hw:
        raise UndecodableImage(f"The {kind.name} image is not of the size that its header says.")
    return Image(turn_upright(pixels_HW3, picture.orientation))


@contextmanager
def _errors_of_ours(kind: _Format, max_pixels: int) -> Iterator[None]:
    try:
        yield
    except DecompressionBombError as error:
        raise ImageTooLarge(f"The image has more than {max_pixels} pixels.") from error
    except _DECODER_ERRORS as error:
        raise UndecodableImage(f"The {kind.name} image is damaged or cut short.") from error


def _format_of(data: memoryview) -> _Format:
    if not len(data):
        raise UndecodableImage("The image is empty.")
    for kind in _FORMATS:
        if kind.beginning.match(data):
            return kind
    names = ", ".join(kind.name for kind in _FORMATS)
    what = f"{name}, " if (name := name_of_file(data)) else ""
    raise UndecodableImage(f"The bytes are {what}no image of a format that is read: {names}.")


def _check_size(picture: Picture, max_pixels: int) -> None:
    height, width = picture.size_hw
    if not height * width:
        raise UndecodableImage("The image has no pixels.")
    if height * width > max_pixels:
        raise ImageTooLarge(
            f"The image has {width} x {height} pixels, and at most {max_pixels} are taken."
        )
