"""The values that parameters can take, as text or natively, and their checks."""

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from service.datatypes import Output
from service.output.palettes import Palette
from service.output.parts import GROUPS, Grouping
from service.output.presets import BACKGROUNDS, PEOPLE, PRESETS
from service.pipeline.bounded_json import parse_json

MAX_BOXES = 100
MAX_POINTS = 1000
MAX_NAME = 200
MAX_PICTURE_SIDE = 4096
MAX_PERSON = 99
_SIZE = re.compile("([0-9]{1,5})x([0-9]{1,5})")
# May stand around a number.
WHITE_SPACE = " \t\r\n"
_WHOLE = re.compile("-?[0-9]+")
_DECIMAL = re.compile(r"-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_BACKGROUND = re.compile(f"{'|'.join(BACKGROUNDS)}|#[0-9a-fA-F]{{6}}")


def _written_as(form: re.Pattern[str], words: str) -> BeforeValidator:
    """Numbers as they are, and in text of this form; pydantic takes `1_0`, `+5` and `true`, too."""

    def check(value: Any) -> Any:
        text = value.strip(WHITE_SPACE) if isinstance(value, str) else None
        if isinstance(value, bool) or (text is not None and not form.fullmatch(text)):
            raise PydanticCustomError("not_a_number", "should be {words}", {"words": words})
        return value if text is None else text

    return BeforeValidator(check)


def _one_of(*names: str) -> BeforeValidator:
    def check(name: Any) -> Any:
        if name not in names:
            listed = ", ".join(names)
            raise PydanticCustomError("unknown", "should be one of {listed}", {"listed": listed})
        return name

    return BeforeValidator(check)


def _list_of_text(value: Any) -> Any:
    """A comma list or a JSON list, where a value came as text."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return _value_of_json(value)
    return [item.strip() for item in value.split(",", MAX_BOXES + 1)] if value.strip() else []


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


def _size(value: Any) -> Any:
    sides = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if sides is not None:
        width, height = int(sides[1]), int(sides[2])
        if min(width, height) >= 1 and max(width, height) <= MAX_PICTURE_SIDE:
            return width, height
    raise PydanticCustomError(
        "not_a_size",
        "should be width x height in pixels, like 768x1024, each of 1 to {most}",
        {"most": MAX_PICTURE_SIDE},
    )


def _background(value: Any) -> Any:
    if not isinstance(value, str) or not _BACKGROUND.fullmatch(value):
        listed = ", ".join(BACKGROUNDS)
        message = "should be one of {listed}, or a colour like #00ff7f"
        raise PydanticCustomError("unknown", message, {"listed": listed})
    return value


def _person(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch("[0-9]{1,2}", value):
        return int(value)
    is_index = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_PERSON
    if not is_index and value not in PEOPLE:
        message = "should be one of {listed}, or an index of 0 to {most}"
        listed = ", ".join(PEOPLE)
        raise PydanticCustomError("unknown", message, {"listed": listed, "most": MAX_PERSON})
    return value


def _class(value: Any) -> Any:
    is_id = isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
    is_name = isinstance(value, str) and len(value) <= MAX_NAME
    if not is_id and not is_name:
        raise PydanticCustomError("not_a_class", "should be a class, by its id or name")
    return value


COMMA_LIST, JSON_LIST, SIZE, PERSON = _list_of_text, _value_of_json, _size, _person

Number: TypeAlias = Annotated[float, _written_as(_DECIMAL, "a number")]
Whole: TypeAlias = Annotated[int, _written_as(_WHOLE, "a whole number")]
Name: TypeAlias = Annotated[str, Field(max_length=MAX_NAME)]
OutputName: TypeAlias = Annotated[Output | Literal["none"], _one_of(*Output, "none")]
OutputNames: TypeAlias = Annotated[
    tuple[OutputName, ...], Field(min_length=1, max_length=2 * len(Output))
]
ClassName: TypeAlias = Annotated[int | Name, BeforeValidator(_class)]
ClassNames: TypeAlias = Annotated[tuple[ClassName, ...], Field(max_length=MAX_BOXES)]
Box: TypeAlias = Annotated[tuple[Number, Number, Number, Number], AfterValidator(_ordered)]
Boxes: TypeAlias = Annotated[tuple[Box, ...], Field(max_length=MAX_BOXES)]
Point: TypeAlias = tuple[Number, Number]
Points: TypeAlias = Annotated[tuple[Point, ...], Field(max_length=MAX_POINTS)]
GroupingName: TypeAlias = Annotated[Grouping, _one_of(*GROUPS)]
Groupings: TypeAlias = Annotated[
    tuple[GroupingName, ...], Field(min_length=1, max_length=2 * len(GROUPS))
]
PresetName: TypeAlias = Annotated[
    str, _one_of(*PRESETS), WithJsonSchema({"type": "string", "enum": list(PRESETS)})
]
PaletteName: TypeAlias = Annotated[Palette, WithJsonSchema({"type": "string", "enum": [*Palette]})]
Background: TypeAlias = Annotated[
    str, BeforeValidator(_background), Field(pattern=f"^({_BACKGROUND.pattern})$")
]
People: TypeAlias = Literal["all", "best", "largest"] | Annotated[int, Field(ge=0, le=MAX_PERSON)]
SizeText: TypeAlias = Annotated[str, Field(pattern=f"^{_SIZE.pattern}$")]
# Left out, a parameter has no value; null is none that a client can send.
Absent: TypeAlias = SkipJsonSchema[None]
