"""How long each stage of a batch took, on the host or on the device."""

import time

import torch


class StageClock:
    """Names the time since the last mark; on CUDA by events, so that marking waits for nothing."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._marks: list[tuple[str, float | torch.cuda.Event]] = [("", self._now())]

    def mark(self, stage: str) -> None:
        """What was done since the last mark belongs to this stage."""
        self._marks.append((stage, self._now()))

    def seconds(self) -> dict[str, float]:
        """The seconds of each stage; waits for what the last one left under way."""
        last = self._marks[-1][1]
        if isinstance(last, torch.cuda.Event):
            last.synchronize()
        seconds: dict[str, float] = {}
        for (_, begin), (stage, end) in zip(self._marks, self._marks[1:], strict=False):
            seconds[stage] = seconds.get(stage, 0.0) + _between(begin, end)
        return seconds

    def _now(self) -> float | torch.cuda.Event:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(begin: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(begin, torch.cuda.Event):
        assert isinstance(end, torch.cuda.Event)
        return float(begin.elapsed_time(end)) / 1000
    assert isinstance(end, float)
    return end - begin
