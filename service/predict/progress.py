"""How far a run is, and what became of it."""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TextIO

from service.progress import StatusLine, draw_bar

# The speed is that of the last while: the first images wait for the model.
WINDOW_S = 30.0
MIN_SPAN_S = 0.5
MAX_SHOWN = 1000


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that was not described; the code is the contract's, or one of our own."""

    path: str
    code: str
    detail: str


@dataclass(slots=True)
class Tally:
    """How many images there are, and what became of those that are over."""

    total: int
    done: int = 0
    found: int = 0
    failed: int = 0
    # The first of those that failed: all of a hundred thousand would be no report.
    failures: list[Failure] = field(default_factory=list)

    def note(self, failure: Failure) -> None:
        """Count an image that failed."""
        self.failed += 1
        if len(self.failures) < MAX_SHOWN:
            self.failures.append(failure)

    @property
    def over(self) -> int:
        """How many need not be looked at again."""
        return self.done + self.found + self.failed

    def describe(self) -> str:
        """In words: how many, and what of them."""
        words = f"{self.done} described"
        if self.found:
            words += f", {self.found} already there"
        return words + f", {self.failed} failed"


class RunProgress:
    """Shows a bar with the speed and the time left; where lines cannot be redrawn, now and then."""

    def __init__(self, tally: Tally, stream: TextIO) -> None:
        self._tally = tally
        self._line = StatusLine(stream)
        self._past = deque[tuple[float, int]]()

    def show(self) -> None:
        """Take note of the tally."""
        tally, now_s = self._tally, time.monotonic()
        if not self._line.is_due(now_s):
            return
        num_ended = tally.done + tally.failed
        self._past.append((now_s, num_ended))
        while now_s - self._past[0][0] > WINDOW_S:
            self._past.popleft()
        first_s, first_ended = self._past[0]
        text = f"{draw_bar(tally.over, tally.total)} {tally.over} of {tally.total}"
        if tally.failed:
            text += f", {tally.failed} failed"
        if now_s - first_s >= MIN_SPAN_S and num_ended > first_ended:
            per_s = (num_ended - first_ended) / (now_s - first_s)
            left_s = round((tally.total - tally.over) / per_s)
            text += f", {per_s:.1f} images/s, {format_duration(left_s)} left"
        self._line.show(text, now_s)

    def close(self) -> None:
        """Leave the bar's line empty, for what is written next."""
        self._line.close()


def format_duration(seconds: int) -> str:
    """Hours, minutes and seconds."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
