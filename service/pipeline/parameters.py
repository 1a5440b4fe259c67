"""Everything that a client can say about an image, wherever it says it."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from service.errors import InvalidParameter
from service.pipeline.values import (
    COMMA_LIST,
    JSON_LIST,
    PERSON,
    SIZE,
    Absent,
    Background,
    Boxes,
    ClassNames,
    Groupings,
    Name,
    Number,
    OutputNames,
    PaletteName,
    People,
    Points,
    PresetName,
    SizeText,
    Whole,
)

MAX_SHOWN_ERRORS = 3
# Those that take several values as a comma list.
LISTS = frozenset({"outputs", "classes", "parts"})
# What pydantic's errors are called here, where they are met.
WORDS = {
    "missing": "is missing",
    "too_short": "should not be empty",
    "too_long": "should have {max_length} items at most",
    "tuple_type": "should be a list",
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "int_parsing_size": "has too many digits",
    "float_type": "should be a number",
    "finite_number": "should be a finite number",
    "greater_than_equal": "should be at least {ge}",
    "less_than_equal": "should be at most {le}",
    "string_type": "should be text",
    "string_too_long": "should have {max_length} characters at most",
    "string_unicode": "should be text in valid Unicode",
    "literal_error": "should be {expected}",
    "enum": "should be {expected}",
}


class Parameters(BaseModel):
    """The parameters and their defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: Annotated[
        Name | Absent,
        Field(description="A model's id or alias, without regard to case.", examples=["demo"]),
    ] = None
    min_score: Annotated[
        Number,
        Field(ge=0, le=1, description="Instances that score less are left out.", examples=[0.5]),
    ] = 0.5
    max_instances: Annotated[
        Whole,
        Field(ge=1, le=100, description="The best-scoring instances are kept.", examples=[20]),
    ] = 20
    short_side: Annotated[
        Annotated[Whole, Field(ge=128, le=1333)] | Absent,
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
            "alone. Left out: none with `render`, else `iuv` of a chart model, `vertices` of a "
            "CSE model.",
            examples=["iuv,mask"],
        ),
        BeforeValidator(COMMA_LIST, json_schema_input_type=OutputNames | str),
    ] = None
    boxes: Annotated[
        Boxes | Absent,
        Field(
            description="Describe these boxes, `[[x0,y0,x1,y1],...]` in pixels of the image, and "
            "skip the detector; `min_score` and `max_instances` do not apply.",
            examples=["[[10.5,20,110,220]]"],
        ),
        BeforeValidator(JSON_LIST, json_schema_input_type=Boxes | str),
    ] = None
    classes: Annotated[
        ClassNames | Absent,
        Field(
            description="The class of each given box, by id or name, as a comma list (or a JSON "
            "list). A model with several classes needs it, or `mesh`, with `boxes`.",
            examples=["person"],
        ),
        BeforeValidator(COMMA_LIST, json_schema_input_type=ClassNames | str),
    ] = None
    mesh: Annotated[
        Name | Absent,
        Field(
            description="CSE: match against this mesh of the model, whatever the class.",
            examples=["smpl_27554"],
        ),
    ] = None
    box_expand: Annotated[
        Number,
        Field(
            ge=0,
            le=2,
            description="The share of their sides by which boxes, found or given, grow around "
            "their centres before they are described.",
            examples=[0.1],
        ),
    ] = 0.0
    layout: Annotated[
        Literal["instance", "image"],
        Field(
            description="Maps of each instance's region, or one map per output of the image.",
            examples=["instance"],
        ),
    ] = "instance"
    points: Annotated[
        Points | Absent,
        Field(
            description="Tell what is under these points, `[[x,y],...]` in pixels of the image.",
            examples=["[[60.5,80]]"],
        ),
        BeforeValidator(JSON_LIST, json_schema_input_type=Points | str),
    ] = None
    parts: Annotated[
        Groupings | Absent,
        Field(
            description="Tell how much of each part is seen of each instance: by its `24` charts, "
            "the `14` coarse parts, `sides`, `limbs`, or several of these as a comma list.",
            examples=["14,sides"],
        ),
        BeforeValidator(COMMA_LIST, json_schema_input_type=Groupings | str),
    ] = None
    render: Annotated[
        PresetName | Absent,
        Field(
            description="A picture or file of the whole image for a downstream tool; "
            "`GET /v1/renders` lists them.",
            examples=["viton"],
        ),
    ] = None
    palette: Annotated[
        PaletteName | Absent,
        Field(description="The render's colours. Left out: the preset's.", examples=["parula"]),
    ] = None
    alpha: Annotated[
        Annotated[Number, Field(ge=0, le=1)] | Absent,
        Field(description="How opaque the render's colours are.", examples=[0.7]),
    ] = None
    background: Annotated[
        Background | Absent,
        Field(
            description="What the render is drawn on: `photo`, `grey`, `black`, `palette` (its "
            "first colour), `transparent`, or a colour as `#rrggbb` (in a query, `%23rrggbb`).",
            examples=["black"],
        ),
    ] = None
    paint: Annotated[
        Literal["later-on-top", "best-on-top"],
        Field(
            description="Where instances overlap in the render, which of them is seen.",
            examples=["later-on-top"],
        ),
    ] = "later-on-top"
    people: Annotated[
        People,
        Field(
            description="Who is in the render: `all`, `best`, `largest`, or an instance by its "
            "index.",
            examples=["best"],
        ),
        BeforeValidator(PERSON, json_schema_input_type=People),
    ] = "all"
    size: Annotated[
        tuple[int, int] | Absent,
        Field(
            description="The render's width and height, `768x1024`; labels, U and V are not "
            "interpolated. Left out: the image's.",
            examples=["768x1024"],
        ),
        BeforeValidator(SIZE, json_schema_input_type=SizeText),
    ] = None
    image_id: Annotated[
        Annotated[Whole, Field(ge=0, le=2**53)],
        Field(description="What `render=coco-json` calls the image.", examples=[785]),
    ] = 0
    timeout_ms: Annotated[
        Annotated[Whole, Field(ge=1)] | Absent,
        Field(
            description="The whole request's time, queue included; lowered to the server's limit.",
            examples=[10000],
        ),
    ] = None

    def has(self, name: str) -> bool:
        """Whether the parameter was given another value than its default."""
        default: Any = type(self).model_fields[name].default
        return name in self.model_fields_set and getattr(self, name) != default


