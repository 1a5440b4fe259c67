"""Pictures to encode, and Pillow's reading of files to hold ours against."""

from collections.abc import Callable
from io import BytesIO
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.imaging.decode import decode_image

RGB: TypeAlias = NDArray[np.uint8]


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """53 x 37 pixels: gradients, edges and noise; no symmetry."""
    y, x = np.mgrid[:37, :53]
    pixels = np.stack([x * 255 // 53, y * 255 // 37, x * y % 256], axis=-1).astype(np.uint8)
    pixels[5:15, 5:20] = np.random.default_rng(0).integers(0, 256, (10, 15, 3))
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def save() -> Callable[..., bytes]:
    """A picture as a file of Pillow's making."""

    def save_picture(picture: Image.Image, kind: str, **options: object) -> bytes:
        file = BytesIO()
        picture.save(file, kind, **options)
        return file.getvalue()

    return save_picture


@pytest.fixture(scope="session")
def pillow_reading() -> Callable[[bytes], RGB]:
    """What Pillow reads from a file, upright, R, G, B; 16-bit grey scaled and not clipped."""

    def read(data: bytes) -> RGB:
        with Image.open(BytesIO(data)) as file:
            file.info.pop("transparency", None)
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I;16"):
                return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., None], 3, axis=2)
            return np.asarray(picture.convert("RGB"))

    return read


@pytest.fixture(scope="session")
def our_reading() -> Callable[[bytes], RGB]:
    """What the service reads from a file, R, G, B."""

    def read(data: bytes) -> RGB:
        pixels = decode_image(data, max_pixels=1_000_000).pixels_HW3
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        return pixels[..., ::-1]

    return read
