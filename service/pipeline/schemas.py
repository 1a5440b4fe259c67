"""The JSON of an answer, as the OpenAPI document describes it."""

from typing import TypeAlias

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from service.output.parts import Grouping


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
