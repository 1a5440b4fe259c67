"""How many images go into one batch: as many as are worth it, and fit; learned from batches."""

import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from statistics import median

from service.batching.ticket import BatchKey

# A size is worth it if it does this many times the images per second of the size below.
WORTHWHILE = 1.05
# Of each size the last few measurements count, by their median; with fewer than these none does.
NUM_REMEMBERED = 5
MIN_MEASURED = 3
# One of so many batches tries the size that was not worth it, as the device may have changed.
TRIAL_EVERY = 16
# Clients choose the sizes of their images; the keys that were used last are remembered.
MAX_KEYS = 512
# After so many full batches twice as many images are tried again; after each try that fails, twice
# as many batches are waited for, as what takes the memory may be there for long.
FIRST_PATIENCE, MAX_PATIENCE = 16, 1024


class GrowthLimit:
    """The largest worthwhile batch of a model and size.

    Sizes are climbed by doubling: one is tried when all below it are known to be worthwhile.
    """

    def __init__(self, max_images: int) -> None:
        doublings = [1 << power for power in range(max_images.bit_length())]
        self._sizes = sorted({*doublings, max_images})
        self._ladders = OrderedDict[BatchKey, _Ladder]()

    def limit(self, key: BatchKey) -> int:
        """The most images that a batch should have."""
        ladder = self._ladders.get(key)
        return self._sizes[0] if ladder is None else ladder.limit()

    def next_size(self, key: BatchKey) -> int:
        """The most images that the next batch should have: the limit or, now and then, a trial."""
        ladder = self._ladders.get(key)
        return self._sizes[0] if ladder is None else ladder.next_size()

    def measure(self, key: BatchKey, num_images: int, seconds: float) -> None:
        """Learns from a batch that has been run."""
        ladder = self._ladders.setdefault(key, _Ladder(self._sizes))
        ladder.measure(num_images, seconds / num_images)
        self._ladders.move_to_end(key)
        if len(self._ladders) > MAX_KEYS:
            self._ladders.popitem(last=False)


class _Ladder:
    """Seconds per image, by the size of the batch."""

    def __init__(self, sizes: list[int]) -> None:
        self._costs = {size: deque[float](maxlen=NUM_REMEMBERED) for size in sizes}
        self._num_batches = 0

    def measure(self, num_images: int, cost: float) -> None:
        self._num_batches += 1
        if num_images in self._costs:
            self._costs[num_images].append(cost)

    def limit(self) -> int:
        best, limit = math.inf, 0
        for size, costs in self._costs.items():
            if len(costs) < MIN_MEASURED:
                return size
            cost = median(costs)
            if cost * WORTHWHILE > best:
                break
            best, limit = cost, size
        return limit

    def next_size(self) -> int:
        limit = self.limit()
        if self._num_batches % TRIAL_EVERY == TRIAL_EVERY - 1:
            return min((size for size in self._costs if size > limit), default=limit)
        return limit


@dataclass(slots=True)
class _Limit:
    max_images: int
    patience: int = FIRST_PATIENCE
    num_full: int = 0


class MemoryLimit:
    """The largest batch of a model and size that is thought to fit."""

    def __init__(self, max_images: int) -> None:
        self._max_images = max_images
        # Of those that have ever run out of memory; who did so last is remembered.
        self._limits = OrderedDict[BatchKey, _Limit]()

    def limit(self, key: BatchKey) -> int:
        """The most images that a batch should have."""
        limit = self._limits.get(key)
        return self._max_images if limit is None else limit.max_images

    def ran_out(self, key: BatchKey, num_images: int) -> None:
        """So many images did not fit."""
        limit = self._limits.get(key)
        if limit is None:
            limit = self._limits[key] = _Limit(self._max_images)
        elif num_images >= limit.max_images:
            limit.patience = min(2 * limit.patience, MAX_PATIENCE)
        limit.max_images = min(limit.max_images, max(num_images // 2, 1))
        limit.num_full = 0
        self._limits.move_to_end(key)
        if len(self._limits) > MAX_KEYS:
            self._limits.popitem(last=False)

    def fitted(self, key: BatchKey, num_images: int) -> None:
        """So many images did fit."""
        limit = self._limits.get(key)
        if limit is None or num_images < limit.max_images:
            return
        limit.num_full += 1
        if limit.num_full >= limit.patience:
            limit.max_images = min(2 * limit.max_images, self._max_images)
            limit.num_full = 0
