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
    """A server that is ready, stopped at the end of the block.

    `settings` are `DENSEPOSE_*` variables without their prefix; nothing else of that name is
    passed on from this process. `command` are the arguments of its Python; `core` is the only one
    that it may use, if given.
    """
    environment = {key: v for key, v in os.environ.items() if not key.startswith("DENSEPOSE_")}
    port = _free_port()
    # Nobody has to notice that it goes.
    chosen = {"HOST": HOST, "PORT": str(port), "DRAIN_DELAY_MS": "0", **settings}
    environment |= {f"DENSEPOSE_{name}": value for name, value in chosen.items()}
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, *command], env=environment, stderr=output)
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    server = Server(HOST, port, process, log)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(server: Server) -> None:
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port
