"""How far a long piece of work is, for who waits for it."""

import shutil
import time
from typing import TextIO

REDRAW_S = 0.1
# Where lines cannot be redrawn.
REPEAT_S = 10.0
BAR_LENGTH = 24


class StatusLine:
    """A line that is redrawn on a terminal, and elsewhere written again now and then."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._shown_s: float | None = None

    def is_due(self, now_s: float) -> bool:
        """Whether it is time to show something new; `now_s` is of `time.monotonic()`."""
        pause_s = REDRAW_S if self._is_terminal else REPEAT_S
        return self._shown_s is None or now_s - self._shown_s >= pause_s

    def show(self, text: str, now_s: float) -> None:
        """Show this instead of what was shown before."""
        self._shown_s = now_s
        if self._is_terminal:
            self._draw(text)
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave the line empty, for what is written next."""
        if self._is_terminal and self._shown_s is not None:
            self._draw("")
            self._stream.write("\r")
            self._stream.flush()

    def _draw(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r{text[:width]:{width}}")


class ProgressLine:
    """Shows a file's progress: a bar on a terminal, and elsewhere a line now and then."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name = name
        self._line = StatusLine(stream)
        # What had arrived at the first report, and when that was.
        self._first: tuple[int, float] | None = None

    def __call__(self, num_bytes: int, total: int | None) -> None:
        """Take note of the bytes that have arrived, and of how many there will be."""
        now_s = time.monotonic()
        if self._first is None:
            self._first = num_bytes, now_s
        if not self._line.is_due(now_s) and num_bytes != total:
            return
        first_bytes, first_s = self._first
        speed = max(num_bytes - first_bytes, 0) / max(now_s - first_s, REDRAW_S)
        self._line.show(f"{self._name}  {describe_progress(num_bytes, total, speed)}", now_s)

    def close(self) -> None:
        """Leave the bar's line empty, for what is written next."""
        self._line.close()


def describe_progress(num_bytes: int, total: int | None, bytes_per_s: float) -> str:
    """A bar with bytes, speed and time left, as far as they are known."""
    if total is None:
        return f"{format_bytes(num_bytes)}, waiting for the server or another process"
    text = f"{draw_bar(num_bytes, total)} {format_bytes(num_bytes)} of {format_bytes(total)}"
    if bytes_per_s:
        left_s = round((total - num_bytes) / bytes_per_s)
        text += f", {format_bytes(bytes_per_s)}/s, {left_s // 60}:{left_s % 60:02} left"
    return text


def draw_bar(done: int, total: int) -> str:
    """So much of a whole, as a bar."""
    share = done / total if total else 1.0
    bar = "#" * int(share * BAR_LENGTH)
    return f"[{bar:{BAR_LENGTH}}]"


def format_bytes(num_bytes: float) -> str:
    """In megabytes, of a million bytes each."""
    return f"{num_bytes / 1e6:.1f} MB"
