"""BMP files: Microsoft, BITMAPINFOHEADER and its relatives."""

from io import BytesIO

from PIL.BmpImagePlugin import BmpImageFile

from service.errors import UndecodableImage
from service.imaging.picture import Picture, picture_of

_RUN_LENGTH = frozenset({1, 2})
# Pillow decodes runs in Python, some 5 million pixels or bytes per second.
_MAX_RUN_LENGTH_PIXELS = 2_000_000
_MAX_RUN_LENGTH_BYTES = 4_000_000


def read_bmp(data: memoryview) -> Picture:
    """The picture in a BMP file."""
    image = BmpImageFile(BytesIO(data))
    if image.info["compression"] in _RUN_LENGTH and (
        image.width * image.height > _MAX_RUN_LENGTH_PIXELS or len(data) > _MAX_RUN_LENGTH_BYTES
    ):
        raise UndecodableImage("A run-length encoded BMP image may have 2 million pixels at most.")
    return picture_of(image)
