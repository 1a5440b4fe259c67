"""How far a download is, for who waits for it."""

import shutil
import time
from typing import TextIO

REDRAW_S = 0.1
# Where lines cannot be redrawn.
REPEAT_S = 10.0
BAR_LENGTH = 24


class ProgressLine:
    """Shows a file's progress: a bar on a terminal, and elsewhere a line now and then."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name = name
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._shown_at = float("-inf")
        # What had arrived at the first report, and when that was.
        self._first: tuple[int, float] | None = None

    def __call__(self, num_bytes: int, total: int | None) -> None:
        """Take note of the bytes that have arrived, and of how many there will be."""
        now = time.monotonic()
        if self._first is None:
            self._first = num_bytes, now
        is_complete = num_bytes == total
        pause_s = REDRAW_S if self._is_terminal else REPEAT_S
        if now - self._shown_at < pause_s and not is_complete:
            return
        self._shown_at = now
        first_bytes, first_at = self._first
        speed = max(num_bytes - first_bytes, 0) / max(now - first_at, REDRAW_S)
        self._show(f"{self._name}  {describe_progress(num_bytes, total, speed)}")

    def close(self) -> None:
        """Leave the bar's line empty, for what is written next."""
        if self._is_terminal and self._first is not None:
            self._show("")
            self._stream.write("\r")
            self._stream.flush()

    def _show(self, text: str) -> None:
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r{text[:width]:{width}}")
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()


def describe_progress(num_bytes: int, total: int | None, bytes_per_s: float) -> str:
    """A bar with bytes, speed and time left, as far as they are known."""
    if total is None:
        return f"{format_bytes(num_bytes)}, by another process"
    share = num_bytes / total if total else 1.0
    bar = "#" * int(share * BAR_LENGTH)
    text = f"[{bar:{BAR_LENGTH}}] {format_bytes(num_bytes)} of {format_bytes(total)}"
    if bytes_per_s:
        left_s = round((total - num_bytes) / bytes_per_s)
        text += f", {format_bytes(bytes_per_s)}/s, {left_s // 60}:{left_s % 60:02} left"
    return text


def format_bytes(num_bytes: float) -> str:
    """In megabytes, of a million bytes each."""
    return f"{num_bytes / 1e6:.1f} MB"
