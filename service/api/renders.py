"""GET /v1/renders: the pictures and files for downstream tools."""

from fastapi import APIRouter

from service.api.schemas import RenderDescription, RenderList
from service.output.preset_table import PRESETS


def renders_router() -> APIRouter:
    """The route /v1/renders."""
    router = APIRouter(prefix="/v1/renders", tags=["images"])
    renders = RenderList(
        renders=[
            RenderDescription(
                name=preset.name,
                description=preset.description,
                tool=preset.tool,
                source=preset.source,
                media_type=preset.media_type,
                channels=preset.channels,
                kinds=tuple(preset.needs),
                palette=preset.palette,
                alpha=preset.alpha,
                background=preset.background,
                people=preset.people,
                min_score=preset.min_score,
            )
            for preset in PRESETS.values()
        ]
    )

    @router.get("")
    async def list_renders() -> RenderList:
        """What the parameter `render` can be, which tool each is for, and how it is known."""
        return renders

    return router
