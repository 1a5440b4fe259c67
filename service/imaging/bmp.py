"""BMP files: Microsoft, BITMAPINFOHEADER and its relatives."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL.BmpImagePlugin import BmpImageFile

from service.errors import UndecodableImage
from service.imaging.picture import Picture, read_pixels

_RUN_LENGTH = frozenset({1, 2})
# Pillow decodes runs in Python, some 5 million pixels or bytes per second.
_MAX_RUN_LENGTH_PIXELS = 2_000_000
_MAX_RUN_LENGTH_BYTES = 4_000_000
# File header, the longest other header, masks and a palette.
_MAX_HEADER_BYTES = 14 + 124 + 16 + 4 * 256


def read_bmp(data: memoryview) -> Picture:
    """The picture in a BMP file."""
    with BmpImageFile(BytesIO(data[:_MAX_HEADER_BYTES])) as image:
        if image.info["compression"] in _RUN_LENGTH and (
            image.width * image.height > _MAX_RUN_LENGTH_PIXELS or len(data) > _MAX_RUN_LENGTH_BYTES
        ):
            raise UndecodableImage(
                "A run-length encoded BMP image may have 2 million pixels at most."
            )

        def decode() -> NDArray[np.uint8]:
            with BmpImageFile(BytesIO(data)) as image:
                return read_pixels(image)

        return Picture((image.height, image.width), 1, decode, is_costly=True)
