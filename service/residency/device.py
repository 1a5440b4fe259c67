"""The device that models are loaded onto: its memory, and what PyTorch says when it fails."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model_store.catalogue import ModelCard
from service.allocator import give_back_freed_memory
from service.errors import DeviceFailed, OutOfMemory
from service.inference.devices import DTYPES, find_device, traits_of
from service.inference.loading import build_predictor
from service.inference.predictor import Predictor

# What a batch needs beside the weights: at most half of what is free, as a model has to fit too.
HEADROOM_SHARE, MIN_HEADROOM_BYTES = 0.25, 2 * 2**30
# Of the memory that the host has to spare: the rest is for pictures, activations and answers, and
# for the pages of the files that weights are read from.
HOST_SHARE = 0.5
MEMINFO = Path("/proc/meminfo")
# What a container may use, and what it does: of control groups v2, and of v1.
GROUP_FILES = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)

Arrays = Mapping[str, NDArray[np.float32]]


# Parts of messages. c10/core/impl/alloc_cpu.cpp, c10/cuda/CUDACachingAllocator.cpp, and the names
# of the libraries' status codes.
OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "STATUS_ALLOC_FAILED",
)
# After these a CUDA context is of no use any more. "Sticky" errors, CUDA C++ Programming Guide,
# chapter Error Checking; those of the libraries follow from one of them.
FATAL = (
    "CUDA error",
    "CUDA driver error",
    "STATUS_INTERNAL_ERROR",
    "STATUS_EXECUTION_FAILED",
    "STATUS_MAPPING_ERROR",
    "STATUS_NOT_INITIALIZED",
)
MAX_REASON = 200


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes: what models may take on the device, what their copies may take on the host.

    `total_bytes` is what the device has.
    """

    device_bytes: int
    host_bytes: int
    total_bytes: int


class ModelDevice:
    """A device, the precision that models have there, and the memory that they may take."""

    def __init__(self, name: str, precision: str, device_bytes: int | None) -> None:
        """The device of this name, as `find_device`; `device_bytes` are as in `memory_budget`.

        Raises:
            DeviceUnavailable: there is no such device here.
        """
        self._device = find_device(name)
        self._dtype = DTYPES[precision]
        self.budget = memory_budget(self._device, device_bytes)

    def load(self, card: ModelCard, arrays: Arrays) -> tuple[Predictor, tuple[str, ...]]:
        """The model, on the device, and the names of the arrays that it has no use for."""
        return build_predictor(card, arrays, self._device, self._dtype)

    def count_bytes(self, arrays: Arrays) -> int:
        """What these will take on the device, about."""
        return sum(array.size for array in arrays.values()) * self._dtype.itemsize

    def give_back_memory(self) -> None:
        """Gives back what was freed and is kept for later use."""
        if traits_of(self._device).has_own_memory:
            torch.get_device_module(self._device).empty_cache()
        give_back_freed_memory()

    @staticmethod
    def copy(arrays: Arrays) -> Arrays:
        """Copies in page-locked memory, from where they are on a CUDA device in milliseconds."""
        # One piece: to lock pages costs the system more than to copy them.
        num_values = sum(array.size for array in arrays.values())
        whole = torch.empty(num_values, dtype=torch.float32, pin_memory=True).numpy()
        pinned, begin = {}, 0
        for name, array in arrays.items():
            pinned[name] = whole[begin : begin + array.size].reshape(array.shape)
            np.copyto(pinned[name], array)
            begin += array.size
        return pinned


def memory_budget(device: torch.device, device_bytes: int | None) -> MemoryBudget:
    """The budget; where the operator has not chosen, by what is free at the moment.

    Without a memory of its own, as the CPU is, a device has its models in the host's, and copies
    beside them would be of no use.
    """
    host_bytes = int(HOST_SHARE * _spare_host_bytes())
    if not traits_of(device).has_own_memory:
        total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return MemoryBudget(device_bytes or host_bytes, 0, total_bytes)
    free_bytes, total_bytes = torch.get_device_module(device).mem_get_info(device)
    headroom_bytes = min(max(HEADROOM_SHARE * free_bytes, MIN_HEADROOM_BYTES), free_bytes / 2)
    return MemoryBudget(device_bytes or int(free_bytes - headroom_bytes), host_bytes, total_bytes)


def _spare_host_bytes() -> int:
    """What programs may still take, by the machine's and by the container's count."""
    spare = [_available_bytes()]
    for limit, usage in GROUP_FILES:
        try:
            spare.append(int(limit.read_text()) - int(usage.read_text()))
        except (OSError, ValueError):
            # No such group, or one without a limit: "max".
            continue
    return max(min(spare), 0)


def _available_bytes() -> int:
    try:
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def as_service_error(error: BaseException) -> OutOfMemory | DeviceFailed | None:
    """What the error means to the service; None where it is not about the device."""
    text = str(error)
    is_runtime_error = isinstance(error, RuntimeError)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        is_runtime_error and any(words in text for words in OUT_OF_MEMORY)
    ):
        return OutOfMemory(
            "The image does not fit the device's memory: send or ask for a smaller one."
        )
    if isinstance(error, torch.AcceleratorError) or (
        is_runtime_error and any(words in text for words in FATAL)
    ):
        return DeviceFailed(
            "The device has failed: try another replica.",
            reason=text.partition("\n")[0][:MAX_REASON],
        )
    return None
