"""What is sent in place of a picture, by name, so that nobody is told that it is damaged."""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources

_BEGINNING_BYTES = 1000


def name_of_file(data: memoryview) -> str | None:
    """What kind of file this is, by its first bytes; nothing where they are of no known kind."""
    beginning = bytes(data[:_BEGINNING_BYTES])
    patterns = _patterns().items()
    return next((name for name, pattern in patterns if pattern.match(beginning)), None)


@cache
def _patterns() -> Mapping[str, re.Pattern[bytes]]:
    text = resources.files("service.imaging").joinpath("unread.toml").read_text(encoding="utf-8")
    named = tomllib.loads(text).items()
    return {name: re.compile(pattern.encode(), re.DOTALL) for name, pattern in named}
