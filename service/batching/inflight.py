"""How many bytes all requests hold together, and where that ends."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from service.errors import ClientLeft, Overloaded

# Of the limit: whoever holds more of it than this gives way to others.
FAIR_SHARE = 1 / 4
# An answer that is being read has this long before it may be cut off for others.
UNREAD_GRACE_S = 5.0


class InflightBytes:
    """The sum over all requests, from their first byte on; of it, any thread may take.

    An owner, a key or a connection, that holds more than a quarter leaves the last quarter to the
    others, and where there is no room for one of them, its unread answers are cut off.
    """

    def __init__(
        self,
        max_bytes: int,
        wait_s: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wait_s` estimates when those who hold bytes now will have given them back."""
        self.clock = clock
        self.max_bytes = max_bytes
        self.wait_s = wait_s
        self.num_bytes = 0
        self.num_requests = 0
        # Nobody takes between another's look at the sum and what it takes then.
        self._lock = threading.Lock()
        # Those that hold something.
        self._holdings = set[Holding]()

    @property
    def fill(self) -> float:
        """How much of the limit is used; at 1, requests are refused."""
        return self.num_bytes / self.max_bytes

    @contextmanager
    def hold(self, owner: Hashable = None) -> Iterator["Holding"]:
        """One request's part, given back at the end of the block."""
        holding = Holding(self, owner)
        self.num_requests += 1
        try:
            yield holding
        finally:
            self.num_requests -= 1
            holding.close()

    def change(self, holding: "Holding", num_bytes: int, *, is_there: bool = False) -> None:
        """Has one hold this many bytes instead of what it held.

        Raises:
            Overloaded: there is no room, and the bytes are not there already.
            ClientLeft: what was held is given back for good.
        """
        with self._lock:
            if holding.is_closed and num_bytes:
                raise ClientLeft("The request is over.")
            cut = [] if is_there else self._make_room(holding, num_bytes - holding.num_bytes)
            for other in cut or ():
                self._set(other, 0)
                other.is_closed = True
            if cut is not None:
                self._set(holding, num_bytes)
        if cut is None:
            raise self._overloaded()
        for other in cut:
            other.cut_off()

    def check(self, holding: "Holding", num_bytes: int) -> None:
        """Raises what `change` would, and changes nothing."""
        with self._lock:
            has_room = self._make_room(holding, num_bytes - holding.num_bytes) is not None
        if not has_room:
            raise self._overloaded()

    def _set(self, holding: "Holding", num_bytes: int) -> None:
        self.num_bytes += num_bytes - holding.num_bytes
        holding.num_bytes = num_bytes
        (self._holdings.add if num_bytes else self._holdings.discard)(holding)

    def _make_room(self, holding: "Holding", growth: int) -> "list[Holding] | None":
        """Whose unread answers go so that one can grow; None where that is not enough."""
        total = self.num_bytes + growth
        share = FAIR_SHARE * self.max_bytes
        if growth <= 0 or total <= self.max_bytes - share:
            return []
        held = Counter[Hashable]()
        for one in self._holdings:
            held[one.owner] += one.num_bytes
        if held[holding.owner] - holding.num_bytes > share:
            return None
        cut = []
        unread = [one for one in self._holdings if one.is_unread and one.owner != holding.owner]
        for one in sorted(unread, key=lambda one: -one.num_bytes):
            if total <= self.max_bytes:
                break
            if held[one.owner] > share:
                total -= one.num_bytes
                cut.append(one)
        return cut if total <= self.max_bytes else None

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            "Too many bytes are in flight: try again in a moment.",
            reason="bytes_in_flight",
            retry_after_s=self.wait_s(),
        )


class Holding:
    """What one request holds at the moment; `owner` is who it counts for, by default itself."""

    def __init__(self, total: InflightBytes, owner: Hashable = None) -> None:
        self.owner = self if owner is None else owner
        self.num_bytes = 0
        self.is_closed = False
        self._total = total
        self._cut_off: Callable[[], None] | None = None
        self._unread_since_s = math.inf

    @property
    def max_bytes(self) -> int:
        """What all together may hold."""
        return self._total.max_bytes

    @property
    def is_unread(self) -> bool:
        """Whether all that is held is an answer, which its client has had time to read."""
        return self._total.clock() - self._unread_since_s > UNREAD_GRACE_S

    def resize(self, num_bytes: int) -> None:
        """Holds this many bytes from now on, instead of what it held.

        Raises:
            Overloaded: all requests together would hold too many.
            ClientLeft: it was closed.
        """
        self._total.change(self, num_bytes)

    def check(self, num_bytes: int) -> None:
        """Raises what holding this many bytes would, and holds none of them.

        Raises:
            Overloaded: all requests together would hold too many.
        """
        self._total.check(self, num_bytes)

    def replace(self, num_bytes: int) -> None:
        """The same for bytes that are there already: they are never refused, but count."""
        self._total.change(self, num_bytes, is_there=True)

    def note_unread(self, cut_off: Callable[[], None]) -> None:
        """In a while it may be cut off; `cut_off` is called once, in whichever thread needs room.

        What it held is given back by then.
        """
        self._cut_off = cut_off
        self._unread_since_s = self._total.clock()

    def cut_off(self) -> None:
        """Ends what is unread."""
        if self._cut_off is not None:
            self._cut_off()

    def close(self) -> None:
        """Gives everything back, for good."""
        self.is_closed = True
        self._total.change(self, 0, is_there=True)
