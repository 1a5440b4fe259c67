"""GIF files: CompuServe, Graphics Interchange Format 89a.

Only the first frame reaches Pillow, without what comes before it and would be read in Python.
"""

import struct
from io import BytesIO

from PIL.GifImagePlugin import GifImageFile

from service.errors import UndecodableImage
from service.imaging.picture import Picture, read_pixels

_HEADER_BYTES = 13
_EXTENSION = 0x21
_IMAGE = 0x2C
_GRAPHIC_CONTROL = 0xF9
_MAX_BLOCKS = 100_000


def read_gif(data: memoryview) -> Picture:
    """The first frame of a GIF file, on a screen that is made large enough for it."""
    screen_width, screen_height, flags = struct.unpack_from("<HHB", data, 6)
    palette_end = _HEADER_BYTES + (6 << (flags & 7) if flags & 0x80 else 0)
    control, frame_start = _find_frame(data, palette_end)
    left, top, width, height = struct.unpack_from("<4H", data, frame_start + 1)
    first = b"".join((data[:palette_end], control, data[frame_start:]))
    return Picture(
        (max(screen_height, top + height), max(screen_width, left + width)),
        1,
        lambda: read_pixels(GifImageFile(BytesIO(first))),
    )


def _find_frame(data: memoryview, position: int) -> tuple[bytes, int]:
    """The graphic control of the first frame, and where the frame begins."""
    control = b""
    for _ in range(_MAX_BLOCKS):
        if data[position] == _IMAGE:
            return control, position
        if data[position] != _EXTENSION:
            position += 1
            continue
        if data[position + 1] == _GRAPHIC_CONTROL:
            control = _transparency_alone(data[position : position + 8])
        position += 2
        # An empty block ends an extension.
        while data[position]:
            position += 1 + data[position]
        position += 1
    raise UndecodableImage(f"The GIF image has more than {_MAX_BLOCKS} blocks before its frame.")


def _transparency_alone(control: memoryview) -> bytes:
    """The same graphic control for a frame that nothing follows: no disposal, no delay."""
    transparent = control[6]
    return bytes((_EXTENSION, _GRAPHIC_CONTROL, 4, control[3] & 1, 0, 0, transparent, 0))
