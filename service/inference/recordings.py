"""Which recordings are made, and which are kept."""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# A key that was asked for so often of the last times is not rare. A recording costs as much as some
# ten runs, and at most one is made in so many.
MIN_USES = 8
WINDOW = 256


class Recordings(Generic[K, V]):
    """Makes a recording of what is asked for often, and keeps those that were used last.

    Together they weigh no more than `capacity`, the last one alone excepted.
    """

    def __init__(self, make: Callable[[K], V], *, weigh: Callable[[K], int], capacity: int) -> None:
        self._make = make
        self._weigh = weigh
        self._capacity = capacity
        self._kept = OrderedDict[K, V]()
        self._asked = deque[K](maxlen=WINDOW)

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: K) -> V | None:
        """The recording, made now if it has become worth it; None where there is none."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        self._asked.append(key)
        return self.add(key) if self._asked.count(key) >= MIN_USES else None

    def add(self, key: K) -> V | None:
        """The recording, made now if there is none yet; None where memory does not suffice."""
        if key not in self._kept:
            self._asked = deque((k for k in self._asked if k != key), maxlen=WINDOW)
            room = self._capacity - self._weigh(key)
            while self._kept and sum(map(self._weigh, self._kept)) > room:
                self._kept.popitem(last=False)
            try:
                self._kept[key] = self._make(key)
            except torch.OutOfMemoryError:
                # Batches come first; they do without recordings.
                self.clear()
                return None
        return self._kept[key]

    def clear(self) -> None:
        """Give all recordings up, and their memory back to the allocator."""
        self._kept.clear()
        self._asked.clear()
