"""GET /v1/renders: the pictures and files for downstream tools."""

from dataclasses import asdict

from fastapi import APIRouter

from service.api.schemas import RenderDescription, RenderList, ToolDescription
from service.output.presets import PRESETS


def renders_router() -> APIRouter:
    """The route /v1/renders."""
    router = APIRouter(prefix="/v1/renders", tags=["images"])
    renders = RenderList(
        renders=[
            RenderDescription(
                name=preset.name,
                description=preset.description,
                tool=", ".join(tool.name for tool in preset.tools),
                tools=[ToolDescription(**asdict(tool)) for tool in preset.tools],
                source=preset.source,
                media_type=preset.media_type,
                channels=preset.channels,
                kinds=tuple(preset.needs),
                palette=preset.palette,
                alpha=preset.alpha,
                background=preset.background,
                people=preset.tools[0].people,
                min_score=preset.tools[0].min_score,
                max_instances=preset.tools[0].max_instances,
            )
            for preset in PRESETS.values()
        ]
    )

    @router.get("")
    async def list_renders() -> RenderList:
        """What the parameter `render` can be, which tool each is for, and how it is known."""
        return renders

    return router
