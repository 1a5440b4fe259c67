import io

import pytest

from service import progress as module
from service.progress import DownloadBar, format_bytes, open_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were much time between two reports."""
    monkeypatch.setattr(module, "REDRAW_S", 0)
    monkeypatch.setattr(module, "REPEAT_S", 0)


@pytest.mark.usefixtures("at_once")
def test_a_terminal_s_line_is_redrawn_and_left_empty():
    terminal = Terminal()
    bar = DownloadBar("a_model", terminal)
    bar(10**6, 10**8)
    bar(11 * 10**6, 10**8)
    bar.close()
    assert "\n" not in terminal.getvalue()
    *_, shown, empty, end = terminal.getvalue().split("\r")
    assert shown.startswith("a_model:  11%|")
    assert "11.0M/100M [" in shown
    assert (empty.strip(), end) == ("", "")


@pytest.mark.usefixtures("at_once")
def test_what_is_waited_for_is_said_where_no_length_is_known():
    terminal = Terminal()
    bar = DownloadBar("a_model", terminal)
    bar(50_000_000, None)
    assert "a_model: 50.0MB" in terminal.getvalue()
    assert "waiting for the server or another process" in terminal.getvalue()
    bar.close()


@pytest.mark.usefixtures("at_once")
def test_what_was_there_before_does_not_count_for_the_speed():
    terminal = Terminal()
    bar = DownloadBar("m", terminal)
    bar(90, 100)
    bar(40, 100)  # the server began anew
    assert "0.00B/s" in terminal.getvalue() or "?B/s" in terminal.getvalue()
    assert "40.0/100 [" in terminal.getvalue()
    bar.close()


@pytest.mark.usefixtures("at_once")
def test_elsewhere_each_bar_is_a_line():
    log = io.StringIO()
    bar = open_bar(log, total=4, unit=" images")
    for _ in range(4):
        bar.update(1)
    bar.close()
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue()
    assert [line.partition("|")[0].strip() for line in lines[-4:]] == ["25%", "50%", "75%", "100%"]


def test_elsewhere_lines_come_now_and_then():
    log = io.StringIO()
    bar = DownloadBar("a_model", log)
    for num_bytes in range(101):
        bar(num_bytes, 100)
    bar.close()
    assert log.getvalue() == ""


def test_nothing_is_shown_of_what_takes_no_time():
    terminal = Terminal()
    DownloadBar("a_model", terminal).close()
    assert terminal.getvalue().strip() == ""


def test_bytes_are_told_in_megabytes():
    assert format_bytes(8_350_000) == "8.3 MB"
