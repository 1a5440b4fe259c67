"""Has checkpoints read that nobody wrote by accident, and looks what they get out of it.

    python -m load_tests.hostile_checkpoints [--files 100000] [--children 2000] [--seed 1]

So many files go through the reader in this process, which is reused, and so many others through the
process that reads a stranger's file for a server. It ends with 1 if an array reached beyond its
bytes, if anything was imported, opened, run or changed on behalf of a file, if an error was none of
ours, or if a file took more than two seconds of the CPU.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from load_tests.hostile_files import Forger
from model_store import pickled_arrays, torch_archive
from model_store.checkpoint import read_open_checkpoint
from model_store.convert import BASE_BYTES, BYTES_PER_BYTE, read_apart
from model_store.errors import CheckpointRejected, ModelStoreError

MAX_CPU_S = 2.0
# Beyond what this process has: as a file of a megabyte has in the process of its own.
MEMORY_BYTES = BASE_BYTES + BYTES_PER_BYTE * 2**20
NUM_WARM_UPS, NUM_SHOWN = 300, 20


@dataclass
class Findings:
    """What became of the files."""

    outcomes: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    num_views: int = 0
    most_s: float = 0.0
    slowest: str = ""

    def note(self, kind: str, outcome: str, cpu_s: float) -> None:
        """One more file."""
        self.outcomes[outcome] += 1
        if cpu_s > self.most_s:
            self.most_s, self.slowest = cpu_s, kind
        if cpu_s > MAX_CPU_S:
            self.defects.append(f"{kind} took {cpu_s:.2f} s of the CPU")

    def report(self, title: str) -> None:
        """Print it."""
        outcomes = ", ".join(f"{number} {name}" for name, number in self.outcomes.most_common())
        print(
            f"{title}: {outcomes}; {self.num_views} arrays within their bytes; at most "
            f"{self.most_s:.2f} s of the CPU ({self.slowest}); {len(self.defects)} defects"
        )
        for defect in self.defects[:NUM_SHOWN]:
            print(f"  {defect}")


def main() -> int:
    """Both parts; the exit status tells whether all was well."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--children", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        apart = read_in_children(
            Forger(chosen.seed + 1, folder / "canary"), chosen.children, folder
        )
        apart.report(f"{chosen.children} files, each in a process of its own")
        here = read_here(Forger(chosen.seed, folder / "canary"), chosen.files, folder)
        here.report(f"{chosen.files} files in one process")
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"this process had {peak_kib // 1024} MiB at most, torch included")
    return 1 if here.defects or apart.defects else 0


def read_here(forger: Forger, num_files: int, folder: Path) -> Findings:
    """What becomes of files that this process reads, with a process's bound on its memory."""
    findings, path = Findings(), folder / "file"
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with checking_views(findings):
        # What is imported at its first use.
        for _, content in (forger.forge() for _ in range(NUM_WARM_UPS)):
            read_one(path, content)
        watch = Watch()
        before = snapshot()
        resource.setrlimit(resource.RLIMIT_AS, (address_bytes() + MEMORY_BYTES, limits[1]))
        try:
            for _ in range(num_files):
                kind, content = forger.forge()
                begun_s = time.process_time()
                watch.events, watch.is_on = [], True
                outcome = read_one(path, content)
                watch.is_on = False
                findings.note(kind, outcome, time.process_time() - begun_s)
                if outcome.startswith("defect") or watch.events:
                    findings.defects.append(f"{kind}: {outcome}, {watch.events[:3]}")
        finally:
            watch.is_on = False
            resource.setrlimit(resource.RLIMIT_AS, limits)
        if changed := dict(snapshot().items() ^ before.items()):
            findings.defects.append(f"of the reader's were changed: {sorted(changed)}")
    check_folder(folder, findings)
    return findings


