"""Functions on fixed tensors, captured as CUDA graphs: their kernels are launched all at once."""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import torch

from service.inference.devices import traits_of
from service.network.kernels import can_build_kernels

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# A key that was asked for so often of the last times is not rare. A capture costs as much as some
# ten runs, and at most one is made in so many.
MIN_USES = 8
WINDOW = 256


def graph_capture(device: torch.device) -> "GraphCapture | None":
    """What captures graphs on this device; None where it cannot be done, or gains nothing.

    Without our own kernels the host has to know how many boxes there are while it detects them.
    """
    can_capture = traits_of(device).captures_graphs and can_build_kernels()
    return GraphCapture(device) if can_capture else None


class GraphCapture:
    """Turns a function into one that does the same to the same tensors again.

    It captures on the thread that computes, while no other one computes on the device.

    Other threads may copy and allocate meanwhile: only what this thread does can spoil a graph.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        # The graphs of one stage share their memory, as only one of them is replayed in a batch.
        # Those of two stages must not: the one would overwrite what the other has to read.
        self._pools: dict[str, Any] = {}

    def __call__(self, stage: str, function: Callable[[], V]) -> Callable[[], V]:
        """The replay of a function that reads and returns fixed tensors, which is run once.

        Each replay returns the same tensors, written anew: they hold until the next replay of
        anything of that stage.
        """
        pool = self._pools.setdefault(stage, torch.cuda.graph_pool_handle())
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self._stream.device)
        was_measured = torch.backends.cudnn.benchmark
        # What is replayed often is worth the measurement of all algorithms. What is not captured
        # has a new shape every time, and takes what cuDNN thinks best.
        torch.backends.cudnn.benchmark = True
        try:
            # Before: measuring, building kernels and first allocations cannot be captured.
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                function()
            current.wait_stream(self._stream)
            with torch.cuda.graph(
                graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                outputs = function()
        finally:
            torch.backends.cudnn.benchmark = was_measured

        def replay() -> V:
            graph.replay()
            return outputs

        return replay


class GraphCache(Generic[K, V]):
    """An LRU cache that makes only what is asked for often.

    Together its values weigh no more than `capacity`, the last one alone excepted.
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
        """The value, made now if it has become worth it; None where there is none."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        self._asked.append(key)
        return self.add(key) if self._asked.count(key) >= MIN_USES else None

    def add(self, key: K) -> V | None:
        """The value, made now if there is none yet; None where memory does not suffice."""
        if key not in self._kept:
            self._asked = deque((k for k in self._asked if k != key), maxlen=WINDOW)
            room = self._capacity - self._weigh(key)
            while self._kept and sum(map(self._weigh, self._kept)) > room:
                self._kept.popitem(last=False)
            try:
                self._kept[key] = self._make(key)
            except torch.OutOfMemoryError:
                # Batches come first; they do without graphs.
                self.clear()
                return None
        return self._kept[key]

    def clear(self) -> None:
        """Evict all, their memory back to the allocator."""
        self._kept.clear()
        self._asked.clear()
