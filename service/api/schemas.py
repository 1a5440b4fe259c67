"""What goes over the wire: the parameters of a request, and the JSON of the answers."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from service.api.backend import ModelState
from service.api.bounded_json import parse_json
from service.datatypes import Output

MAX_BOXES = 100
MAX_NAME = 200


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_number", "should be a number, not true or false")
    return value


def _known_output(name: Any) -> Any:
    if name not in (*Output, "none"):
        names = ", ".join((*Output, "none"))
        raise PydanticCustomError("unknown_output", "should be one of {names}", {"names": names})
    return name


def _list_of_text(value: Any) -> Any:
    """A comma list or a JSON list, where a value came as text."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return _value_of_json(value)
    return [item.strip() for item in value.split(",", MAX_BOXES + 1)]


def _value_of_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except ValueError:
        raise PydanticCustomError("not_json", "should be a list in JSON") from None


def _ordered(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise PydanticCustomError("empty_box", "should be x0, y0, x1, y1 with x0 < x1 and y0 < y1")
    return box


NOT_BOOL = BeforeValidator(_refuse_bool)
Number: TypeAlias = Annotated[float, NOT_BOOL]
Name: TypeAlias = Annotated[str, Field(max_length=MAX_NAME)]
OutputName: TypeAlias = Annotated[Output | Literal["none"], BeforeValidator(_known_output)]
OutputNames: TypeAlias = Annotated[
    tuple[OutputName, ...], Field(min_length=1, max_length=2 * len(Output))
]
ClassName: TypeAlias = Annotated[int | Name, NOT_BOOL]
ClassNames: TypeAlias = Annotated[tuple[ClassName, ...], Field(max_length=MAX_BOXES)]
Box: TypeAlias = Annotated[tuple[Number, Number, Number, Number], AfterValidator(_ordered)]
Boxes: TypeAlias = Annotated[tuple[Box, ...], Field(max_length=MAX_BOXES)]
# Left out, a parameter has no value; null is none that a client can send.
Absent: TypeAlias = SkipJsonSchema[None]


class Parameters(BaseModel):
    """Everything that a client may say about an image, wherever it says it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: Annotated[
        Name | Absent,
        Field(description="A model's id or alias, without regard to case.", examples=["demo"]),
    ] = None
    min_score: Annotated[
        float,
        Field(ge=0, le=1, description="Instances that score less are left out.", examples=[0.5]),
        NOT_BOOL,
    ] = 0.5
    max_instances: Annotated[
        int,
        Field(ge=1, le=100, description="The best-scoring instances are kept.", examples=[20]),
        NOT_BOOL,
    ] = 20
    short_side: Annotated[
        Annotated[int, Field(ge=128, le=1333), NOT_BOOL] | Absent,
        Field(
            description="The image's short side as the network sees it; the long side may be "
            "1333/800 of it. Left out: the model's own.",
            examples=[800],
        ),
    ] = None
    outputs: Annotated[
        OutputNames | Absent,
        Field(
            description="The maps wanted, as a comma list (or a JSON list); `none` for boxes "
            "alone. Left out: `iuv` of a chart model, `vertices` of a CSE model.",
            examples=["iuv,mask"],
        ),
        BeforeValidator(_list_of_text, json_schema_input_type=OutputNames | str),
    ] = None
    boxes: Annotated[
        Boxes | Absent,
        Field(
            description="Describe these boxes, `[[x0,y0,x1,y1],...]` in pixels of the image, and "
            "skip the detector; `min_score` and `max_instances` do not apply.",
            examples=["[[10.5,20,110,220]]"],
        ),
        BeforeValidator(_value_of_json, json_schema_input_type=Boxes | str),
    ] = None
    classes: Annotated[
        ClassNames | Absent,
        Field(
            description="The class of each given box, by id or name, as a comma list (or a JSON "
            "list). A model with several classes needs it, or `mesh`, with `boxes`.",
            examples=["person"],
        ),
        BeforeValidator(_list_of_text, json_schema_input_type=ClassNames | str),
    ] = None
    mesh: Annotated[
        Name | Absent,
        Field(
            description="CSE: match against this mesh of the model, whatever the class.",
            examples=["smpl_27554"],
        ),
    ] = None
    layout: Annotated[
        Literal["instance", "image"],
        Field(
            description="Maps of each instance's region, or one map per output of the image.",
            examples=["instance"],
        ),
    ] = "instance"
    timeout_ms: Annotated[
        Annotated[int, Field(ge=1), NOT_BOOL] | Absent,
        Field(
            description="The whole request's time, queue included; lowered to the server's limit.",
            examples=[10000],
        ),
    ] = None


class AnswerMap(BaseModel):
    """One map; quantized samples mean offset + scale * sample."""

    media_type: str = Field(examples=["image/png"])
    width: int
    height: int
    data: str = Field(description="The file in base64.", examples=["iVBORw0KGgo..."])
    scale: float | SkipJsonSchema[None] = None
    offset: float | SkipJsonSchema[None] = None


# By output; `confidence` is an object of maps, by field.
AnswerMaps: TypeAlias = dict[str, AnswerMap | dict[str, AnswerMap]]


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
