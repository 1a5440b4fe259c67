"""What differs between devices, in one table, and the way of tensors between them and the host."""

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from service.errors import DeviceUnavailable

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class DeviceTraits:
    """How one type of device is to be used; whether it has kernels of ours, kernels.py says."""

    # Boxes that the DensePose head sees at once: its outputs and their rearrangement stay under
    # 250 MB on the CPU, and are enough to be busy elsewhere.
    max_chunk: int
    # Pixels painted at once: a tile fits the CPU's caches, or is large enough to be busy.
    max_tile_pixels: int
    # Distances to vertices held at once; None: as many as fit the caches of each thread.
    max_distances: int | None
    # Where `Tensor.argmax` compares many pixels at a time.
    has_fast_argmax: bool
    # It computes while the host goes on: copies go by way of pinned memory, and events tell the
    # time and the end of a copy.
    is_asynchronous: bool
    # Models are beside the host's memory, so that copies there are of use.
    has_own_memory: bool
    # `CUDAGraph` and the like; what is common is captured before anybody asks.
    captures_graphs: bool


# By PyTorch's name for the type; `auto` is the first one that is there.
DEVICES = {
    "cuda": DeviceTraits(
        max_chunk=64,
        max_tile_pixels=2**17,
        max_distances=2**24,
        has_fast_argmax=True,
        is_asynchronous=True,
        has_own_memory=True,
        captures_graphs=True,
    ),
    "cpu": DeviceTraits(
        max_chunk=16,
        max_tile_pixels=2**15,
        max_distances=None,
        has_fast_argmax=False,
        is_asynchronous=False,
        has_own_memory=False,
        captures_graphs=False,
    ),
}


def traits_of(device: torch.device) -> DeviceTraits:
    """How this device is to be used."""
    return DEVICES[device.type]


def find_device(name: str) -> torch.device:
    """The device of this name, its float32 without TF32; `auto` is the best one that is there.

    Half-precision products are added up in float32, and algorithms are not measured for every new
    shape of a picture.

    Raises:
        DeviceUnavailable: there is no such device here.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = False
    if name == "auto":
        name = next(kind for kind in DEVICES if torch.get_device_module(kind).is_available())
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise DeviceUnavailable(f"device {name!r} cannot be used: {reason}") from error
    return device


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The same on the device; the host goes on at once.

    By way of pinned memory, as the driver would make the host wait otherwise.
    """
    if not traits_of(device).is_asynchronous or tensor.device.type == device.type:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """The same in host memory; waits until the device has written it, and for nothing later."""
    if not traits_of(tensor.device).is_asynchronous:
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    copied = torch.get_device_module(tensor.device).Event()
    copied.record()
    copied.synchronize()
    return host


class StageClock:
    """Names the time since the last mark; marking does not wait for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_asynchronous = traits_of(device).is_asynchronous
        self._marks: list[tuple[str, Any]] = [("", self._now())]

    def mark(self, stage: str) -> None:
        """What was done since the last mark belongs to this stage."""
        self._marks.append((stage, self._now()))

    def seconds(self) -> dict[str, float]:
        """The seconds of each stage; waits for what the last one left under way."""
        if self._is_asynchronous:
            self._marks[-1][1].synchronize()
        seconds: defaultdict[str, float] = defaultdict(float)
        for (_, begin), (stage, end) in zip(self._marks, self._marks[1:], strict=False):
            seconds[stage] += (
                begin.elapsed_time(end) / 1000 if self._is_asynchronous else end - begin
            )
        return dict(seconds)

    def _now(self) -> Any:
        """The time, or an event of the device that will have it."""
        if not self._is_asynchronous:
            return time.perf_counter()
        event = torch.get_device_module(self._device).Event(enable_timing=True)
        event.record()
        return event
