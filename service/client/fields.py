"""A server's JSON, of which nothing is believed before it was looked at."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from service.client.errors import UnreadableAnswer
from service.client.exchange import shown

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fields:
    """An object of JSON; its fields by their type. What is not of it is an `UnreadableAnswer`."""

    values: Mapping[str, Any]

    def text(self, name: str) -> str:
        """A string."""
        return _checked(name, self.values.get(name), str)

    def text_or_none(self, name: str) -> str | None:
        """A string, or null, or nothing."""
        return None if self.values.get(name) is None else self.text(name)

    def number(self, name: str) -> float:
        """A number."""
        return _number(name, self.values.get(name))

    def number_or_none(self, name: str) -> float | None:
        """A number, or null, or nothing."""
        return None if self.values.get(name) is None else self.number(name)

    def integer(self, name: str) -> int:
        """A whole number."""
        return _checked(name, self.values.get(name), int)

    def integer_or_none(self, name: str) -> int | None:
        """A whole number, or null, or nothing."""
        return None if self.values.get(name) is None else self.integer(name)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """So many numbers."""
        values = _checked(name, self.values.get(name), list)
        if len(values) != count:
            raise _unreadable(name)
        return tuple(_number(name, value) for value in values)

    def texts(self, name: str) -> tuple[str, ...]:
        """Strings."""
        return tuple(
            _checked(name, one, str) for one in _checked(name, self.values.get(name), list)
        )

    def numbers_by_name(self, name: str) -> dict[str, float]:
        """Numbers by their names; none where the field is missing."""
        values = _checked(name, self.values.get(name, {}), dict)
        return {key: _number(name, value) for key, value in values.items()}

    def texts_by_name(self, name: str) -> dict[str, str]:
        """Strings by their names."""
        values = _checked(name, self.values.get(name), dict)
        return {key: _checked(name, value, str) for key, value in values.items()}

    def objects(self, name: str) -> list["Fields"]:
        """Objects; none where the field is missing."""
        values = _checked(name, self.values.get(name, []), list)
        return [Fields(_checked(name, value, dict)) for value in values]

    def objects_by_name(self, name: str) -> dict[str, list["Fields"]]:
        """Lists of objects by their names; none where the field is missing."""
        values = Fields(_checked(name, self.values.get(name, {}), dict))
        return {key: values.objects(key) for key in values.values}

    def inner(self, name: str) -> "Fields":
        """An object."""
        return Fields(_checked(name, self.values.get(name), dict))


def parse_fields(content: bytes | str) -> Fields:
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
    return Fields(values)


def _checked(name: str, value: Any, kind: type[T]) -> T:
    # In Python, but not in JSON, true is a number.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _unreadable(name)
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unreadable(name)
    try:
        return float(value)
    except OverflowError:
        raise _unreadable(name) from None


def _unreadable(name: str) -> UnreadableAnswer:
    return UnreadableAnswer(f"The answer's {shown(name)!r} is not what it should be.")
