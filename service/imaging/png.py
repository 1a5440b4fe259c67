"""PNG files: W3C, Portable Network Graphics, third edition.

Only the chunks that pixels are made of reach Pillow: no text or colour profile to inflate, no
animation, no transparency.
"""

import struct
from io import BytesIO

from PIL.PngImagePlugin import PngImageFile

from service.errors import UndecodableImage
from service.imaging.orientation import read_orientation
from service.imaging.picture import Picture, picture_of

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEPT = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_MAX_CHUNKS = 100_000


def read_png(data: memoryview) -> Picture:
    """The picture in a PNG file; of an animated one, its default image."""
    return picture_of(*open_png(data))


def open_png(data: memoryview) -> tuple[PngImageFile, int]:
    """The same as Pillow opens it, with the orientation that is to be applied."""
    kept: list[bytes | memoryview] = [SIGNATURE]
    orientation = 1
    position = len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            return PngImageFile(BytesIO(b"".join(kept))), orientation
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind in _KEPT:
            kept.append(data[position:end])
        elif kind == b"CgBI":
            raise UndecodableImage("PNG as Apple's tools store it in apps is not read; undo that.")
        elif kind == b"eXIf":
            orientation = read_orientation(data[position + 8 : end - 4])
        position = end
    raise UndecodableImage(f"The PNG image has more than {_MAX_CHUNKS} chunks.")
