import math

import pytest

from service.pipeline.bounded_json import MAX_BRACKETS, MAX_COMMAS, RepeatedNameError, parse_json


def test_a_value_is_what_json_makes_of_it():
    assert parse_json('{"a": [1, 2.5, "b", null]}') == {"a": [1, 2.5, "b", None]}
    assert parse_json(bytearray(b'{"a": {"b": true}}')) == {"a": {"b": True}}


def test_not_a_number_passes_for_the_checks_of_the_fields():
    assert math.isnan(parse_json("NaN"))


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '{"b": {"a": 1, "a": 2}}'])
def test_a_name_that_stands_twice_is_refused(text):
    with pytest.raises(RepeatedNameError, match="a"):
        parse_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1,]",
        "'a'",
        "1" * 5000,
        b"\xff\xfe\x00",
        "[" + "1," * MAX_COMMAS + "1,1]",
        "[" * (MAX_BRACKETS + 1),
        # Within both bounds, but deeper than Python goes.
        "[" * MAX_BRACKETS + "]" * MAX_BRACKETS,
        '{"a":' * MAX_BRACKETS + "1" + "}" * MAX_BRACKETS,
    ],
)
def test_what_is_no_json_or_too_much_of_it_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011  # whatever says it
        parse_json(bytearray(text) if isinstance(text, bytes) else text)
