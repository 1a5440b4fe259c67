"""The pictures of one request: what is wanted of them, and what they are then.

The resize before the network is bit-equal with detectron2's.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from service.datatypes import Image, SizeHW
from service.errors import ImageTooLarge, InvalidParameter, UndecodableImage
from service.imaging.decode import Encoded, open_image
from service.imaging.picture import LARGE_PIXELS

File: TypeAlias = bytes | bytearray | memoryview
MAX_ATLAS_PIXELS = 4096 * 6144


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

    `resized_hw3` is what `resize_image` returns; `atlas` is uint8 [H, W, 3], R, G, B, and of a PNG
    file with alpha [H, W, 4].
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
        sides = {"short_side": wanted.short_side, "long_side": wanted.long_side}
        image_size_hw = self.image.size_hw
        # Where there is no such size, nothing needs to be decoded.
        resized_size_hw(image_size_hw, **sides)
        begun_s = time.monotonic()
        image = Image(self.image.decode())
        atlas = None
        if self.atlas is not None:
            with _named("atlas"):
                atlas = self.atlas.decode()
            order = cv2.COLOR_BGR2RGB if atlas.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
            atlas = np.asarray(cv2.cvtColor(atlas, order), np.uint8)
        decoded_s = time.monotonic()
        resized_hw3 = resize_image(image, **sides)
        return Pixels(
            resized_hw3,
            image_size_hw,
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
        max_pixels = MAX_ATLAS_PIXELS
        return Opened(opened, open_image(atlas, max_pixels=max_pixels, is_alpha_kept=True))


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Says in what is raised which of the pictures it is about."""
    try:
        yield
    except (ImageTooLarge, UndecodableImage) as error:
        raise type(error)(f"{name}: {error}") from None


def resized_size_hw(size_hw: SizeHW, *, short_side: int, long_side: int) -> SizeHW:
    """The size with the shorter side at `short_side`, unless the other one gets over `long_side`.

    detectron2/data/transforms/augmentation_impl.py: ResizeShortestEdge.get_output_shape, in the
    order of its floating-point operations.

    Raises:
        InvalidParameter: a side would have no pixel.
    """
    height, width = size_hw
    scale = float(short_side) / min(height, width)
    if height < width:
        new_height, new_width = float(short_side), scale * width
    else:
        new_height, new_width = scale * height, float(short_side)
    if max(new_height, new_width) > long_side:
        scale = float(long_side) / max(new_height, new_width)
        new_height *= scale
        new_width *= scale
    resized = int(new_height + 0.5), int(new_width + 0.5)
    if 0 in resized:
        raise InvalidParameter(
            f"short_side: at {short_side}, an image of {width} x {height} pixels would be resized "
            f"to {resized[1]} x {resized[0]}."
        )
    return resized


def resize_image(image: Image, *, short_side: int, long_side: int) -> NDArray[np.uint8]:
    """The picture as the network takes it: uint8 [h, w, 3], channels B, G, R, C-contiguous.

    It is the image's own array where that has the size already.

    Raises:
        InvalidParameter: a side would have no pixel.
    """
    pixels_HW3 = image.pixels_HW3
    image_height, image_width = pixels_HW3.shape[:2]
    size_hw = resized_size_hw(
        (image_height, image_width), short_side=short_side, long_side=long_side
    )
    if size_hw == (image_height, image_width):
        return pixels_HW3
    if image_height * image_width <= LARGE_PIXELS:
        return _resize(pixels_HW3, size_hw)
    # Pillow copies colours, and takes 4 bytes for them. What has one channel it uses where it is.
    channels = (np.asarray(cv2.extractChannel(pixels_HW3, index), np.uint8) for index in range(3))
    return np.dstack([_resize(channel, size_hw) for channel in channels])


def _resize(pixels: NDArray[np.uint8], size_hw: SizeHW) -> NDArray[np.uint8]:
    # The channels are B, G, R under Pillow's names R, G, B; it treats all of them alike. Only
    # Pillow's own filter rounds like Pillow's.
    picture = PillowImage.fromarray(pixels)
    return np.array(picture.resize(size_hw[::-1], PillowImage.Resampling.BILINEAR))
