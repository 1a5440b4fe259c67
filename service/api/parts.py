"""GET /v1/parts: the charts of the body."""

from fastapi import APIRouter

from service.api.schemas import PartDescription, PartList
from service.output.palettes import Palette, label_colours
from service.output.parts import COARSE_NAMES, PARTS


def parts_router() -> APIRouter:
    """The route /v1/parts."""
    router = APIRouter(prefix="/v1/parts", tags=["images"])
    colours = {palette: label_colours(palette) for palette in Palette}
    parts = PartList(
        parts=[
            PartDescription(
                number=part.number,
                name=part.name,
                side=part.side,
                mirror=part.mirror,
                coarse=part.coarse,
                coarse_name=COARSE_NAMES[part.coarse - 1],
                limb=part.limb,
                colours={
                    palette: f"#{of_label[part.number].tobytes().hex()}"
                    for palette, of_label in colours.items()
                },
            )
            for part in PARTS
        ]
    )

    @router.get("")
    async def list_parts() -> PartList:
        """The 24 charts that labels and I number, and their colours in each palette."""
        return parts

    return router
