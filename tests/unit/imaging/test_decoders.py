import asyncio
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import uvloop

from service.errors import ImageTooLarge, UndecodableImage
from service.imaging.decoders import Decoders
from service.imaging.pictures import Wanted, open_pictures
from service.metrics import Metrics
from tests.unit.imaging.odd_decoding_process import LIES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

WANTED = Wanted(max_pixels=10_000, short_side=74, long_side=1000, is_photo_kept=True)
PATIENCE_S = 60.0


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request):
    return request.param


@pytest.fixture
def metrics():
    return Metrics({})


@pytest.fixture
def decoders(metrics, monkeypatch, tmp_path):
    """Their process does what the last bytes of a picture tell it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(
        "service.imaging.decoders._MODULE", "tests.unit.imaging.odd_decoding_process"
    )
    with ThreadPoolExecutor(1) as threads:
        decoders = Decoders(threads, num_usual=2, num_large=1, metrics=metrics)
        yield decoders
        decoders.close()


@pytest.fixture
def tiff(photo, save):
    """A TIFF file, which no thread decodes, that ends in a word."""
    return lambda word="": save(photo, "TIFF") + word.encode().rjust(8)


def overruns(metrics):
    text = metrics.exposition().decode()
    lines = [line for line in text.splitlines() if line.startswith("densepose_decoder_overruns_to")]
    return {
        line.split('"')[1]: float(line.split()[-1]) for line in lines if not line.endswith(" 0.0")
    }


def children(pid):
    """The processes that a process has started and that have not ended."""
    ids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in ids]


def template(decoders):
    return decoders._template._running[1].pid


async def until(condition):
    while not condition():  # noqa: ASYNC110 - of other processes
        await asyncio.sleep(0.01)


async def asleep(folder, count=1):
    """The processes that sleep, once there are so many."""
    await until(lambda: len(list(folder.iterdir())) == count)
    files = list(folder.iterdir())
    for file in files:
        file.unlink()
    return [int(file.name) for file in files]


async def ended(pid):
    await until(lambda: not Path(f"/proc/{pid}").exists())


def read(decoders, data, *, atlas=None, wanted=WANTED):
    return decoders.read(data, atlas, wanted, time.monotonic() + PATIENCE_S)


def test_a_process_gives_the_same_pixels_as_a_thread(run, decoders, tiff, photo, save):
    atlas = save(photo.resize((16, 24)).convert("RGBA"), "PNG")
    pixels = run(read(decoders, tiff(), atlas=atlas))
    expected = open_pictures(tiff(), atlas, max_pixels=10_000).read(WANTED)
    assert pixels.image_size_hw == expected.image_size_hw == (37, 53)
    for got, due in (
        (pixels.resized_hw3, expected.resized_hw3),
        (pixels.photo.pixels_HW3, expected.photo.pixels_HW3),
        (pixels.atlas, expected.atlas),
    ):
        np.testing.assert_array_equal(got, due)
        assert got.flags.c_contiguous
        assert got.flags.writeable
    without = Wanted(max_pixels=10_000, short_side=74, long_side=1000, is_photo_kept=False)
    pixels = run(read(decoders, tiff(), wanted=without))
    assert (pixels.photo, pixels.atlas) == (None, None)


def test_what_is_cheap_needs_no_process(run, decoders, photo, save):
    for kind in ("JPEG", "PNG", "WEBP"):
        assert run(read(decoders, save(photo, kind))).image_size_hw == (37, 53)
    assert decoders._template._running is None


def test_an_error_of_a_process_is_the_same_as_of_a_thread(run, decoders, tiff, photo, save):
    with pytest.raises(UndecodableImage, match=r"^The GIF image is damaged or cut short\.$"):
        run(read(decoders, save(photo.quantize(8), "GIF")[:200]))
    large = Wanted(max_pixels=100, short_side=74, long_side=1000, is_photo_kept=False)
    with pytest.raises(ImageTooLarge, match="at most 100"):
        run(read(decoders, tiff(), wanted=large))


def test_at_the_deadline_the_process_is_ended_and_counted(run, decoders, tiff, metrics, tmp_path):
    async def ask():
        deadline_s = time.monotonic() + 3
        reading = asyncio.create_task(decoders.read(tiff("sleep"), None, WANTED, deadline_s))
        (pid,) = await asleep(tmp_path)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(deadline_s):
                await reading
        await ended(pid)
        assert (await read(decoders, tiff())).image_size_hw == (37, 53)

    run(ask())
    assert overruns(metrics) == {"deadline": 1}


def test_when_the_client_leaves_the_process_is_ended_and_not_counted(
    run, decoders, tiff, metrics, tmp_path
):
    async def ask():
        for _ in range(3):
            reading = asyncio.create_task(read(decoders, tiff("sleep")))
            (pid,) = await asleep(tmp_path)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            await ended(pid)

    run(ask())
    assert overruns(metrics) == {}


def test_a_thread_past_its_deadline_is_counted(run, decoders, metrics, photo, save, monkeypatch):
    monkeypatch.setattr("service.imaging.decoders._read_unless_costly", lambda *_: time.sleep(0.3))

    async def ask():
        deadline_s = time.monotonic() + 0.05
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(deadline_s):
                await decoders.read(b"", None, WANTED, deadline_s)

    run(ask())
    assert overruns(metrics) == {"thread": 1}


@pytest.mark.parametrize("word", ["compute", "die"])
def test_a_picture_that_costs_too_much_is_refused_and_the_next_is_read(
    run, decoders, tiff, metrics, word
):
    with pytest.raises(
        UndecodableImage, match=r"more than 3 s of computing, or its decoder failed"
    ):
        run(read(decoders, tiff(word)))
    assert overruns(metrics) == {"cost": 1}
    assert run(read(decoders, tiff())).image_size_hw == (37, 53)


def test_a_picture_that_takes_too_much_memory_is_refused(run, decoders, tiff):
    with pytest.raises(UndecodableImage, match="takes more memory than one may take"):
        run(read(decoders, tiff("grow")))


def test_a_process_that_somebody_kills_costs_its_picture_alone(run, decoders, tiff, tmp_path):
    async def ask():
        reading = [asyncio.create_task(read(decoders, tiff("sleep"))) for _ in range(2)]
        one, other = await asleep(tmp_path, 2)
        os.kill(one, signal.SIGKILL)
        done, left = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(done.pop().exception(), UndecodableImage)
        await until(lambda: children(template(decoders)) == [other])
        left.pop().cancel()
        await ended(other)
        os.kill(template(decoders), signal.SIGKILL)
        assert (await read(decoders, tiff())).image_size_hw == (37, 53)

    run(ask())


def test_what_a_decoder_prints_goes_nowhere(run, decoders, tiff, capfd):
    assert run(read(decoders, tiff("chat"))).image_size_hw == (37, 53)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", range(len(LIES)))
def test_what_a_process_says_is_not_believed(decoders, tiff, number):
    with pytest.raises(UndecodableImage):
        asyncio.run(read(decoders, tiff(f"say{number}")))
    assert asyncio.run(read(decoders, tiff())).image_size_hw == (37, 53)


@contextmanager
def server(code):
    """A process that decodes, prints the id of its template, and waits."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


SERVER = """
import asyncio, sys, time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from PIL import Image
from service.imaging import decoders
from service.imaging.pictures import Wanted
from service.metrics import Metrics
decoders._MODULE = "tests.unit.imaging.odd_decoding_process"
file = BytesIO()
Image.new("L", (9, 9)).save(file, "TIFF")
wanted = Wanted(max_pixels=100, short_side=9, long_side=9, is_photo_kept=False)
async def main():
    ours = decoders.Decoders(ThreadPoolExecutor(1), num_usual=1, num_large=1, metrics=Metrics({}))
    ours.start()
    print(ours._template._running[1].pid, flush=True)
    await ours.read(file.getvalue() + b"   sleep", None, wanted, time.monotonic() + 600)
asyncio.run(main())
"""


def test_the_processes_end_with_the_server(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with server(SERVER) as process:
        pid = int(process.stdout.readline())

        async def end():
            copies = await asleep(tmp_path)
            process.kill()
            for each in (pid, *copies):
                await ended(each)

        asyncio.run(end())
