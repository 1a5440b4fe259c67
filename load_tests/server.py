"""A real `densepose serve` process on a free port of this machine."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

HOST = "127.0.0.1"
SERVE = ("-c", "import sys; from service.cli import main; sys.exit(main())", "serve")
READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0


class ServerFailed(Exception):
    """The server ended, or was not ready in time; the message has the end of its log."""


@dataclass(frozen=True)
class Server:
    """Where a server answers, and its process."""

    host: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        """The address that paths are appended to."""
        return f"http://{self.host}:{self.port}"


@contextmanager
def running_server(
    settings: Mapping[str, str],
    log: Path,
    command: Sequence[str] = SERVE,
    *,
    core: int | None = None,
) -> Iterator[Server]:
    """A server that is ready, stopped at the end of the block; the arguments of `start_server`."""
    server = start_server(settings, log, command, core=core)
    try:
        wait_until_ready(server)
        yield server
    finally:
        stop(server)


def start_server(
    settings: Mapping[str, str],
    log: Path,
    command: Sequence[str] = SERVE,
    *,
    core: int | None = None,
    num_threads: int | None = None,
) -> Server:
    """A server that is not ready yet; whoever starts it stops it.

    `settings` are `DENSEPOSE_*` variables without their prefix; nothing else of that name is
    passed on from this process. `command` are the arguments of its Python; `core` is the only one
    that it may use, and `num_threads` those of its arithmetic, if given. What it logs is appended
    to `log`.
    """
    environment = {key: v for key, v in os.environ.items() if not key.startswith("DENSEPOSE_")}
    # Nobody has to notice that it goes.
    chosen = {"HOST": HOST, "PORT": str(free_port()), "DRAIN_DELAY_MS": "0", **settings}
    environment |= {f"DENSEPOSE_{name}": value for name, value in chosen.items()}
    if num_threads is not None:
        environment["OMP_NUM_THREADS"] = str(num_threads)
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, *command], env=environment, stderr=output)
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    return Server(chosen["HOST"], int(chosen["PORT"]), process, log)


def wait_until_ready(server: Server) -> None:
    """Returns when /readyz says so.

    Raises:
        ServerFailed: it ended before, or takes too long.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if httpx2.get(f"{server.url}/readyz").status_code == httpx2.codes.OK:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.05)
    end = server.log.read_text(errors="replace")[-2000:]
    raise ServerFailed(f"the server was not ready in {READY_TIMEOUT_S:.0f} s:\n{end}")


def stop(server: Server) -> None:
    """Tells the process to go, and waits until it has; kills it where that takes too long."""
    server.process.terminate()
    try:
        server.process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()


def free_port(host: str = HOST) -> int:
    """A port that nobody listens on; "" for one that is free at all addresses."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port
