import io

import pytest

from service.predict import progress as module
from service.predict.progress import RunProgress, Tally, format_duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def shown(stream: io.StringIO) -> str:
    return stream.getvalue().split("\r")[-1].rstrip()


def test_the_speed_and_the_time_left_are_of_what_was_done_and_not_of_what_was_found(clock):
    tally, terminal = Tally(total=1000, found=400), Terminal()
    line = RunProgress(tally, terminal)
    line.show()
    assert shown(terminal) == "[#########               ] 400 of 1000"
    clock[0] += 10
    tally.done, tally.failed = 95, 5
    line.show()
    assert shown(terminal).startswith(
        "[############            ] 500 of 1000, 5 failed, 10.0 images/s, 0:50"
    )
    line.close()
    assert shown(terminal) == ""


def test_the_speed_is_that_of_the_last_while(clock):
    tally, log = Tally(total=10_000), io.StringIO()
    line = RunProgress(tally, log)
    for _ in range(100):  # slowly at first
        line.show()
        clock[0] += 1
        tally.done += 1
    for _ in range(60):
        line.show()
        clock[0] += 1
        tally.done += 50
    assert "50.0 images/s" in log.getvalue().splitlines()[-1]


def test_elsewhere_lines_come_now_and_then(clock):
    tally, log = Tally(total=100), io.StringIO()
    line = RunProgress(tally, log)
    for _ in range(100):
        clock[0] += 0.25
        tally.done += 1
        line.show()
    line.close()
    assert len(log.getvalue().splitlines()) == 3
    assert "\r" not in log.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (65, "1:05"), (3600, "1:00:00"), (360_001, "100:00:01")]
)
def test_a_duration_has_hours_where_it_takes_them(seconds: int, text: str):
    assert format_duration(seconds) == text


def test_a_tally_tells_what_became_of_all():
    assert Tally(total=9, done=5, failed=1).describe() == "5 described, 1 failed"
    assert Tally(9, 5, 2, 1).describe() == "5 described, 2 already there, 1 failed"
