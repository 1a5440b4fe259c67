"""Searches for the picture that costs most to decode, over the headers of every format.

    nice python -m load_tests.costly_pictures [--minutes 5] [--seed 1] [--keep FOLDER]

Files are built whose headers are valid and extreme: sizes, depths, compressions, tiles, scans,
frames; their content costs little to send. Each goes the way of a request, up to the pixels for
the network, in a process of its own that has the bound on memory of the server's, and none on time
below a minute. The costliest of each form are changed a little and tried again. The table has for
each form the greatest CPU time and the greatest memory that were found, each with the bytes that
were sent for it; what is refused costs what it took until then. The exit status is 1 if something
takes more than 2 s or 512 MiB.
"""

import argparse
import json
import os
import random
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
from PIL import Image

from load_tests.costly_files import FORMS, Choices
from service.errors import ServiceError
from service.imaging.decoding_process import MAX_BYTES, MAX_LARGE_BYTES
from service.imaging.pictures import Wanted, open_pictures

MAX_CPU_S, MAX_MIB = 2.0, 512.0
ENDLESS_S = 60
MIB = 2**20
# What exceeds a bound may be others' doing; the least of so many measurements counts.
NUM_MEASUREMENTS = 3
WANTED = Wanted(max_pixels=40_000_000, short_side=800, long_side=1333, is_photo_kept=True)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a file took, until its pixels were there or it was refused."""

    cpu_s: float
    mib: float
    num_bytes: int
    outcome: str


@dataclass(frozen=True, slots=True)
class Found:
    """A costly file."""

    cost: Cost
    choices: Choices


def main() -> int:
    """Search, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the costliest files go")
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    Image.MAX_IMAGE_PIXELS = None
    search = Search(random.Random(chosen.seed))
    end_s = time.monotonic() + 60 * chosen.minutes
    while time.monotonic() < end_s:
        for form in FORMS:
            search.try_one(form)
    is_within = True
    print("| form | tried, read | s | of bytes | MiB | of bytes |")
    print("|---|---|---|---|---|---|")
    for form in FORMS:
        slowest, largest = search.slowest[form].cost, search.largest[form].cost
        print(
            f"| {form} | {search.num_tried[form]}, {search.num_read[form]} | {slowest.cpu_s:.2f} |"
            f" {slowest.num_bytes:,} | {largest.mib:.0f} | {largest.num_bytes:,} |"
        )
        is_within = is_within and slowest.cpu_s <= MAX_CPU_S and largest.mib <= MAX_MIB
        if chosen.keep is not None:
            name = form.replace(", ", "_").replace(" ", "_")
            for kind, found in (("slow", search.slowest), ("large", search.largest)):
                data = FORMS[form](Choices(random.Random(0), found[form].choices.numbers))
                (chosen.keep / f"{name}.{kind}").write_bytes(data)
    return 0 if is_within else 1


class Search:
    """The costliest files so far, by form."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.slowest: dict[str, Found] = {}
        self.largest: dict[str, Found] = {}
        self.num_tried = dict.fromkeys(FORMS, 0)
        self.num_read = dict.fromkeys(FORMS, 0)

    def try_one(self, form: str) -> None:
        """Make a file, like the costliest or like none, and keep it if it is costlier."""
        choices = Choices(self._chance)
        if form in self.slowest and self._chance.random() < 0.6:
            parent = self._chance.choice((self.slowest, self.largest))[form]
            choices = parent.choices.mutant()
        try:
            data = FORMS[form](choices)
        except MemoryError:
            # Pillow's encoders refuse some sizes that its decoders take.
            return
        if len(data) > 20 * MIB:
            return
        cost = measure(data)
        for _ in range(NUM_MEASUREMENTS - 1):
            if cost.cpu_s > 0.75 * MAX_CPU_S:
                cost = min(cost, measure(data), key=lambda each: each.cpu_s)
        self.num_tried[form] += 1
        self.num_read[form] += cost.outcome == "read"
        if form not in self.slowest or cost.cpu_s > self.slowest[form].cost.cpu_s:
            self.slowest[form] = Found(cost, choices)
        if form not in self.largest or cost.mib > self.largest[form].cost.mib:
            self.largest[form] = Found(cost, choices)


def measure(data: bytes) -> Cost:
    """What the file takes in a process of its own."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writing, json.dumps(_take(data)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    _, _, usage = os.wait4(pid, 0)
    if told:
        cpu_s, mib, outcome = json.loads(told)
        return Cost(cpu_s, mib, len(data), outcome)
    return Cost(usage.ru_utime + usage.ru_stime, 0.0, len(data), "ended")


def _take(data: bytes) -> tuple[float, float, str]:
    """CPU time, memory in MiB at its peak, and the outcome; in a process that ends then."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stderr.fileno())
    signal.setitimer(signal.ITIMER_PROF, ENDLESS_S)
    begun_s = time.process_time()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    try:
        opened = open_pictures(data, None, max_pixels=WANTED.max_pixels)
        if opened.is_costly:
            most = MAX_LARGE_BYTES if opened.is_large else MAX_BYTES
            most += _status("VmSize")
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        opened.read(WANTED)
        outcome = "read"
    except ServiceError as error:
        outcome = str(error)
    except MemoryError:
        outcome = "memory"
    return time.process_time() - begun_s, (_status("VmHWM") - before) / MIB, outcome


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(name)


if __name__ == "__main__":
    sys.exit(main())