def read_in_children(forger: Forger, num_files: int, folder: Path) -> Findings:
    """What becomes of files that are read as a server has them read."""
    findings, path = Findings(), folder / "file"
    for _ in range(num_files):
        kind, content = forger.forge()
        path.write_bytes(content)
        begun_s = cpu_of_children_s()
        try:
            arrays = read_apart(path, lambda: None)
        except ModelStoreError as error:
            outcome = str(error).partition(": it is hostile")[0].removeprefix("file ")
            outcome = outcome if "takes more" in outcome or "crashed" in outcome else "refused"
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
            outcome = f"defect {error!r}"
            findings.defects.append(f"{kind}: {outcome}")
        else:
            outcome = "read"
            for array in arrays.values():
                findings.num_views += 1
                if not lies_within(array, owner_of(array)):
                    findings.defects.append(f"{kind}: an array reaches beyond its file")
        findings.note(kind, outcome, cpu_of_children_s() - begun_s)
    check_folder(folder, findings)
    return findings


def read_one(path: Path, content: bytes) -> str:
    """What becomes of one file in this process."""
    path.write_bytes(content)
    try:
        with path.open("rb") as file:
            arrays = read_open_checkpoint(file, "file")
    except CheckpointRejected as error:
        return "refused" if str(error).isprintable() else "defect: its message has control codes"
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
        return f"defect {error!r}"
    for array in arrays.values():
        if array.dtype != np.float32 or not (array.flags.c_contiguous and array.flags.writeable):
            return "defect: an array is not as it should be"
        if not lies_within(array, owner_of(array)):
            return "defect: an array reaches beyond what it is made of"
    return "read"


@contextmanager
def checking_views(findings: Findings) -> Iterator[None]:
    """Compares the addresses of every array with those of the bytes that it is made of."""
    make: Callable[..., NDArray[Any]] = pickled_arrays.view_bytes

    def check(data: bytearray, *arguments: Any) -> NDArray[Any]:
        view = make(data, *arguments)
        findings.num_views += 1
        if not lies_within(view, np.frombuffer(data, np.uint8)):
            findings.defects.append(f"an array reaches beyond its bytes: {arguments}")
            raise CheckpointRejected("reaches beyond its bytes")
        return view

    modules: tuple[Any, ...] = (pickled_arrays, torch_archive)
    for module in modules:
        module.view_bytes = check
    try:
        yield
    finally:
        for module in modules:
            module.view_bytes = make


def lies_within(array: NDArray[Any], owner: NDArray[Any]) -> bool:
    """Whether every byte of an array is one of its owner's, by address."""
    if array.size == 0:
        return True
    low, high = np.lib.array_utils.byte_bounds(array)
    first, end = np.lib.array_utils.byte_bounds(owner)
    return bool(owner.size) and first <= low and high <= end


def owner_of(array: NDArray[Any]) -> NDArray[Any]:
    """The memory that an array is a part of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    if array.base is None or isinstance(array, np.memmap):
        return array
    return np.frombuffer(array.base, np.uint8)


class Watch:
    """Notes what the interpreter is asked for while it is on: imports, files, processes, code."""

    # numpy and zipfile do these on their own.
    HARMLESS = ("object.__getattr__", "gc.", "sys._getframe", "array.__new__")

    def __init__(self) -> None:
        self.is_on = False
        self.events: list[str] = []
        self._num_opened = 0
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on or event.startswith(self.HARMLESS):
            return
        # The file itself, as it is written and read.
        if event == "open" and os.fspath(arguments[0]).endswith("/file"):
            return
        self.events.append(f"{event} {arguments!r:.100}")


def snapshot() -> dict[str, int]:
    """Which object stands under which name in the reader's modules, its classes and `builtins`."""
    modules = [sys.modules[name] for name in sys.modules if name.startswith("model_store")]
    owners: list[Any] = [
        *modules,
        sys.modules["builtins"],
        sys.modules["pickle"],
        sys.modules["zipfile"],
    ]
    owners += [value for one in modules for value in vars(one).values() if isinstance(value, type)]
    return {
        f"{owner.__name__}.{name}": id(value)
        for owner in owners
        for name, value in list(vars(owner).items())
        if not name.startswith(("_abc_", "__annotations__", "__warningregistry__"))
    }


def address_bytes() -> int:
    """The addresses that this process has taken."""
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    return num_pages * resource.getpagesize()


def check_folder(folder: Path, findings: Findings) -> None:
    """Finds what files have written."""
    if names := {path.name for path in folder.iterdir()} - {"file"}:
        findings.defects.append(f"files wrote {sorted(names)}")


def cpu_of_children_s() -> float:
    """Seconds of the CPU of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
