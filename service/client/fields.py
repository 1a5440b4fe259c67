"""A server's JSON as dataclasses, of which nothing is believed before it was looked at."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from service.client.errors import UnreadableAnswer
from service.client.exchange import shown

T = TypeVar("T")

PLAIN = frozenset((int, str, dict, list))


def parse_fields(content: bytes | str) -> dict[str, Any]:
    """The object that the JSON is.

    Raises:
        UnreadableAnswer: it is none.
    """
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        raise UnreadableAnswer("The answer is not JSON.") from None
    if not isinstance(values, dict):
        raise UnreadableAnswer("The answer is JSON, but not an object.")
    return values


def read_object(kind: type[T], values: Mapping[str, Any], **given: Any) -> T:
    """The object as a dataclass, each of whose fields is of its type.

    What may be None may be missing, and so may what has a default. A field is called in the JSON
    as its metadata say, else as here; what is `given` is not read.

    Raises:
        UnreadableAnswer: a field is missing, or of another type.
    """
    for field, name, hint, has_default in _fields_of(kind):  # type: ignore[arg-type]  # it is hashable
        if field not in given and (name in values or not has_default):
            given[field] = read_value(hint, values.get(name), name)
    return kind(**given)


@cache
def _fields_of(kind: Any) -> tuple[tuple[str, str, Any, bool], ...]:
    """The fields: their names here and in the JSON, types, and whether they have a default."""
    hints = get_type_hints(kind)
    return tuple(
        (
            field.name,
            field.metadata.get("name", field.name),
            hints[field.name],
            field.default is not MISSING or field.default_factory is not MISSING,
        )
        for field in fields(kind)
    )


def read_list(kind: type[T], values: Mapping[str, Any], name: str) -> tuple[T, ...]:
    """The objects that a field has; none where it is missing. Raises: `UnreadableAnswer`."""
    listed = read_value(list, values.get(name, []), name)
    return tuple(read_object(kind, read_value(dict, one, name)) for one in listed)


def read_value(kind: Any, value: Any, name: str) -> Any:
    """The value of a field as what its type says. Raises: `UnreadableAnswer`."""
    # In Python, but not in JSON, true is a number.
    if kind in PLAIN and isinstance(value, kind) and not isinstance(value, bool):
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value)
    origin, kinds = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else read_value(kinds[0], value, name)
    if origin is tuple and isinstance(value, list):
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) == len(value):
            return tuple(read_value(*one, name) for one in zip(kinds, value, strict=True))
    if origin is Mapping and isinstance(value, dict):
        return {key: read_value(kinds[1], one, name) for key, one in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        return read_object(kind, value)  # type: ignore[arg-type]  # it is no object of one
    raise UnreadableAnswer(f"The answer's {shown(name)!r} is not what it should be.")
