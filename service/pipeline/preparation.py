"""The client's pictures as the device and the drawing of the answer take them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.datatypes import Output, Sample
from service.errors import InvalidParameter
from service.imaging.decoders import Decoders
from service.imaging.pictures import File, Wanted
from service.output.drawing import Scenery, is_atlas_shape
from service.pipeline.plan import Plan, query_for


@dataclass(frozen=True, slots=True)
class Pictures:
    """What a client sent, encoded: the image, and an atlas for a render that is textured."""

    image: File
    atlas: File | None = None


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


async def prepare(
    pictures: Pictures,
    plan: Plan,
    decoders: Decoders,
    deadline_s: float,
    *,
    max_pixels: int,
) -> Prepared:
    """The image as the network takes it, and what to ask about it.

    Raises:
        ImageTooLarge, UndecodableImage: the image or the atlas.
        InvalidParameter: the boxes or points, or the atlas, do not fit.
    """
    short_side, long_side = plan.short_and_long_side
    is_gathered_from = Output.TEXTURE in plan.needed_outputs
    wanted = Wanted(
        max_pixels=max_pixels,
        short_side=short_side,
        long_side=long_side,
        is_photo_kept=plan.is_drawn_on_photo or is_gathered_from,
    )
    pixels = await decoders.read(pictures.image, pictures.atlas, wanted, deadline_s)
    if pixels.atlas is not None:
        _check_atlas(pixels.atlas)
    query = query_for(plan, pixels.image_size_hw)
    return Prepared(
        Sample(
            pixels.resized_hw3,
            pixels.image_size_hw,
            query,
            photo=pixels.photo if is_gathered_from else None,
        ),
        Scenery(photo=pixels.photo if plan.is_drawn_on_photo else None, atlas=pixels.atlas),
        {"decode": pixels.decode_s, "preprocess": pixels.resize_s},
    )


def _check_atlas(atlas: NDArray[np.uint8]) -> None:
    height, width = atlas.shape[:2]
    if not is_atlas_shape(height, width):
        raise InvalidParameter(
            f"atlas: it has {width} x {height} pixels; it should have 4 N x 6 N, N up to 1024."
        )
