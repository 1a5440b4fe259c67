"""What describes an image, on this machine or by a server, and how it fails."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

# From the bytes of an image to those of the answer, in the form that the recipe wants.
Describe: TypeAlias = Callable[[bytes], Awaitable[bytes]]


class NotDescribed(Exception):
    """One image could not be described; the message says why, `code` is the contract's."""

    def __init__(self, detail: str, *, code: str) -> None:
        super().__init__(detail)
        self.code = code


class CannotGoOn(Exception):
    """None of the images that are left could be described; `code` is the contract's."""

    def __init__(self, detail: str, *, code: str) -> None:
        super().__init__(detail)
        self.code = code
