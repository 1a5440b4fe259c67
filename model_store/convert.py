"""Turn a checkpoint into safetensors, in a process of its own with a bound on its memory.

The reader allocates no more than a file's own bytes justify. That it reads a stranger's file
beside a server all the same, once, should cost that server nothing, whatever the reader overlooks.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from model_store.checkpoint import read_checkpoint
from model_store.errors import CheckpointRejected, CheckpointUnavailable
from model_store.safetensors_file import METADATA, write_arrays

# Python and NumPy take 0.1 GiB. Of a file's bytes a protocol 2 pickle takes two and a half times
# as many, and 8-bit integers as float32 four times.
BASE_BYTES = 2**30
BYTES_PER_BYTE = 5
_REJECTED, _NOT_WRITTEN = 3, 4
_PACKAGES = Path(__file__).parents[1]


def convert(source: Path, target: Path, metadata: dict[str, str], lock: int) -> None:
    """Write the checkpoint's arrays to `target`, which is half written where this fails.

    `lock` is a file's descriptor. The process holds it too: were this one killed, that one may
    still be writing.

    Raises:
        CheckpointRejected: it is no checkpoint.
        CheckpointUnavailable: the process was killed.
        OSError: the target cannot be written.
    """
    num_bytes = BASE_BYTES + BYTES_PER_BYTE * source.stat().st_size
    pairs = [f"{name}={value}" for name, value in metadata.items()]
    path = os.pathsep.join([str(_PACKAGES), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    # -P: the working directory is no place to import from. One thread: each reserves memory.
    result = subprocess.run(  # noqa: S603  # our own module
        [sys.executable, "-P", "-m", __name__, source, target, str(num_bytes), *pairs],
        env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        pass_fds=[lock],
        check=False,
    )
    match result.returncode:
        case 0:
            return
        case code if code == _REJECTED:
            raise CheckpointRejected(result.stdout)
        case code if code == _NOT_WRITTEN:
            raise OSError(int(result.stdout), os.strerror(int(result.stdout)))
        case code if code < 0:
            name = signal.Signals(-code).name
            raise CheckpointUnavailable(f"the conversion of {source.name} was ended by {name}")
    raise RuntimeError(f"the conversion of {source.name} failed: {result.stderr}")


def main() -> int:
    """Run in the process; the exit status tells which error standard output describes."""
    source, target, num_bytes, *pairs = sys.argv[1:]
    # Where the process was given less already, or the system has no such limit, that stays.
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (int(num_bytes), int(num_bytes)))
    try:
        arrays = read_checkpoint(Path(source))
        arrays.pop(METADATA, None)
        write_arrays(Path(target), arrays, dict(pair.split("=", 1) for pair in pairs))
    except CheckpointRejected as error:
        sys.stdout.write(str(error))
        return _REJECTED
    except OSError as error:
        sys.stdout.write(str(error.errno))
        return _NOT_WRITTEN
    return 0


if __name__ == "__main__":
    sys.exit(main())
