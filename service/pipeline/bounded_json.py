"""JSON that strangers wrote, read within bounds: lists cost far more memory than their text."""

import json
from typing import Any

# A thousand points have 1999 commas and 1001 brackets.
MAX_COMMAS = 4096
MAX_BRACKETS = 2048


class RepeatedNameError(ValueError):
    """An object has two members of one name."""


def parse_json(text: str | bytearray) -> Any:
    """The text's value; NaN and infinities pass, for the checks of the fields to refuse by name.

    Raises:
        RepeatedNameError: a name stands twice in one object.
        ValueError: not JSON, or with more values, or deeper, than makes sense here.
    """
    if isinstance(text, str):
        num_commas, num_brackets = text.count(","), text.count("[") + text.count("{")
    else:
        num_commas, num_brackets = text.count(b","), text.count(b"[") + text.count(b"{")
    if num_commas > MAX_COMMAS or num_brackets > MAX_BRACKETS:
        raise ValueError("too many values")
    try:
        return json.loads(text, object_pairs_hook=_object_without_repeats)
    except RecursionError:
        raise ValueError("too deep") from None


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise RepeatedNameError(name)
        fields[name] = value
    return fields
