"""BMP files: Microsoft, BITMAPINFOHEADER and its relatives; IBM, OS/2 bitmaps.

Rows as they are become pixels here: Pillow knows some layouts of bits only, and takes a palette of
two colours for rows of one bit. It decodes run lengths.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.BmpImagePlugin import BmpImageFile

from service.errors import UndecodableImage
from service.imaging.picture import Picture, read_pixels
from service.imaging.unread import name_of

_FILE_HEADER_BYTES = 14
_OS2_1_BYTES = 12
_OS2_2_BYTES = frozenset({16, 64})
_HEADER_BYTES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_MASKS_START = 54

_PALETTE_BITS = frozenset({1, 2, 4, 8})
_BYTES = (0xFF0000, 0x00FF00, 0x0000FF)
_MASKS = {16: (0x7C00, 0x03E0, 0x001F), 24: _BYTES, 32: _BYTES}

_PLAIN = 0
_RUN_LENGTHS = frozenset({1, 2})
# The second has a mask for alpha, too.
_BIT_FIELDS = frozenset({3, 6})
# Pillow decodes runs in Python, some 5 million pixels or bytes per second.
_MAX_RUN_LENGTH_PIXELS = 2_000_000
_MAX_RUN_LENGTH_BYTES = 4_000_000
_TOO_MANY_RUNS = "A run-length encoded BMP image may have 2 million pixels at most."


@dataclass(frozen=True, slots=True)
class _Header:
    """Where and how rows are stored, from the last one up if `height` is positive."""

    num_bytes: int
    pixels_start: int
    width: int
    height: int
    bits: int
    compression: int
    num_colours: int
    masks: tuple[int, ...]
    """Of red, green and blue, in pixels of 16 and 32 bits."""


def read_bmp(data: memoryview) -> Picture:
    """The picture in a BMP file."""
    header = _header(data)
    if header.compression in _RUN_LENGTHS:
        if (
            header.width * abs(header.height) > _MAX_RUN_LENGTH_PIXELS
            or len(data) > _MAX_RUN_LENGTH_BYTES
        ):
            raise UndecodableImage(_TOO_MANY_RUNS)
        read = partial(_read_run_lengths, data)
    else:
        _refuse_what_is_not_read(header)
        read = partial(_read, data, header)
    return Picture((abs(header.height), header.width), 1, read, is_costly=True)


def _header(data: memoryview) -> _Header:
    start, num_bytes = struct.unpack_from("<II", data, 10)
    if num_bytes not in _HEADER_BYTES:
        raise UndecodableImage(f"A BMP image with a header of {num_bytes} bytes is not read.")
    compression, num_colours = _PLAIN, 0
    if num_bytes == _OS2_1_BYTES:
        width, height, bits = struct.unpack_from("<HHxxH", data, 18)
    else:
        width, height, bits = struct.unpack_from("<iixxH", data, 18)
    if num_bytes > min(_OS2_2_BYTES):
        compression, num_colours = struct.unpack_from("<I12xI", data, 30)
    if width < 0:
        raise UndecodableImage("The BMP image has a negative width.")
    masks = _MASKS.get(bits, ())
    if compression in _BIT_FIELDS and num_bytes not in _OS2_2_BYTES:
        named = struct.unpack_from("<3I", data, _MASKS_START)
        masks = named if any(named) else masks
    return _Header(num_bytes, start, width, height, bits, compression, num_colours, masks)


def _refuse_what_is_not_read(header: _Header) -> None:
    is_read = header.compression == _PLAIN and header.bits in {*_PALETTE_BITS, *_MASKS}
    if header.compression in _BIT_FIELDS and header.num_bytes not in _OS2_2_BYTES:
        is_read = header.bits in _MASKS and (header.bits != 24 or header.masks == _BYTES)
    if not is_read:
        if header.num_bytes in _OS2_2_BYTES:
            name = name_of("os2_compressions", header.compression)
        else:
            name = name_of("bmp_compressions", header.compression)
        name = name or f"pixels of {header.bits} bits"
        raise UndecodableImage(f"A BMP image with {name} is not read; send it as JPEG or PNG.")


def _read_run_lengths(data: memoryview) -> NDArray[np.uint8]:
    with BmpImageFile(BytesIO(data)) as image:
        return read_pixels(image)


def _read(data: memoryview, header: _Header) -> NDArray[np.uint8]:
    """Uint8 [H, W, 3], channels B, G, R."""
    rows_HS = _rows(data, header)
    if header.bits in _PALETTE_BITS:
        indices_HW = _indices(rows_HS, header)
        return _merge(cv2.LUT(indices_HW, tones) for tones in _palette(data, header).T.copy())
    if header.masks == _BYTES:
        num_bytes = header.bits // 8
        pixels = rows_HS[:, : num_bytes * header.width].reshape(len(rows_HS), -1, num_bytes)
        return np.ascontiguousarray(pixels[..., :3])
    values_HW = rows_HS.view(f"<u{header.bits // 8}")[:, : header.width]
    return _merge(_channel(values_HW, mask) for mask in reversed(header.masks))


def _merge(channels: Iterable[cv2.typing.MatLike]) -> NDArray[np.uint8]:
    return np.asarray(cv2.merge(list(channels)), np.uint8)


def _rows(data: memoryview, header: _Header) -> NDArray[np.uint8]:
    """The rows from the top, each of a multiple of 4 bytes; the last one's filling may be missing.

    Raises:
        UndecodableImage: there are fewer.
    """
    start, height = header.pixels_start, abs(header.height)
    palette_start = _FILE_HEADER_BYTES + header.num_bytes
    if header.bits in _PALETTE_BITS and start in {0, palette_start}:
        start = palette_start + _num_colours(header) * _colour_bytes(header)
    num_bytes = -(-header.width * header.bits // 8)
    row_bytes = -(-num_bytes // 4) * 4
    stored = np.frombuffer(data[start : start + height * row_bytes], np.uint8)
    missing = height * row_bytes - len(stored)
    if missing > row_bytes - num_bytes:
        raise UndecodableImage("The BMP image is cut short.")
    if missing:
        stored = np.pad(stored, (0, missing))
    rows_HS = stored.reshape(height, row_bytes)
    return rows_HS[::-1] if header.height > 0 else rows_HS


def _colour_bytes(header: _Header) -> int:
    return 3 if header.num_bytes == _OS2_1_BYTES else 4


def _num_colours(header: _Header) -> int:
    return header.num_colours or 1 << header.bits


def _palette(data: memoryview, header: _Header) -> NDArray[np.uint8]:
    """Uint8 [256, 3]; black where the file has no colour."""
    start, width = _FILE_HEADER_BYTES + header.num_bytes, _colour_bytes(header)
    count = min(_num_colours(header), 1 << header.bits)
    if header.pixels_start > start:
        count = min(count, (header.pixels_start - start) // width)
    palette = np.zeros((256, 3), np.uint8)
    stored = np.frombuffer(data, np.uint8, count * width, start)
    palette[:count] = stored.reshape(count, width)[:, :3]
    return palette


def _indices(rows_HS: NDArray[np.uint8], header: _Header) -> NDArray[np.uint8]:
    per_byte = 8 // header.bits
    shifts = np.arange(per_byte - 1, -1, -1, dtype=np.uint8) * header.bits
    parts = (rows_HS[..., None] >> shifts.astype(np.uint8)) & np.uint8((1 << header.bits) - 1)
    return parts.reshape(len(rows_HS), -1)[:, : header.width]


def _channel(values_HW: NDArray[np.unsignedinteger], mask: int) -> NDArray[np.uint8]:
    """What a mask selects, scaled to 0..255 as Pillow does it; of more than 8 bits the upper 8."""
    if not mask:
        return np.zeros(values_HW.shape, np.uint8)
    shift = (mask & -mask).bit_length() - 1
    shift += max((mask >> shift).bit_length() - 8, 0)
    selected_HW = values_HW & values_HW.dtype.type(mask)
    selected_HW >>= shift
    largest = mask >> shift
    tones = (np.arange(256) * 255 // largest).clip(max=255).astype(np.uint8)
    return np.asarray(cv2.LUT(selected_HW.astype(np.uint8), tones), np.uint8)