def check_parameters(
    query: Iterable[tuple[str, Any]], body: Iterable[tuple[str, Any]] = ()
) -> Parameters:
    """The parameters, from pairs of name and value; text where they come from a query or a form.

    A default in one place gives way to another value in the other: generated clients send all
    defaults, in the query and in the body.

    Raises:
        InvalidParameter: one is unknown, given twice with different values, or no value that it
            can take.
    """
    in_query, in_body = _in_one_place(query), _in_one_place(body)
    said_in_body = {
        name: getattr(in_body, name) for name in Parameters.model_fields if in_body.has(name)
    }
    for name, value in said_in_body.items():
        if in_query.has(name) and getattr(in_query, name) != value:
            raise _twice(name)
    return in_query.model_copy(update=said_in_body)


def _in_one_place(given: Iterable[tuple[str, Any]]) -> Parameters:
    values: dict[str, Any] = {}
    repeated: list[tuple[str, Any]] = []
    for name, value in given:
        if name not in Parameters.model_fields:
            known = ", ".join(Parameters.model_fields)
            raise InvalidParameter(f"There is no parameter {name!a:.80}; there are {known}.")
        if value is None:
            raise InvalidParameter(f"{name!a} is null: leave it out, or give it a value.")
        if name in values:
            repeated.append((name, value))
        values.setdefault(name, value)
    parameters = _validate(values)
    for name, value in repeated:
        if getattr(_validate({name: value}), name) != getattr(parameters, name):
            raise _twice(name)
    return parameters


def _twice(name: str) -> InvalidParameter:
    as_a_list = f", and several values as a comma list ({name}=a,b)" if name in LISTS else ""
    return InvalidParameter(f"{name} is given twice, with different values: give one{as_a_list}.")


def _validate(values: Mapping[str, Any]) -> Parameters:
    try:
        return Parameters.model_validate(values)
    except ValidationError as error:
        raise InvalidParameter(f"{_describe(error)}.") from None


def _describe(error: ValidationError) -> str:
    details = error.errors()
    places = [_place_of(detail) for detail in details]
    described = [
        f"{place}: {_words_of(detail)}"
        for detail, place in zip(details, places, strict=True)
        # That None would do as well is no help: it is what an absent parameter has. And a list
        # whose items are wrong is not short.
        if detail["type"] != "none_required"
        and not (detail["type"] == "too_short" and any(p.startswith(f"{place}[") for p in places))
    ]
    return "; ".join([*dict.fromkeys(described)][:MAX_SHOWN_ERRORS])


def _place_of(detail: ErrorDetails) -> str:
    name, *path = detail["loc"]
    return f"{name}" + "".join(f"[{step}]" for step in path if isinstance(step, int))


def _words_of(detail: ErrorDetails) -> str:
    words = WORDS.get(detail["type"])
    return words.format_map(detail.get("ctx", {})) if words else detail["msg"]
