"""What a process has in memory, as the system counts it."""

from contextlib import suppress
from pathlib import Path

KIBIBYTE = 2**10


def resident_bytes(pid: int | str = "self") -> int:
    """The process' pages in memory, those of files that it has touched included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * KIBIBYTE
    raise OSError("/proc/PID/status has no VmRSS")


def container_bytes(pid: int) -> int:
    """What a process and all that it has started have in memory; shared pages count for each."""
    try:
        num_bytes = resident_bytes(pid)
    except OSError:
        return 0
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text(encoding="ascii").split():
                num_bytes += container_bytes(int(child))
    return num_bytes
