"""How many cores there are for the CPU's threads, and how these wait for each other."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

# Of PyTorch, of NumPy's matrix products, of OpenCV: each would count the machine's cores.
COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
ROOT = Path("/")


def num_cores(root: Path = ROOT) -> int:
    """The cores that this process may use: those it may run on, and no more than its time allows.

    The time is that of a container's limit, `cpu.max`; half a core counts as one.
    """
    return min([_num_allowed(), *(math.ceil(quota) for quota in _quotas(root))])


def prepare_threads(root: Path = ROOT) -> None:
    """Has the libraries' threads be as many as there are cores, and sleep while they wait.

    None of these libraries must have been imported yet. What an operator has set stays.

    In a container of two cores on a machine of 64, 64 threads use up the container's time at once,
    and stand still, all of them, until it is given more.

    By default GNU's OpenMP has waiting threads spin. On a core that somebody else needs as well (a
    picture being decoded, a neighbour in the same container), the thread that all wait for is then
    the one that does not run: with other work on both of two cores, the demo model described 0.3
    images a second spinning, and 2.5 asleep.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Without a limit PyTorch knows better: it counts a core that runs two threads once.
    if (number := num_cores(root)) < _num_allowed():
        for name in COUNTS:
            os.environ.setdefault(name, str(number))


def _num_allowed() -> int:
    """The cores that this process may run on, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """The limits, in cores, of the control groups that this process is in, from inner to outer.

    In a container the groups around it cannot be seen, and its own is the outermost.
    """
    for hierarchy, group in _groups(root):
        for folder in (group, *group.parents):
            quota = _quota(root / "sys/fs/cgroup" / hierarchy / folder)
            if quota is not None:
                yield quota


def _groups(root: Path) -> Iterator[tuple[str, Path]]:
    """Where version 2 of control groups, or the `cpu` of version 1, has this process' own."""
    try:
        lines = (root / "proc/self/cgroup").read_text(errors="replace").splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, group = line.split(":", 2)
        folder = Path(group.lstrip("/"))
        if ".." in folder.parts:
            # It is beyond what can be seen from here.
            folder = Path()
        if not controllers:
            yield "", folder
        elif "cpu" in controllers.split(","):
            yield controllers, folder


def _quota(folder: Path) -> float | None:
    """Cores' worth of time of a control group; None if it has no limit, or none is there."""
    try:
        if (limit := folder / "cpu.max").exists():
            quota, period = limit.read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        share = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        # "max" among them.
        return None
    return share if share > 0 else None
