"""GIF files: CompuServe, Graphics Interchange Format 89a.

Only the first frame reaches Pillow, without what comes before it and would be read in Python.
"""

import struct

from PIL.GifImagePlugin import GifImageFile

from service.errors import UndecodableImage
from service.imaging.picture import Picture, PillowFile

_HEADER_BYTES = 13
_EXTENSION, _IMAGE, _GRAPHIC_CONTROL = 0x21, 0x2C, 0xF9
_MAX_BLOCKS = 100_000


def read_gif(data: memoryview) -> Picture:
    """The first frame of a GIF file, on a screen that is made large enough for it."""
    screen_width, screen_height, flags = struct.unpack_from("<HHB", data, 6)
    palette_end = _HEADER_BYTES + (6 << (flags & 7) if flags & 0x80 else 0)
    control, frame_start = _find_frame(data, palette_end)
    left, top, width, height = struct.unpack_from("<4H", data, frame_start + 1)
    size_hw = max(screen_height, top + height), max(screen_width, left + width)
    file = PillowFile(GifImageFile, (data[:palette_end], control, data[frame_start:]))
    return Picture(size_hw, 1, file, is_costly=True)


def _find_frame(data: memoryview, position: int) -> tuple[bytes, int]:
    """A graphic control with the first frame's transparency, and where the frame begins."""
    control, is_inside = b"", False
    for _ in range(_MAX_BLOCKS):
        if is_inside:
            # An empty block ends an extension.
            is_inside = data[position] > 0
            position += 1 + data[position]
        elif data[position] == _IMAGE:
            return control, position
        elif data[position] != _EXTENSION:
            position += 1
        else:
            if data[position + 1] == _GRAPHIC_CONTROL:
                # Nothing follows the frame: no disposal, no delay.
                has_transparent, transparent = data[position + 3] & 1, data[position + 6]
                control = bytes((*b"!\xf9\4", has_transparent, 0, 0, transparent, 0))
            position += 2
            is_inside = True
    raise UndecodableImage(f"The GIF image has more than {_MAX_BLOCKS} blocks before its frame.")
