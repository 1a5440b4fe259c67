"""Many images at a few at a time, described by whatever stands in."""

import asyncio
import io
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.client.errors import UnreadableAnswer
from service.predict.describing import CannotGoOn, NotDescribed
from service.predict.files import Job
from service.predict.folder import open_results
from service.predict.progress import RunProgress, Tally
from service.predict.recipes import plain
from service.predict.run import Run

NUM_IMAGES = 30


class StandIn:
    """Answers after a moment; notes how many it was asked at once."""

    def __init__(self, errors=None) -> None:
        self.errors = errors or {}
        self.asked: list[bytes] = []
        self.num_inside = self.most_inside = 0
        self.is_closed = False

    @asynccontextmanager
    async def describing(self):
        yield self.describe
        self.is_closed = True

    async def describe(self, image: bytes) -> bytes:
        self.asked.append(image)
        self.num_inside += 1
        self.most_inside = max(self.most_inside, self.num_inside)
        await asyncio.sleep(0.001)
        self.num_inside -= 1
        if image in self.errors:
            raise self.errors[image]
        return b"answer to " + image


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    made = []
    for number in range(NUM_IMAGES):
        path = tmp_path / f"{number:02}.jpg"
        path.write_bytes(b"%02d" % number)
        made.append(Job(str(path), path.name))
    return made


def do(jobs, device: StandIn, out: Path, recipe=None, num_in_flight=4):
    """What became of them: the tally, and the failures."""
    tally = Tally(len(jobs))
    with open_results(out, {}, does_overwrite=False) as results:
        run = Run(
            recipe or plain({}, "picture"),
            results,
            tally,
            RunProgress(tally, io.StringIO()),
            max_file_bytes=100,
        )
        asyncio.run(run.do(jobs, device.describing(), num_in_flight=num_in_flight))
    return tally, tally.failures


def test_all_are_described_in_order_a_few_at_a_time(jobs, tmp_path: Path):
    device = StandIn()
    tally, failures = do(jobs, device, tmp_path / "out")
    assert (tally.done, tally.failed, failures) == (NUM_IMAGES, 0, [])
    assert device.most_inside <= 4
    for position, image in enumerate(device.asked):
        assert abs(int(image) - position) < 4
    for number in range(NUM_IMAGES):
        written = (tmp_path / "out" / f"{number:02}.png").read_bytes()
        assert written == b"answer to %02d" % number


def test_one_that_fails_stops_no_other(jobs, tmp_path: Path):
    Path(jobs[3].path).unlink()
    (tmp_path / "out" / "05.png" / "in the way").mkdir(parents=True)
    errors = {
        b"07": NotDescribed("too large", code="image_too_large"),
        b"08": UnreadableAnswer("what?"),
    }
    tally, failures = do(jobs, StandIn(errors), tmp_path / "out")
    assert (tally.done, tally.failed) == (NUM_IMAGES - 4, 4)
    assert {Path(failure.path).name: failure.code for failure in failures} == {
        "03.jpg": "unreadable_file",
        "05.jpg": "cannot_write",
        "07.jpg": "image_too_large",
        "08.jpg": "unreadable_answer",
    }


def test_what_is_true_of_all_ends_the_run_and_what_it_had_open(jobs, tmp_path: Path):
    device = StandIn({b"05": CannotGoOn("no key", code="unauthorized")})
    with pytest.raises(CannotGoOn, match="no key"):
        do(jobs, device, tmp_path / "out")
    assert len(device.asked) < NUM_IMAGES


def test_a_full_disk_ends_the_run(jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    replace = Path.replace

    def fail_for_results(self, target):
        if target.suffix == ".png":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_for_results)
    with pytest.raises(CannotGoOn, match="No space") as raised:
        do(jobs, StandIn(), tmp_path / "out")
    assert raised.value.code == "cannot_write"


def test_there_are_never_more_images_in_memory_than_are_on_their_way(jobs, tmp_path: Path):
    device = StandIn()
    do(jobs, device, tmp_path / "out", num_in_flight=1)
    assert device.most_inside == 1
