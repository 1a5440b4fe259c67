"""BMP files: Microsoft, BITMAPINFOHEADER and its relatives; IBM, OS/2 bitmaps.

Rows as they are become pixels here: Pillow knows some layouts of bits only, and takes a palette of
two colours for rows of one bit. It decodes run lengths.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.BmpImagePlugin import BmpImageFile

from service.errors import UndecodableImage
from service.imaging.picture import Picture, PillowFile

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
# Microsoft, BITMAPINFOHEADER; and the same numbers in files of OS/2.
_UNREAD = {
    4: "JPEG inside",
    5: "PNG inside",
    11: "CMYK colours",
    12: "CMYK colours",
    13: "CMYK colours",
}
_UNREAD_OS2 = {3: "Huffman codes", 4: "run lengths of 24 bits"}
# Pillow decodes runs in Python, some 5 million pixels or bytes per second.
_MAX_RUN_LENGTH_PIXELS = 2_000_000
_MAX_RUN_LENGTH_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class _Bitmap:
    """Where and how rows are stored, from the last one up if `height` is positive."""

    data: memoryview
    num_bytes: int
    """Of the header."""
    pixels_start: int
    width: int
    height: int
    bits: int
    compression: int
    num_colours: int
    masks: tuple[int, ...]
    """Of red, green and blue, in pixels of 16 and 32 bits."""

    @property
    def colour_bytes(self) -> int:
        return 3 if self.num_bytes == _OS2_1_BYTES else 4

    @property
    def palette_start(self) -> int:
        return _FILE_HEADER_BYTES + self.num_bytes

    def read_pixels(self) -> NDArray[np.uint8]:
        rows_HS = self.read_rows()
        if self.bits in _PALETTE_BITS:
            indices_HW = _indices(rows_HS, self.bits)[:, : self.width]
            return _merge(cv2.LUT(indices_HW, tones) for tones in self.read_palette().T.copy())
        if self.masks == _BYTES:
            num_bytes = self.bits // 8
            pixels = rows_HS[:, : num_bytes * self.width].reshape(len(rows_HS), -1, num_bytes)
            return np.ascontiguousarray(pixels[..., :3])
        values_HW = rows_HS.view(f"<u{self.bits // 8}")[:, : self.width]
        return _merge(_channel(values_HW, mask) for mask in reversed(self.masks))

    def read_rows(self) -> NDArray[np.uint8]:
        """The rows from the top, each of a multiple of 4 bytes; the last one's filling may lack.

        Raises:
            UndecodableImage: there are fewer.
        """
        start, height = self.pixels_start, abs(self.height)
        if self.bits in _PALETTE_BITS and start in {0, self.palette_start}:
            start = self.palette_start + (self.num_colours or 1 << self.bits) * self.colour_bytes
        num_bytes = -(-self.width * self.bits // 8)
        row_bytes = -(-num_bytes // 4) * 4
        stored = np.frombuffer(self.data[start : start + height * row_bytes], np.uint8)
        missing = height * row_bytes - len(stored)
        if missing > row_bytes - num_bytes:
            raise UndecodableImage("The BMP image is cut short.")
        if missing:
            stored = np.pad(stored, (0, missing))
        rows_HS = stored.reshape(height, row_bytes)
        return rows_HS[::-1] if self.height > 0 else rows_HS

    def read_palette(self) -> NDArray[np.uint8]:
        """Uint8 [256, 3]; black where the file has no colour."""
        start, width = self.palette_start, self.colour_bytes
        count = min(self.num_colours or 1 << self.bits, 1 << self.bits)
        if self.pixels_start > start:
            count = min(count, (self.pixels_start - start) // width)
        stored = np.frombuffer(self.data, np.uint8, count * width, start)
        return np.pad(stored.reshape(count, width)[:, :3], ((0, 256 - count), (0, 0)))


def read_bmp(data: memoryview) -> Picture:
    """The picture in a BMP file."""
    bitmap = _read_header(data)
    size_hw = abs(bitmap.height), bitmap.width
    if bitmap.compression not in _RUN_LENGTHS:
        _refuse_what_is_not_read(bitmap)
        return Picture(size_hw, 1, bitmap, is_costly=True)
    if size_hw[0] * size_hw[1] > _MAX_RUN_LENGTH_PIXELS or len(data) > _MAX_RUN_LENGTH_BYTES:
        raise UndecodableImage("A run-length encoded BMP image may have 2 million pixels at most.")
    return Picture(size_hw, 1, PillowFile(BmpImageFile, (data,)), is_costly=True)


def _read_header(data: memoryview) -> _Bitmap:
    start, num_bytes = struct.unpack_from("<II", data, 10)
    if num_bytes not in _HEADER_BYTES:
        raise UndecodableImage(f"A BMP image with a header of {num_bytes} bytes is not read.")
    sides = "<HHxxH" if num_bytes == _OS2_1_BYTES else "<iixxH"
    width, height, bits = struct.unpack_from(sides, data, 18)
    compression, num_colours = _PLAIN, 0
    if num_bytes > min(_OS2_2_BYTES):
        compression, num_colours = struct.unpack_from("<I12xI", data, 30)
    if width < 0:
        raise UndecodableImage("The BMP image has a negative width.")
    masks = _MASKS.get(bits, ())
    if compression in _BIT_FIELDS and num_bytes not in _OS2_2_BYTES:
        named = struct.unpack_from("<3I", data, _MASKS_START)
        masks = named if any(named) else masks
    return _Bitmap(data, num_bytes, start, width, height, bits, compression, num_colours, masks)


def _refuse_what_is_not_read(header: _Bitmap) -> None:
    is_os2 = header.num_bytes in _OS2_2_BYTES
    is_read = header.compression == _PLAIN and header.bits in {*_PALETTE_BITS, *_MASKS}
    if header.compression in _BIT_FIELDS and not is_os2:
        is_read = header.bits in _MASKS and (header.bits != 24 or header.masks == _BYTES)
    if not is_read:
        names = _UNREAD_OS2 if is_os2 else _UNREAD
        name = names.get(header.compression, f"pixels of {header.bits} bits")
        raise UndecodableImage(f"A BMP image with {name} is not read; send it as JPEG or PNG.")


def _merge(channels: Iterable[cv2.typing.MatLike]) -> NDArray[np.uint8]:
    return np.asarray(cv2.merge(list(channels)), np.uint8)


def _indices(rows_HS: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    shifts = np.arange(8 - bits, -1, -bits).astype(np.uint8)
    parts = (rows_HS[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return parts.reshape(len(rows_HS), -1)


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
