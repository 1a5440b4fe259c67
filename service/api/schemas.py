"""The JSON of the answers."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, Field

from service.datatypes import ModelState, Output
from service.output.parts import Side


class ProblemDetails(BaseModel):
    """An error: `code` is stable, `detail` is for people and tells what to do. RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str


class Health(BaseModel):
    """Whether all is well, and the reason where it is not."""

    status: Literal["ok", "unavailable"]
    reason: str


class ModelDescription(BaseModel):
    """One model; bytes and unused arrays are null as long as they are not known."""

    id: str = Field(examples=["R_50_FPN_s1x"])
    aliases: tuple[str, ...] = Field(examples=[["densepose_rcnn_R_50_FPN_s1x", "165712039"]])
    kind: Literal["chart", "cse"]
    outputs: tuple[Output, ...]
    classes: tuple[str, ...] = Field(description="Names, in the order of the class ids.")
    meshes: tuple[str, ...] = Field(description="Of CSE models only.")
    state: ModelState
    bytes_on_disk: int | None
    bytes_on_host: int | None
    bytes_on_device: int | None
    licence: str | None
    source: str | None = Field(description="Where the checkpoint comes from.")
    published: Mapping[str, float] = Field(description="What the model's authors measured.")
    notice: str | None
    unused_arrays: tuple[str, ...] | None


class ModelList(BaseModel):
    """The models that are served, and the one that is taken where none is named."""

    default: str
    models: list[ModelDescription]


class PartDescription(BaseModel):
    """One of the body's 24 charts; names and sides are the person's own."""

    number: int = Field(examples=[4])
    name: str = Field(examples=["left hand"])
    side: Side | None = Field(description="null for the torso.")
    mirror: int = Field(description="The chart that it becomes in a mirrored picture.")
    coarse: int = Field(description="Its label among the 14 coarse parts.")
    coarse_name: str
    limb: str = Field(examples=["arms"])
    colours: Mapping[str, str] = Field(
        description="By palette.", examples=[{"parula": "#086edd", "viridis": "#443983"}]
    )


class PartList(BaseModel):
    """The charts of the body, in the order of their numbers."""

    parts: list[PartDescription]


class ToolDescription(BaseModel):
    """A tool that reads a render; what it asks of the model itself, null where not known."""

    name: str = Field(examples=["HR-VITON"])
    min_score: float | None
    max_instances: int | None
    people: str


class RenderDescription(BaseModel):
    """A picture or file for a downstream tool; null where something means nothing to it."""

    name: str = Field(examples=["viton"])
    description: str
    tool: str = Field(description="Who reads it: the names of `tools`.")
    tools: list[ToolDescription] = Field(
        description="With these values the render equals the tool's own picture: ask for them."
    )
    source: str = Field(description="Where its form is known from.")
    media_type: str
    channels: tuple[str, ...] = Field(description="In the order of the file.")
    kinds: tuple[Literal["chart", "cse"], ...] = Field(description="Of the models that give it.")
    palette: str | None
    alpha: float | None
    background: str | None
    people: str = Field(description="Of the first of `tools`, as the next two.")
    min_score: float | None
    max_instances: int | None


class RenderList(BaseModel):
    """What `render` can be."""

    renders: list[RenderDescription]
