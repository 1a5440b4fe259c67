"""How many bytes all requests hold together, and where that ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import Overloaded


class InflightBytes:
    """The sum over all requests, from their first byte on. Owned by the event loop."""

    def __init__(self, max_bytes: int, wait_s: Callable[[], float]) -> None:
        """`wait_s` estimates when those who hold bytes now will have given them back."""
        self.max_bytes = max_bytes
        self.wait_s = wait_s
        self.num_bytes = 0
        self.num_requests = 0

    @property
    def fill(self) -> float:
        """How much of the limit is used; at 1, requests are refused."""
        return self.num_bytes / self.max_bytes

    @contextmanager
    def hold(self) -> Iterator["Holding"]:
        """One request's part, given back at the end of the block."""
        holding = Holding(self)
        self.num_requests += 1
        try:
            yield holding
        finally:
            self.num_requests -= 1
            holding.replace(0)


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
        self.check(num_bytes)
        self.replace(num_bytes)

    def check(self, num_bytes: int) -> None:
        """Raises what holding this many bytes would, and holds none of them.

        Raises:
            Overloaded: all requests together would hold too many.
        """
        growth = num_bytes - self._num_bytes
        if growth > 0 and self._total.num_bytes + growth > self._total.max_bytes:
            raise Overloaded(
                "Too many bytes are in flight: try again in a moment.",
                reason="bytes_in_flight",
                retry_after_s=self._total.wait_s(),
            )

    def replace(self, num_bytes: int) -> None:
        """The same for bytes that are there already: they are never refused, but count."""
        self._total.num_bytes += num_bytes - self._num_bytes
        self._num_bytes = num_bytes
