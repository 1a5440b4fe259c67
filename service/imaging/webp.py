"""WebP files: RFC 9649.

Their chunks are walked here: the decoder of animations, which Pillow uses for every file, takes
eight bytes for each pixel of the canvas as soon as it is made. Of the first picture the one chunk
that has its colours reaches OpenCV, in a file of its own; alpha would be dropped anyway.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from service.datatypes import SizeHW
from service.errors import UndecodableImage
from service.imaging.directory import read_orientation
from service.imaging.picture import Picture

_CHUNKS_START = 12
_FRAME_HEADER_BYTES = 16
_IS_ANIMATED = 0x02
_LOSSY, _LOSSLESS = b"VP8 ", b"VP8L"
_MAX_CHUNKS = 10_000
# A kind, and what lies in it.
_Chunk: TypeAlias = tuple[bytes, memoryview]


@dataclass(frozen=True, slots=True)
class _Frame:
    """A chunk that has a picture's colours, and where they stand on the canvas, top and left."""

    colours: _Chunk
    size_hw: SizeHW
    corner: tuple[int, int] = (0, 0)

    def read_pixels(self) -> NDArray[np.uint8]:
        kind, payload = self.colours
        padding = bytes(len(payload) % 2)
        num_bytes = 12 + len(payload) + len(padding)
        head = struct.pack("<4sI4s4sI", b"RIFF", num_bytes, b"WEBP", kind, len(payload))
        file = b"".join((head, payload, padding))
        pixels_HW3 = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
        if pixels_HW3 is None:
            raise ValueError("no pixels")
        height, width = pixels_HW3.shape[:2]
        if (height, width) == self.size_hw:
            return np.asarray(pixels_HW3, np.uint8)
        canvas_HW3 = np.zeros((*self.size_hw, 3), np.uint8)
        top, left = self.corner
        canvas_HW3[top : top + height, left : left + width] = pixels_HW3
        return canvas_HW3


def read_webp(data: memoryview) -> Picture:
    """The picture in a WebP file; of an animated one, the first frame, on black."""
    chunks = list(_chunks(data[_CHUNKS_START:]))
    kind, head = chunks[0]
    if kind != b"VP8X":
        colours = _colours(chunks[:1])
        return _picture(_Frame(colours, _size_hw(colours)))
    canvas_hw = 1 + _integer(head, 7), 1 + _integer(head, 4)
    exif = next((payload for kind, payload in chunks if kind == b"EXIF"), data[:0])
    if not head[0] & _IS_ANIMATED:
        colours = _colours(chunks)
        if _size_hw(colours) != canvas_hw:
            raise UndecodableImage("The WebP image is not of the size of its canvas.")
        return _picture(_Frame(colours, canvas_hw), exif)
    frame = next((payload for kind, payload in chunks if kind == b"ANMF"), None)
    if frame is None:
        raise UndecodableImage("The WebP image has no frame, or is cut short.")
    left, top = 2 * _integer(frame, 0), 2 * _integer(frame, 3)
    colours = _colours(_chunks(frame[_FRAME_HEADER_BYTES:]))
    height, width = _size_hw(colours)
    if top + height > canvas_hw[0] or left + width > canvas_hw[1]:
        raise UndecodableImage("The first frame of the WebP image leaves its canvas.")
    return _picture(_Frame(colours, canvas_hw, (top, left)), exif)


def _picture(frame: _Frame, exif: bytes | memoryview = b"") -> Picture:
    # The trees of lossless codes take up to 800 MB, whatever the size of the picture.
    is_costly = frame.colours[0] == _LOSSLESS
    return Picture(frame.size_hw, read_orientation(exif), frame, is_costly)


def _chunks(data: memoryview) -> Iterator[_Chunk]:
    """The chunks up to the end, or to the one that is cut short."""
    position = 0
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            return
        kind, num_bytes = struct.unpack_from("<4sI", data, position)
        end = position + 8 + num_bytes
        if end > len(data):
            return
        yield kind, data[position + 8 : end]
        position = end + num_bytes % 2
    raise UndecodableImage(f"The WebP image has more than {_MAX_CHUNKS} chunks.")


def _colours(chunks: Iterable[_Chunk]) -> _Chunk:
    """The first chunk that has a picture's colours, lossy or lossless."""
    for chunk in chunks:
        if chunk[0] in {_LOSSY, _LOSSLESS}:
            return chunk
    raise ValueError("no colours")


def _size_hw(colours: _Chunk) -> SizeHW:
    """The size that the decoder will find."""
    kind, payload = colours
    if kind == _LOSSLESS:
        # RFC 9649, section 3.4: one byte of signature, then width and height less 1.
        (bits,) = struct.unpack_from("<xI", payload)
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    # RFC 6386, section 9.1: frame tag and start code, then the sizes with two bits of scale.
    width, height = struct.unpack_from("<6xHH", payload)
    return height & 0x3FFF, width & 0x3FFF


def _integer(data: memoryview, position: int) -> int:
    """The 24 bits there."""
    return int.from_bytes(data[position : position + 3], "little")
