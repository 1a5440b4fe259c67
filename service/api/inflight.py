"""How many bytes all accepted requests hold together, and where that ends."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Overloaded


class InflightBytes:
    """The sum over all requests. Owned by the event loop."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0

    @contextmanager
    def hold(self) -> Iterator["Holding"]:
        """One request's part, given back at the end of the block."""
        holding = Holding(self)
        try:
            yield holding
        finally:
            holding.resize(0)


class Holding:
    """What one request holds at the moment."""

    def __init__(self, total: InflightBytes) -> None:
        self._total = total
        self._num_bytes = 0

    def resize(self, num_bytes: int) -> None:
        """Holds this many bytes from now on, instead of what it held.

        Raises:
            Overloaded: all requests together would hold too many.
        """
        growth = num_bytes - self._num_bytes
        if growth > 0 and self._total.num_bytes + growth > self._total.max_bytes:
            raise Overloaded("Too many bytes are in flight: try again in a moment.")
        self._total.num_bytes += growth
        self._num_bytes = num_bytes
