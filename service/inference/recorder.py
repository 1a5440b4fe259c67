"""Functions on fixed tensors, recorded as CUDA graphs: their kernels are launched all at once."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

from service.network.kernels import can_build_kernels

T = TypeVar("T")


class Recorder(Protocol):
    """Turns a function into one that does the same to the same tensors again."""

    def __call__(self, stage: str, function: Callable[[], T]) -> Callable[[], T]:
        """The replay of a function that reads and returns fixed tensors.

        Each replay returns the same tensors, written anew: they hold until the next replay of
        anything of that stage.
        """
        ...


def recorder_for(device: torch.device) -> Recorder | None:
    """What records on this device; None where it cannot be done, or gains nothing.

    Without our own kernels the host has to know how many boxes there are while it detects them.
    """
    return CudaRecorder(device) if device.type == "cuda" and can_build_kernels() else None


class CudaRecorder:
    """Records on the thread that computes, while no other one computes on the device.

    Other threads may copy and allocate meanwhile: only what this thread does can spoil a recording.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        # The recordings of one stage share their memory, as only one of them is replayed in a
        # batch. Those of two stages must not: the one would overwrite what the other has to read.
        self._pools: dict[str, Any] = {}

    def __call__(self, stage: str, function: Callable[[], T]) -> Callable[[], T]:
        """Run the function once, and record it."""
        pool = self._pools.setdefault(stage, torch.cuda.graph_pool_handle())
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self._stream.device)
        was_measured = torch.backends.cudnn.benchmark
        # What is replayed often is worth the measurement of all algorithms. What is not recorded
        # has a new shape every time, and takes what cuDNN thinks best.
        torch.backends.cudnn.benchmark = True
        try:
            # Before: measuring, building kernels and first allocations cannot be recorded.
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

        def replay() -> T:
            graph.replay()
            return outputs

        return replay
