"""The file of API keys, read again when it has changed."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from service.keys import Key, parse_keys

logger = logging.getLogger(__name__)

MAX_BYTES = 4 * 2**20
# How often the file is looked at, at most.
PERIOD_S = 1.0


class KeyFile:
    """The keys in a file; owned by the event loop."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the file.

        Raises:
            OSError: it cannot be read.
            ValueError: it has no keys, or what cannot be one.
        """
        self._path = path
        self._clock = clock
        self._looked_s = clock()
        self._version: tuple[int, ...] | None = None
        self._keys = self._read()

    def keys(self) -> tuple[Key, ...]:
        """Those of the last version of the file that could be used."""
        if self._clock() - self._looked_s >= PERIOD_S:
            self._looked_s = self._clock()
            self._look_again()
        return self._keys

    def _look_again(self) -> None:
        before = self._version
        try:
            if _version_of(self._path.stat()) == before:
                return
            self._keys = self._read()
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                self._version = None
            # Once for each version, not once for each look.
            if self._version != before:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                fields = {"path": str(self._path), "reason": reason}
                logger.error("the new API keys cannot be used", extra={"fields": fields})
        else:
            names = [key.name for key in self._keys]
            logger.info("the API keys were read again", extra={"fields": {"keys": names}})

    def _read(self) -> tuple[Key, ...]:
        with self._path.open("rb") as file:
            self._version = _version_of(os.fstat(file.fileno()))
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError("it is too large")
        try:
            keys = parse_keys(data.decode("utf-8"))
        except UnicodeDecodeError:
            raise ValueError("it is not text") from None
        if not keys:
            # While it is written anew, a file is empty for a moment.
            raise ValueError("there is no key in it")
        return keys


def _version_of(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mtime_ns, status.st_size, status.st_ino
