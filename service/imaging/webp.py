"""WebP files: RFC 9649."""

from io import BytesIO

from PIL.WebPImagePlugin import WebPImageFile

from service.imaging.orientation import read_orientation
from service.imaging.picture import Picture, picture_of


def read_webp(data: memoryview) -> Picture:
    """The picture in a WebP file; of an animated one, the first frame."""
    image = WebPImageFile(BytesIO(data))
    return picture_of(image, read_orientation(image.info.get("exif", b"")))
