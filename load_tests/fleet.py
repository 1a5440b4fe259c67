"""Replicas behind the deployed load balancer: real processes, each at an address of its own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from load_tests.balancer import Balancer, read_metric, running_balancer
from load_tests.name_server import NameServer, running_name_server
from load_tests.server import SERVE, Server, free_port, start_server, stop, wait_until_ready


@dataclass
class Fleet:
    """Replicas, and the balancer in front of them."""

    balancer: Balancer
    names: NameServer
    folder: Path
    port: int
    settings: Mapping[str, str]
    command: Sequence[str]
    replicas: list[Server] = field(default_factory=list)

    def grow(self, num_replicas: int) -> None:
        """Starts more replicas, side by side; returns when the balancer uses them."""
        first = len(self.replicas)
        for index in range(first, first + num_replicas):
            self.replicas.append(self._start(index))
        for replica in self.replicas[first:]:
            wait_until_ready(replica)
        self.names.addresses = tuple(replica.host for replica in self.replicas)
        self.balancer.wait_for(len(self.replicas))

    def kill(self, index: int) -> None:
        """Ends a replica as `kill -9` does; returns when it is gone."""
        self.replicas[index].process.kill()
        self.replicas[index].process.wait()

    def restart(self, index: int) -> None:
        """Ends a replica as an orchestrator does, starts it again, and waits until it is used."""
        stop(self.replicas[index])
        self.revive(index)

    def revive(self, index: int) -> None:
        """Starts a replica that has ended at its old address; returns when it is used."""
        self.balancer.wait_for(len(self.replicas) - 1)
        self.replicas[index] = self._start(index)
        wait_until_ready(self.replicas[index])
        self.balancer.wait_for(len(self.replicas))

    def metric(self, index: int, name: str, **labels: str) -> float:
        """The sum of what a replica publishes under a name, of the samples with these labels."""
        return read_metric(f"{self.replicas[index].url}/metrics", name, **labels)

    def metrics(self, name: str, **labels: str) -> list[float]:
        """The same of every replica."""
        return [self.metric(index, name, **labels) for index in range(len(self.replicas))]

    def stop(self) -> None:
        """Ends all replicas."""
        for replica in self.replicas:
            replica.process.terminate()
        for replica in self.replicas:
            stop(replica)

    def _start(self, index: int) -> Server:
        # All of 127.0.0.0/8 is this machine; but clients ask for the balancer, by any name it has.
        place = {"HOST": f"127.0.0.{2 + index}", "PORT": str(self.port), "ALLOWED_HOSTS": "*"}
        settings = {**self.settings, **place}
        log = self.folder / f"replica_{index}.log"
        # All of them share the cores of one machine.
        return start_server(settings, log, self.command, num_threads=1)


@contextmanager
def running_fleet(
    num_replicas: int,
    folder: Path,
    settings: Mapping[str, str],
    command: Sequence[str] = SERVE,
    edge: Mapping[str, str] | None = None,
) -> Iterator[Fleet]:
    """So many replicas that are ready and in use; everything is stopped at the end of the block.

    `settings` and `command` as in `start_server`; `edge` are variables of `haproxy.cfg`.
    """
    port = free_port("")
    with ExitStack() as stack:
        names = stack.enter_context(running_name_server())
        balancer = stack.enter_context(
            running_balancer(
                folder / "balancer.log",
                dns=names.address,
                replicas_port=port,
                variables=edge or {},
            )
        )
        fleet = Fleet(balancer, names, folder, port, settings, command)
        stack.callback(fleet.stop)
        fleet.grow(num_replicas)
        yield fleet
