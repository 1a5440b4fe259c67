"""HAProxy as it is deployed, with the very file, on free ports of this machine."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from load_tests.server import HOST, STOP_TIMEOUT_S, ServerFailed, free_port

CONFIGURATION = Path(__file__).parents[1] / "docker" / "haproxy.cfg"
TIMEOUT_S = 60.0
# For a generator that stands for many clients: all of them have its one address.
NO_ADDRESS_LIMITS = {
    "EDGE_ADDRESS_CONNECTIONS": "0",
    "EDGE_ADDRESS_CONNECTION_RATE": "0",
    "EDGE_ADDRESS_REQUESTS": "0",
}


@dataclass(frozen=True)
class Balancer:
    """Where clients and Prometheus come in, and its process."""

    port: int
    metrics_port: int
    process: subprocess.Popen[bytes]
    log: Path
    host: str = HOST

    @property
    def url(self) -> str:
        """The address that paths are appended to."""
        return f"http://{self.host}:{self.port}"

    def metric(self, name: str, **labels: str) -> float:
        """The sum of what it publishes under a name, of the samples with these labels."""
        return read_metric(f"http://{self.host}:{self.metrics_port}/metrics", name, **labels)

    def wait_for(self, num_replicas: int) -> None:
        """Returns when so many replicas get requests.

        Raises:
            ServerFailed: it does not come to that.
        """
        deadline_s = time.monotonic() + TIMEOUT_S
        while self.num_active() != num_replicas:
            if time.monotonic() > deadline_s or self.process.poll() is not None:
                end = self.log.read_text(errors="replace")[-2000:]
                raise ServerFailed(f"the balancer does not see {num_replicas} replicas:\n{end}")
            time.sleep(0.05)

    def num_active(self) -> int:
        """How many replicas get requests."""
        return int(self.metric("haproxy_backend_active_servers", proxy="replicas"))


@contextmanager
def running_balancer(
    log: Path, *, dns: str, replicas_port: int, variables: Mapping[str, str]
) -> Iterator[Balancer]:
    """HAProxy in front of whatever `dns` names, stopped at the end of the block.

    `variables` are those that the configuration names; nothing else of theirs is passed on.
    """
    port, metrics_port = free_port(), free_port()
    own = ("EDGE_", "DENSEPOSE_")
    environment = {name: v for name, v in os.environ.items() if not name.startswith(own)}
    environment |= {
        "EDGE_BIND": f"{HOST}:{port}",
        "EDGE_METRICS_BIND": f"{HOST}:{metrics_port}",
        "EDGE_DNS": dns,
        "EDGE_REPLICAS": f"service:{replicas_port}",
        **variables,
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["haproxy", "-f", str(CONFIGURATION)],  # noqa: S607  # as the shell finds it
            env=environment,
            stdout=output,
            stderr=output,
        )
    balancer = Balancer(port, metrics_port, process, log)
    try:
        _wait_until_listening(balancer)
        yield balancer
    finally:
        # At once: nobody waits any more.
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def read_metric(url: str, name: str, **labels: str) -> float:
    """The sum of a scrape's samples that have this name and these labels."""
    scrape = httpx2.get(url).raise_for_status().text
    return sum(
        sample.value
        for family in text_string_to_metric_families(scrape)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def _wait_until_listening(balancer: Balancer) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s and balancer.process.poll() is None:
        try:
            balancer.num_active()
        except httpx2.TransportError:
            time.sleep(0.02)
        else:
            return
    end = balancer.log.read_text(errors="replace")[-2000:]
    raise ServerFailed(f"the balancer does not listen:\n{end}")
