"""The pictures of one request: what is wanted of them, and what they are then."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.datatypes import Image, SizeHW
from service.errors import ImageTooLarge, UndecodableImage
from service.imaging.atlas import decode_atlas, open_atlas
from service.imaging.decode import Encoded, open_image
from service.imaging.picture import LARGE_PIXELS
from service.imaging.resize import resize_image, resized_size_hw

File: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Wanted:
    """How large the image may be, and what is made of it; the photo is the image at its size."""

    max_pixels: int
    short_side: int
    long_side: int
    is_photo_kept: bool


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image as the network takes it, and what else is kept, with the seconds that it took.

    `resized_hw3` is what `resize_image` returns, and `atlas` what `decode_atlas` does.
    """

    resized_hw3: NDArray[np.uint8]
    image_size_hw: SizeHW
    photo: Image | None
    atlas: NDArray[np.uint8] | None
    decode_s: float
    resize_s: float


@dataclass(frozen=True, slots=True)
class Opened:
    """An image and perhaps an atlas; their headers were read, and no pixel was decoded yet."""

    image: Encoded
    atlas: Encoded | None

    @property
    def is_large(self) -> bool:
        """Whether they take so much memory that few are decoded at a time."""
        num_pixels = self.image.num_pixels + (self.atlas.num_pixels if self.atlas else 0)
        return num_pixels > LARGE_PIXELS

    @property
    def is_costly(self) -> bool:
        """Whether to decode them may take much time or memory."""
        is_atlas_costly = self.atlas is not None and self.atlas.is_costly
        return self.is_large or self.image.is_costly or is_atlas_costly

    def read(self, wanted: Wanted) -> Pixels:
        """What is wanted of them.

        Raises:
            UndecodableImage: one is damaged or cut short.
            InvalidParameter: a side of the resized image would have no pixel.
        """
        # Where there is no such size, nothing needs to be decoded.
        resized_size_hw(
            self.image.size_hw, short_side=wanted.short_side, long_side=wanted.long_side
        )
        begun_s = time.monotonic()
        image = self.image.decode()
        atlas = None
        if self.atlas is not None:
            with _named("atlas"):
                atlas = decode_atlas(self.atlas)
        decoded_s = time.monotonic()
        resized_hw3 = resize_image(image, short_side=wanted.short_side, long_side=wanted.long_side)
        return Pixels(
            resized_hw3,
            image.size_hw,
            image if wanted.is_photo_kept else None,
            atlas,
            decoded_s - begun_s,
            time.monotonic() - decoded_s,
        )


def open_pictures(image: File, atlas: File | None, *, max_pixels: int) -> Opened:
    """The pictures, yet to be decoded.

    Raises:
        ImageTooLarge, UndecodableImage: as `open_image`; of an atlas with its name.
    """
    opened = open_image(image, max_pixels=max_pixels)
    if atlas is None:
        return Opened(opened, None)
    with _named("atlas"):
        return Opened(opened, open_atlas(atlas))


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Says in what is raised which of the pictures it is about."""
    try:
        yield
    except (ImageTooLarge, UndecodableImage) as error:
        raise type(error)(f"{name}: {error}") from None
