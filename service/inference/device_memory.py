"""How much memory models may take, and how it is given back."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.allocator import give_back_freed_memory

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


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes: what models may take on the device, what their copies may take on the host.

    `total_bytes` is what the device has.
    """

    device_bytes: int
    host_bytes: int
    total_bytes: int


def memory_budget(device: torch.device, device_bytes: int | None) -> MemoryBudget:
    """The budget; where the operator has not chosen, by what is free at the moment.

    Without a memory of its own, as the CPU is, a device has its models in the host's, and copies
    beside them would be of no use.
    """
    host_bytes = int(HOST_SHARE * _spare_host_bytes())
    if device.type != "cuda":
        total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return MemoryBudget(device_bytes or host_bytes, 0, total_bytes)
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    headroom_bytes = min(max(HEADROOM_SHARE * free_bytes, MIN_HEADROOM_BYTES), free_bytes / 2)
    return MemoryBudget(device_bytes or int(free_bytes - headroom_bytes), host_bytes, total_bytes)


def give_back_memory(device: torch.device) -> None:
    """Gives back what was freed and is kept for later use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    give_back_freed_memory()


def pin_arrays(arrays: Arrays) -> dict[str, NDArray[np.float32]]:
    """Copies in page-locked memory, from where they are on a CUDA device in milliseconds."""
    # One piece: to lock pages costs the system more than to copy them.
    sizes = {name: array.size for name, array in arrays.items()}
    whole = torch.empty(sum(sizes.values()), dtype=torch.float32, pin_memory=True).numpy()
    pinned, begin = {}, 0
    for name, array in arrays.items():
        view = whole[begin : begin + array.size].reshape(array.shape)
        np.copyto(view, array)
        pinned[name] = view
        begin += array.size
    return pinned


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
