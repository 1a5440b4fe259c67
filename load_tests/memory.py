"""What a process has in memory, as the system counts it."""

from pathlib import Path

KIBIBYTE = 2**10


def resident_bytes(pid: int | str = "self") -> int:
    """The process' pages in memory, those of files that it has touched included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * KIBIBYTE
    raise OSError("/proc/PID/status has no VmRSS")
