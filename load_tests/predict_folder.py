"""How fast `densepose predict` goes through a folder of many small files, and in how much memory.

    python -m load_tests.predict_folder [--files 20000] [--over-http]

The device is a stand-in that takes 20 ms and 5 ms per image: a plain loop of full batches over it
is what the rate is held against. The rest is the command's own: files, decoding, the scheduler,
encoding, whole files on the disk; with --over-http, a server of its own process and the client.
"""

import argparse
import asyncio
import io
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from load_tests.generator import jpeg
from load_tests.scenarios import Course
from load_tests.server import running_server
from load_tests.stand_in import StandIn
from model_store.catalogue import load_catalogue
from service.allocator import keep_freed_memory
from service.assembly import build_metrics
from service.pipeline.parameters import check_parameters
from service.predict import in_process, over_http
from service.predict.describing import Describe
from service.predict.files import find_sources
from service.predict.folder import open_results
from service.predict.jobs import plan_jobs
from service.predict.progress import RunProgress, Tally
from service.predict.recipes import Recipe, plain
from service.predict.run import Run
from service.settings import Settings

WIDTH, HEIGHT, NUM_BYTES = 160, 120, 5_000
SHORT_SIDE, LONG_SIDE = 128, 213
FILES_IN_A_FOLDER = 1000
CONCURRENCY = 24
MEBIBYTE = 2**20
# Readings at the beginning and the end of a run of which the medians are compared.
NUM_READINGS = 10
MAX_FILE_BYTES = 20 * MEBIBYTE


@dataclass
class Measured:
    """A run: images per second, and readings of the memory in bytes, ever after the same time."""

    num_done: int
    seconds: float
    memory_bytes: list[int] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Images per second."""
        return self.num_done / self.seconds

    @property
    def growth(self) -> float:
        """By what share the memory at the end is more than after the first tenth of the run."""
        begin = len(self.memory_bytes) // 10
        first = statistics.median(self.memory_bytes[begin : begin + NUM_READINGS])
        return statistics.median(self.memory_bytes[-NUM_READINGS:]) / first - 1


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--over-http", action="store_true")
    chosen = parser.parse_args()
    keep_freed_memory()
    device = StandIn()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        course = Course(folder / "unused.log", device=device)
        fill_folder(folder / "photos", chosen.files)
        before_per_s = course.peak_per_s()
        measured = measure(folder, device, is_over_http=chosen.over_http)
        # What else this machine does changes meanwhile.
        loop_per_s = (before_per_s + course.peak_per_s()) / 2
    print(f"{measured.num_done} files in {measured.seconds:.1f} s")
    print(f"images per second: {measured.per_s:.1f}; a plain loop's: {loop_per_s:.1f}")
    print(f"share of the plain loop: {measured.per_s / loop_per_s:.1%}")
    tenths = measured.memory_bytes[:: max(len(measured.memory_bytes) // 10, 1)]
    print("memory, MiB:", " ".join(f"{reading / MEBIBYTE:.1f}" for reading in tenths))
    print(f"growth after the first tenth: {measured.growth:+.1%}")


def fill_folder(folder: Path, num_files: int) -> None:
    """Make a folder with so many small JPEGs in folders of their own."""
    photo = jpeg(WIDTH, HEIGHT, NUM_BYTES)
    for number in range(num_files):
        path = folder / f"{number // FILES_IN_A_FOLDER:03}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo)


def measure(folder: Path, device: StandIn, *, is_over_http: bool) -> Measured:
    """Describe what is in `photos` of the folder, into `out` beside it."""
    recipe = plain({"outputs": "iuv", "model": "demo"}, "files")
    sources = find_sources([str(folder / "photos")], b"", root=None, out=str(folder / "out"))
    jobs = plan_jobs(sources, recipe, folder / "out").jobs
    tally = Tally(len(jobs))
    with open_results(folder / "out", {}, does_overwrite=False) as results:
        run = Run(recipe, results, tally, RunProgress(tally, io.StringIO()), MAX_FILE_BYTES)
        with _describing(folder, recipe, device, is_over_http=is_over_http) as describing:
            readings = list[int]()
            begun_s = time.perf_counter()
            with _reading_memory(readings, period_s=max(len(jobs) / 40_000, 0.02)):
                asyncio.run(run.do(jobs, describing, num_in_flight=CONCURRENCY))
            seconds = time.perf_counter() - begun_s
    if tally.failed:
        raise RuntimeError(f"{tally.failed} images failed, such as {tally.failures[0]}")
    return Measured(tally.done, seconds, readings)


@contextmanager
def _describing(
    folder: Path, recipe: Recipe, device: StandIn, *, is_over_http: bool
) -> Iterator[AbstractAsyncContextManager[Describe]]:
    if is_over_http:
        times = ["--batch-ms", str(device.batch_ms), "--image-ms", str(device.image_ms)]
        command = ["-m", "load_tests.stand_in", *times, "--short-side", str(SHORT_SIDE)]
        settings = {"DEFAULT_MODEL": "demo", "LOG_LEVEL": "warning"}
        with running_server(settings, folder / "server.log", command) as server:
            yield over_http.describing(server.url, None, recipe.wishes, recipe.accept)
        return
    cards = {"demo": replace(load_catalogue()["demo"], short_side=SHORT_SIDE, long_side=LONG_SIDE)}
    question = in_process.Question(check_parameters(recipe.wishes.items()), recipe.accept)
    settings_here = Settings(default_model="demo", short_side=SHORT_SIDE, long_side=LONG_SIDE)
    metrics = build_metrics({})
    yield in_process.describing(settings_here, replace(device, served=cards), question, metrics)


@contextmanager
def _reading_memory(readings: list[int], *, period_s: float) -> Iterator[None]:
    is_over = threading.Event()
    page_bytes = os.sysconf("SC_PAGE_SIZE")

    def read() -> None:
        while not is_over.wait(period_s):
            resident = int(Path("/proc/self/statm").read_text().split()[1])
            readings.append(resident * page_bytes)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


if __name__ == "__main__":
    main()
