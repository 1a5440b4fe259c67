"""The room that an answer takes: within its own limit, and within that of all requests together."""

import threading
from collections.abc import Sequence

from service.api.answer_size import AnswerSize
from service.api.inflight import Holding
from service.datatypes import RegionXYWH
from service.errors import AnswerTooLarge


class AnswerRoom:
    """What one answer takes, besides what its request held before; any thread may count.

    Its samples may take `max_bytes`, and so may what is written of them at any moment.
    """

    def __init__(self, size: AnswerSize, holding: Holding, max_bytes: int) -> None:
        self._size = size
        self._holding = holding
        self._max_bytes = max_bytes
        # Nobody adds between another's look at a sum and what it adds.
        self._lock = threading.Lock()
        self._others = holding.num_bytes
        self._samples = self._due = self._written = 0

    def check(self, regions: Sequence[RegionXYWH]) -> None:
        """Raises what an answer with these regions, or more, can never have room for.

        Raises:
            AnswerTooLarge: it would be beyond its limit, or that of all requests together.
        """
        samples, written = self._size.samples(regions), self._size.written(regions)
        if max(samples, written) > self._max_bytes:
            raise _too_large(self._max_bytes)
        if self._others + samples + written > self._holding.max_bytes:
            raise _too_large(self._holding.max_bytes)

    def reserve(self, regions: Sequence[RegionXYWH]) -> None:
        """Takes what an answer with these regions is known to need.

        Raises:
            AnswerTooLarge: it would be beyond its limit.
            Overloaded: there is no room now.
            ClientLeft: the request is over.
        """
        self.check(regions)
        with self._lock:
            self._samples = self._size.samples(regions)
            self._due = self._size.written(regions)
            self._resize()

    def keep_others(self, num_bytes: int) -> None:
        """What is held besides the answer is this much from now on, and no more than before."""
        with self._lock:
            self._others = num_bytes
            self._resize()

    def drop_samples(self) -> None:
        """The samples are there no more."""
        with self._lock:
            self._samples = 0
            self._resize()

    def count(self, num_bytes: int) -> None:
        """Counts bytes that were written, or that were dropped again: these are negative.

        Raises:
            AnswerTooLarge, Overloaded, ClientLeft: as `reserve` does.
        """
        with self._lock:
            self._written += num_bytes
            if self._written > self._max_bytes:
                raise _too_large(self._max_bytes)
            self._resize()

    def _resize(self) -> None:
        self._holding.resize(self._others + self._samples + max(self._due, self._written))


def _too_large(max_bytes: int) -> AnswerTooLarge:
    return AnswerTooLarge(
        f"The answer would take more than {max_bytes} bytes: ask for fewer outputs, a higher "
        "min_score or fewer max_instances, or send a smaller image."
    )
