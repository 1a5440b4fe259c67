"""Whole numbers as people write them, in settings and on the command line."""

import re

# `int` takes `1_0`, ` 5 ` and the digits of other scripts as well. More digits than any limit has.
WRITTEN = re.compile(r"-?[0-9]{1,12}")


def whole_number(text: str) -> int:
    """The number of these decimal digits, with a minus in front of them or not.

    Raises:
        ValueError: the text is anything else.
    """
    if not WRITTEN.fullmatch(text):
        raise ValueError("is not a whole number in decimal digits")
    return int(text)


def positive(text: str) -> int:
    """The same of at least 1, as an argument of the command line.

    Raises:
        ValueError: the text is anything else.
    """
    number = whole_number(text)
    if number < 1:
        raise ValueError("is less than 1")
    return number
