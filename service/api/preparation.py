"""The client's pictures as the device and the drawing of the answer take them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.allocator import large_blocks_given_back
from service.api.plan import Plan, query_for
from service.api.submission import Submission
from service.datatypes import Output, Sample
from service.errors import ImageTooLarge, InvalidParameter, UndecodableImage
from service.imaging.atlas import decode_atlas
from service.imaging.decode import Encoded, open_image
from service.imaging.picture import LARGE_PIXELS
from service.imaging.resize import resize_image
from service.output.drawing import Scenery
from service.output.textures import is_atlas_shape

MAX_ATLAS_PIXELS = 4096 * 6144


@dataclass(frozen=True, slots=True)
class Prepared:
    """What goes to the device, and what stays here for the render; with the seconds it took."""

    sample: Sample
    scenery: Scenery
    stage_seconds: dict[str, float]

    @property
    def num_bytes(self) -> int:
        """What all of it takes in memory; a photo that both sides need is counted once."""
        photo = self.scenery.photo or self.sample.photo
        arrays = (
            self.sample.pixels_hw3,
            None if photo is None else photo.pixels_HW3,
            self.scenery.atlas,
        )
        return sum(array.nbytes for array in arrays if array is not None)


@dataclass(frozen=True, slots=True)
class Unprepared:
    """Pictures whose headers were read; no pixel was decoded yet."""

    num_pixels: int
    prepare: Callable[[], Prepared]
    """What `prepare` returns of them, with its errors."""

    @property
    def is_large(self) -> bool:
        """Whether to prepare them takes much memory and time."""
        return self.num_pixels > LARGE_PIXELS

    def prepare_large(self) -> Prepared:
        """The same, and keeps no memory for the next ones."""
        with large_blocks_given_back():
            return self.prepare()


def prepare_unless_large(
    submission: Submission, plan: Plan, *, max_pixels: int
) -> Prepared | Unprepared:
    """The same as `prepare`, unless the pictures are large: these are left as they are."""
    pictures = _open(submission, plan, max_pixels=max_pixels)
    return pictures if pictures.is_large else pictures.prepare()


def prepare(submission: Submission, plan: Plan, *, max_pixels: int) -> Prepared:
    """The image as the network takes it, and what to ask about it.

    Raises:
        ImageTooLarge, UndecodableImage: the image or the atlas.
        InvalidParameter: the boxes or points, or the atlas, do not fit.
    """
    pictures = _open(submission, plan, max_pixels=max_pixels)
    return pictures.prepare()


def _open(submission: Submission, plan: Plan, *, max_pixels: int) -> Unprepared:
    image = open_image(submission.image, max_pixels=max_pixels)
    num_pixels = image.num_pixels
    if submission.atlas is not None:
        with _named("atlas"):
            num_pixels += open_image(submission.atlas, max_pixels=MAX_ATLAS_PIXELS).num_pixels
    return Unprepared(num_pixels, partial(_prepare, image, submission.atlas, plan))


def _prepare(encoded: Encoded, encoded_atlas: bytes | memoryview | None, plan: Plan) -> Prepared:
    begun_s = time.monotonic()
    image = encoded.decode()
    atlas = None if encoded_atlas is None else _read_atlas(encoded_atlas)
    decoded_s = time.monotonic()
    query = query_for(plan, image.size_hw)
    short_side, long_side = plan.short_and_long_side
    pixels_hw3 = resize_image(image, short_side=short_side, long_side=long_side)
    return Prepared(
        Sample(
            pixels_hw3,
            image.size_hw,
            query,
            photo=image if Output.TEXTURE in query.outputs else None,
        ),
        Scenery(photo=image if plan.is_drawn_on_photo else None, atlas=atlas),
        {"decode": decoded_s - begun_s, "preprocess": time.monotonic() - decoded_s},
    )


def _read_atlas(data: bytes | memoryview) -> NDArray[np.uint8]:
    with _named("atlas"):
        atlas = decode_atlas(data, max_pixels=MAX_ATLAS_PIXELS)
    height, width = atlas.shape[:2]
    if not is_atlas_shape(height, width):
        raise InvalidParameter(
            f"atlas: it has {width} x {height} pixels; it should have 4 N x 6 N, N up to 1024."
        )
    return atlas


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Says in what is raised which of the pictures it is about."""
    try:
        yield
    except (ImageTooLarge, UndecodableImage) as error:
        raise type(error)(f"{name}: {error}") from None
