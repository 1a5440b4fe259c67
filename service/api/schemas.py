"""The JSON of the answers."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from service.datatypes import ModelState, Output
from service.output.parts import Grouping, Side


class AnswerMap(BaseModel):
    """One map or picture; quantized samples mean offset + scale * sample."""

    media_type: str = Field(examples=["image/png"])
    width: int
    height: int
    data: str | SkipJsonSchema[None] = Field(
        default=None, description="The file in base64.", examples=["iVBORw0KGgo..."]
    )
    file: str | SkipJsonSchema[None] = Field(
        default=None, description="In an archive, the file's name there.", examples=["0.iuv.png"]
    )
    scale: float | SkipJsonSchema[None] = None
    offset: float | SkipJsonSchema[None] = None


# By output; `confidence` is an object of maps, by field.
AnswerMaps: TypeAlias = dict[str, AnswerMap | dict[str, AnswerMap]]


class AnswerPart(BaseModel):
    """What is seen of some charts of the body; places are in pixels of the image."""

    name: str = Field(examples=["left hand"])
    charts: tuple[int, ...] = Field(description="See /v1/parts.", examples=[[4]])
    pixels: int
    box: tuple[int, int, int, int] = Field(description="x0, y0, x1, y1 around the pixels.")
    centroid: tuple[float, float]
    share: float = Field(description="Of the pixels of the instance's body.")
    confidence: dict[str, float] | SkipJsonSchema[None] = Field(
        default=None, description="The mean of each confidence that the model has."
    )


class AnswerInstance(BaseModel):
    """One described person or animal."""

    score: float = Field(examples=[0.98])
    class_id: int | None = Field(examples=[0])
    class_name: str | None = Field(examples=["person"])
    box: tuple[float, float, float, float] = Field(
        description="x0, y0, x1, y1 in pixels of the image.", examples=[[10.25, 20.5, 110.75, 220]]
    )
    region: tuple[int, int, int, int] = Field(
        description="x, y, width, height: the pixels that the maps cover.",
        examples=[[10, 20, 100, 199]],
    )
    mesh: str | SkipJsonSchema[None] = Field(default=None, description="Of CSE models only.")
    maps: AnswerMaps
    parts: dict[Grouping, list[AnswerPart]] | SkipJsonSchema[None] = Field(
        default=None, description="With `parts`: what is seen, by each grouping asked for."
    )


class AnswerHit(BaseModel):
    """An instance whose body is under a point, and the place on the body."""

    instance: int = Field(description="Its index in `instances`.")
    chart: int | SkipJsonSchema[None] = Field(default=None, description="See /v1/parts.")
    name: str | SkipJsonSchema[None] = Field(default=None, examples=["left hand"])
    u: float | SkipJsonSchema[None] = None
    v: float | SkipJsonSchema[None] = None
    vertex: int | SkipJsonSchema[None] = Field(
        default=None, description="Of the instance's mesh, from 0; of CSE models only."
    )


class AnswerPoint(BaseModel):
    """What is under a point; nothing where it is on nobody."""

    point: tuple[float, float]
    hits: list[AnswerHit]


class AnswerImage(BaseModel):
    """The image as it was decoded, upright."""

    width: int = Field(examples=[480])
    height: int = Field(examples=[360])


class Timing(BaseModel):
    """Milliseconds of each stage, and of the whole up to the writing of the answer."""

    read: float
    decode: float
    queue: float
    preprocess: float
    network: float
    postprocess: float
    encode: float
    total: float


class Answer(BaseModel):
    """All that was found in one image."""

    model: str = Field(examples=["R_50_FPN_s1x"])
    notice: str | SkipJsonSchema[None] = Field(
        default=None, description="What one should know about the model before using its answers."
    )
    image: AnswerImage
    instances: list[AnswerInstance]
    maps: AnswerMaps = Field(description="The maps of the whole image, with layout=image.")
    render: AnswerMap | SkipJsonSchema[None] = Field(
        default=None, description="With `render`: the picture or file."
    )
    points: list[AnswerPoint] | SkipJsonSchema[None] = Field(
        default=None, description="With `points`: what is under each, in their order."
    )
    timing_ms: Timing


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
