"""What is not read, by name, so that nobody is told that an intact file is damaged."""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Literal, TypeAlias

_Table: TypeAlias = Literal[
    "bmp_compressions",
    "jpeg_frames",
    "os2_compressions",
    "tiff_compressions",
    "tiff_photometrics",
    "tiff_samples",
]
_BEGINNING_BYTES = 1000


def name_of_file(data: memoryview) -> str | None:
    """What kind of file this is, by its first bytes; nothing where they are of no known kind."""
    beginning = bytes(data[:_BEGINNING_BYTES])
    for name, pattern in _beginnings().items():
        if pattern.match(beginning):
            return name
    return None


def name_of(table: _Table, number: int) -> str | None:
    """What a format means by this number, if that is one of the kinds that are not read."""
    return _numbers(table).get(number)


@cache
def _beginnings() -> Mapping[str, re.Pattern[bytes]]:
    patterns = _tables()["files"]
    return {name: re.compile(text.encode(), re.DOTALL) for name, text in patterns.items()}


@cache
def _numbers(table: str) -> Mapping[int, str]:
    return {int(number, 0): name for number, name in _tables()[table].items()}


def _tables() -> Mapping[str, Mapping[str, str]]:
    text = resources.files("service.imaging").joinpath("unread.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
