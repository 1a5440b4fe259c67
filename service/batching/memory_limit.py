"""How many images of a model and size fit the device, learned from the batches that did not."""

from collections import OrderedDict
from dataclasses import dataclass

from service.batching.growth import MAX_KEYS
from service.batching.ticket import BatchKey

# After so many full batches twice as many images are tried again; after each try that fails, twice
# as many batches are waited for, as what takes the memory may be there for long.
FIRST_PATIENCE, MAX_PATIENCE = 16, 1024


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
