"""Turn a checkpoint into safetensors, in a process of its own with bounds on what it may take.

Whoever wants the arrays maps what that process wrote, and reads no checkpoint itself. So a
stranger's file costs a server nothing, whatever the reader overlooks: the process has as much
memory and time as honest files of that size need, may open nothing, and dies with its parent.
"""

import codecs
import ctypes
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from model_store.checkpoint import read_open_checkpoint
from model_store.errors import CheckpointRejected, CheckpointUnavailable
from model_store.safetensors_file import METADATA, map_arrays, write_arrays

# Python and NumPy take 0.1 GiB. Of a file's bytes a protocol 2 pickle takes two and a half times
# as many, and 8-bit integers as float32 four times.
BASE_BYTES, BYTES_PER_BYTE = 2**30, 5
# From when Python has started. Arrays that are written as text take longest, a second of a core of
# today for 90 MB.
BASE_CPU_S, BYTES_PER_CPU_S = 1.5, 10e6
# On a disk, or in a network, that others use too.
BASE_WALL_S, BYTES_PER_WALL_S = 60.0, 5e6
POLL_S = 0.1
_REJECTED, _NOT_WRITTEN = 3, 4
_PACKAGES = Path(__file__).parents[1]
# linux/prctl.h
_PR_SET_PDEATHSIG = 1


def time_limit_s(num_bytes: int) -> float:
    """How long reading a file of that size may take, in seconds."""
    return BASE_WALL_S + num_bytes / BYTES_PER_WALL_S


def convert(
    source: Path,
    target: BinaryIO,
    metadata: Mapping[str, str],
    while_waiting: Callable[[], object],
    lock: int | None = None,
) -> None:
    """Write the checkpoint's arrays to `target`, which is half written where this fails.

    `while_waiting` is called again and again; what it raises ends the process. `lock` is a file's
    descriptor that the process holds too: were this one killed, that one may still be writing.

    Raises:
        CheckpointRejected: it is no checkpoint, or takes more time or memory than one.
        CheckpointUnavailable: it cannot be opened, or the process was killed.
        OSError: the target cannot be written.
    """
    try:
        file = source.open("rb")
    except OSError as error:
        raise CheckpointUnavailable(f"cannot open {source.name}: {error.strerror}") from error
    with file:
        num_bytes = os.fstat(file.fileno()).st_size
        descriptors = [file.fileno(), target.fileno()]
        memory_bytes = BASE_BYTES + BYTES_PER_BYTE * num_bytes
        cpu_s = BASE_CPU_S + num_bytes / BYTES_PER_CPU_S
        arguments = [*descriptors, os.getpid(), memory_bytes, cpu_s, source.name]
        pairs = [f"{name}={value}" for name, value in metadata.items()]
        packages = [str(_PACKAGES), os.environ.get("PYTHONPATH", "")]
        process = subprocess.Popen(  # noqa: S603  # our own module
            # -P: the working directory is no place to import from.
            [sys.executable, "-P", "-m", __name__, *map(str, arguments), *pairs],
            # One thread: each reserves memory.
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(filter(None, packages)), "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=descriptors if lock is None else [*descriptors, lock],
        )
        with process:
            try:
                output, errors = _wait(process, time_limit_s(num_bytes), while_waiting)
            except subprocess.TimeoutExpired as error:
                raise CheckpointUnavailable(
                    f"{source.name} could not be read in {error.timeout:.0f} s: try again when "
                    "the disk is less busy"
                ) from error
            finally:
                process.kill()
    _judge(source.name, process.returncode, output, errors)


def read_apart(source: Path, while_waiting: Callable[[], object]) -> dict[str, NDArray[np.float32]]:
    """The checkpoint's arrays, converted into memory; what is written to them is nobody else's.

    Raises:
        CheckpointRejected, CheckpointUnavailable: as `convert` does.
    """
    with _open_memory() as target:
        try:
            convert(source, target, {}, while_waiting)
            arrays, _ = map_arrays(target)
        except (OSError, ValueError) as error:
            raise CheckpointUnavailable(f"{source.name} could not be converted: {error}") from error
    return arrays


def main() -> int:
    """Run in the process; the exit status tells which error standard output describes."""
    source, target, parent, memory_bytes, cpu_s, name, *pairs = sys.argv[1:]
    _die_with(int(parent))
    # Of old pickles and of archives: found now, while their modules can be opened.
    for encoding in ("raw-unicode-escape", "cp437"):
        codecs.lookup(encoding)
    try:
        with open(int(source), "rb") as file, open(int(target), "wb") as converted:  # noqa: PTH123
            _limit(int(memory_bytes), float(cpu_s))
            arrays = read_open_checkpoint(file, name)
            arrays.pop(METADATA, None)
            write_arrays(converted, arrays, dict(pair.split("=", 1) for pair in pairs))
    except CheckpointRejected as error:
        sys.stdout.write(str(error))
        return _REJECTED
    except OSError as error:
        sys.stdout.write(str(error.errno))
        return _NOT_WRITTEN
    return 0


def _wait(
    process: "subprocess.Popen[str]", limit_s: float, while_waiting: Callable[[], object]
) -> tuple[str, str]:
    deadline_s = time.monotonic() + limit_s
    while True:
        try:
            return process.communicate(timeout=POLL_S)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline_s:
                raise subprocess.TimeoutExpired(process.args, limit_s) from None
        while_waiting()


def _judge(name: str, status: int, output: str, errors: str) -> None:
    match status:
        case 0:
            return
        case code if code == _REJECTED:
            raise CheckpointRejected(output)
        case code if code == _NOT_WRITTEN:
            raise OSError(int(output), os.strerror(int(output)))
        case code if -code in (signal.SIGPROF, signal.SIGXCPU):
            raise CheckpointRejected(
                f"{name} takes more time to read than a checkpoint of its size: it is hostile, or "
                "damaged"
            )
        case code if -code in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT):
            raise CheckpointRejected(f"{name} crashed what reads it: it is hostile, or damaged")
        case code if code < 0:
            ended_by = signal.Signals(-code).name
            raise CheckpointUnavailable(f"the conversion of {name} was ended by {ended_by}")
    raise RuntimeError(f"the conversion of {name} failed: {errors}")


def _open_memory() -> BinaryIO:
    """A file that nobody else sees, and that is gone when nobody has it open or mapped."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("checkpoint"), "w+b")
    return tempfile.TemporaryFile()


def _die_with(parent: int) -> None:
    """Have the system kill this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have ended before.
    if os.getppid() != parent:
        sys.exit(1)


def _limit(memory_bytes: int, cpu_s: float) -> None:
    """Bound what this process takes from now on, and have it open nothing more."""
    # The timer counts in milliseconds, and the limit in seconds; that one cannot be taken back.
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    total_s = math.ceil(time.process_time() + cpu_s)
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, total_s),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NOFILE, 0),
    ):
        # Where the process was given less already, or the system has no such limit, that stays.
        with suppress(ValueError):
            resource.setrlimit(kind, (limit, limit))


if __name__ == "__main__":
    sys.exit(main())
