"""How far a long piece of work is, for who waits for it."""

import shutil
from typing import NoReturn, TextIO

from tqdm import tqdm

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


class _Lines:
    """A stream in which a bar cannot be redrawn: each time it is a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.flush = stream.flush

    def write(self, text: str) -> None:
        """Write what is to be seen, and leave out what would erase an earlier bar."""
        if line := text.strip():
            self._stream.write(f"{line}\n")


def open_bar(
    stream: TextIO, *, total: int | None = None, desc: str | None = None, unit: str = "it"
) -> "tqdm[NoReturn]":
    """A bar that is redrawn on a terminal, and gone in the end; elsewhere a line now and then."""
    is_terminal = stream.isatty()
    return tqdm(
        total=total,
        desc=desc,
        unit=unit,
        unit_scale=unit == "B",
        file=stream if is_terminal else _Lines(stream),
        leave=False,
        dynamic_ncols=is_terminal,
        # Nothing is shown of what takes no time, and what stands still is shown too.
        delay=REDRAW_S,
        mininterval=REDRAW_S if is_terminal else REPEAT_S,
        miniters=0,
    )


class DownloadBar:
    """Shows how much of a file has arrived; called as `model_store` reports it."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._bar = open_bar(stream, desc=name, unit="B")
        self._is_begun = False

    def __call__(self, num_bytes: int, total: int | None) -> None:
        """Take note of the bytes that have arrived, and of how many there will be."""
        if not self._is_begun:
            self._is_begun = True
            # What was there before does not count for the speed.
            self._bar.initial = self._bar.n = self._bar.last_print_n = num_bytes
        self._bar.total = total
        waits = "waiting for the server or another process" if total is None else ""
        self._bar.set_postfix_str(waits, refresh=False)
        self._bar.update(num_bytes - self._bar.n)

    def close(self) -> None:
        """Leave the bar's line empty, for what is written next."""
        self._bar.close()


def draw_bar(done: int, total: int) -> str:
    """So much of a whole, as a bar."""
    share = done / total if total else 1.0
    bar = "#" * int(share * BAR_LENGTH)
    return f"[{bar:{BAR_LENGTH}}]"


def format_bytes(num_bytes: float) -> str:
    """In megabytes, of a million bytes each."""
    return f"{num_bytes / 1e6:.1f} MB"
