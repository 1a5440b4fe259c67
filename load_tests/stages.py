"""Where a network's time goes, and its arithmetic: stage by stage, ours and detectron2's alike."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

PREPROCESS, MAPS, REST = "preprocess", "maps", "the rest"
# The modules of a stage. Both networks have the checkpoint's names for them.
STAGE_OF: Mapping[str, str] = {
    "backbone": "backbone, FPN",
    "proposal_generator": "RPN",
    "roi_heads.box_pooler": "box pooler",
    "roi_heads.box_head": "box head",
    "roi_heads.box_predictor": "box head",
    "roi_heads.decoder": "decoder",
    "roi_heads.densepose_pooler": "DensePose pooler",
    "roi_heads.densepose_head": "DensePose head",
    "roi_heads.densepose_predictor": "DensePose head",
}
STAGES = (PREPROCESS, *dict.fromkeys(STAGE_OF.values()), MAPS, REST)


@dataclass(slots=True)
class Work:
    """Floating-point operations of matrix products and convolutions, and bytes.

    The bytes are what all operators read and write, each for itself: caches may save some of it.
    """

    flops: float = 0.0
    num_bytes: float = 0.0


class Stages:
    """Watches a network's modules; what it sees of a run is in `seconds`."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._device = device
        self._current = REST
        self._entered_s = 0.0
        self._is_timing = False
        self.seconds: dict[str, float] = {}
        for name, stage in STAGE_OF.items():
            try:
                module = network.get_submodule(name)
            except AttributeError:  # not every model has a decoder
                continue
            module.register_forward_pre_hook(lambda *_, stage=stage: self._enter(stage))
            module.register_forward_hook(lambda *_: self._enter(REST))

    def time(self, step: Callable[[], Mapping[str, float]]) -> None:
        """Run a step, which tells of stages outside the network; the device is waited for."""
        self.seconds = defaultdict(float)
        self._is_timing = True
        begun_s = self._entered_s = self._now()
        try:
            outside = step()
        finally:
            self._is_timing = False
        total_s = self._now() - begun_s
        self.seconds |= outside
        self.seconds[REST] = 0.0
        self.seconds[REST] = total_s - sum(self.seconds.values())

    def count(self, step: Callable[[], object]) -> dict[str, Work]:
        """The work of a step's stages; that of `the rest` has preprocessing and maps in it."""
        with _Counter(lambda: self._current) as counter:
            step()
        return dict(counter.work)

    def _enter(self, stage: str) -> None:
        if self._is_timing:
            now_s = self._now()
            self.seconds[self._current] += now_s - self._entered_s
            self._entered_s = now_s
        self._current = stage

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class _Counter(TorchDispatchMode):
    """Adds up what every operator does, under the stage that it belongs to."""

    def __init__(self, stage: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stage = stage
        self.work: dict[str, Work] = defaultdict(Work)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        count_flops = flop_registry.get(func._overloadpacket)  # noqa: SLF001 - as torch's own counter
        if count_flops is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        work = self.work[self._stage()]
        if count_flops is not None:
            work.flops += count_flops(*args, **kwargs, out_val=result)
        if not func.is_view:
            tensors = (leaf for leaf in tree_leaves((args, kwargs, result)))
            work.num_bytes += sum(leaf.nbytes for leaf in tensors if isinstance(leaf, torch.Tensor))
        return result


@contextmanager
def stopwatch(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Adds what the block takes to a stage."""
    begun_s = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - begun_s
