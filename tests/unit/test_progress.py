import io
import os

import pytest

from service import progress as module
from service.progress import ProgressLine, describe_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.shutil, "get_terminal_size", lambda: os.terminal_size((60, 24)))
    return now


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        ((0, 200_000_000, 0.0), "[                        ] 0.0 MB of 200.0 MB"),
        (
            (50_000_000, 200_000_000, 2e6),
            "[######                  ] 50.0 MB of 200.0 MB, 2.0 MB/s, 1:15 left",
        ),
        ((7, 7, 1e6), "[########################] 0.0 MB of 0.0 MB, 1.0 MB/s, 0:00 left"),
        ((0, 0, 0.0), "[########################] 0.0 MB of 0.0 MB"),
        ((50_000_000, None, 2e6), "50.0 MB, waiting for the server or another process"),
    ],
)
def test_bytes_speed_and_time_left_are_shown(progress, text: str):
    assert describe_progress(*progress) == text


def test_a_terminal_s_line_is_redrawn_within_its_width_and_left_empty(clock: list[float]):
    terminal = Terminal()
    line = ProgressLine("a_model", terminal)
    line(10**6, 10**8)
    clock[0] += 0.01
    line(2 * 10**6, 10**8)  # too soon
    clock[0] += 0.99
    line(11 * 10**6, 10**8)
    line.close()
    assert "\n" not in terminal.getvalue()
    _, first, second, last, end = terminal.getvalue().split("\r")
    assert [len(text) for text in (first, second, last, end)] == [59, 59, 59, 0]
    assert first.rstrip() == f"a_model  {describe_progress(10**6, 10**8, 0)}"
    assert second == f"a_model  {describe_progress(11 * 10**6, 10**8, 1e7)}"[:59]
    assert last.strip() == ""


def test_what_was_there_before_does_not_count_for_the_speed(clock: list[float]):
    terminal = Terminal()
    line = ProgressLine("m", terminal)
    line(90, 100)
    clock[0] += 1
    line(40, 100)  # the server began anew
    assert "MB/s" not in terminal.getvalue()


def test_elsewhere_a_line_comes_now_and_then(clock: list[float]):
    log = io.StringIO()
    line = ProgressLine("a_model", log)
    for num_bytes in range(101):
        line(num_bytes * 10**6, 10**8)
        clock[0] += 0.3
    line.close()
    lines = log.getvalue().splitlines()
    assert len(lines) == 4
    assert all(text.startswith("a_model  [") for text in lines)
    assert "100.0 MB of 100.0 MB" in lines[-1]


def test_nothing_is_shown_of_what_takes_no_time():
    terminal = Terminal()
    ProgressLine("a_model", terminal).close()
    assert terminal.getvalue() == ""
