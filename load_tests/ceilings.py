"""What the machine can do at most, measured: the two lines of a roofline.

S. Williams, A. Waterman, D. Patterson, Roofline, CACM 52(4), 2009.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

# Large enough for every cache and core to be busy; smaller where that would not take moments.
MIN_SIDE = 256
MAX_SIDE = {"cpu": 2048, "cuda": 8192}
LONG_S = 0.02
COPIED_BYTES = 2**28
REPEATS = 5


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The greatest rates that were seen here: of matrix products, by precision, and of a copy."""

    flops_per_s: float
    bytes_per_s: float

    def least_seconds(self, flops: float, num_bytes: float) -> float:
        """No machine with these ceilings does so much in less time."""
        return max(flops / self.flops_per_s, num_bytes / self.bytes_per_s)

    def raised_by(self, other: "Ceilings") -> "Ceilings":
        """The greater of both."""
        return Ceilings(
            max(self.flops_per_s, other.flops_per_s), max(self.bytes_per_s, other.bytes_per_s)
        )


def measure_ceilings(dtype: torch.dtype, device: torch.device) -> Ceilings:
    """The ceilings of this device with its present number of threads."""
    side = MIN_SIDE
    product_s = _product_seconds(side, dtype, device)
    while side < MAX_SIDE[device.type] and product_s < LONG_S:
        side *= 2
        product_s = _product_seconds(side, dtype, device)
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    copy_s = _least_seconds(lambda: target.copy_(source), device)
    # It is read and written.
    return Ceilings(2 * side**3 / product_s, 2 * COPIED_BYTES / copy_s)


def timed(step: Callable[[], object], device: torch.device) -> float:
    """The seconds that a step takes, the device's work included."""
    begun_s = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun_s


def _product_seconds(side: int, dtype: torch.dtype, device: torch.device) -> float:
    left, right = torch.randn(2, side, side, device=device).to(dtype)
    out = torch.empty_like(left)
    return _least_seconds(lambda: torch.mm(left, right, out=out), device)


def _least_seconds(step: Callable[[], object], device: torch.device) -> float:
    timed(step, device)
    return min(timed(step, device) for _ in range(REPEATS))
