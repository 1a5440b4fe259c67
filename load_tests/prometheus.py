"""Prometheus as it is deployed, scraping what runs on this machine, and asked over its API."""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from ruamel.yaml import YAML

from load_tests.server import HOST, STOP_TIMEOUT_S, ServerFailed, free_port

CONFIGURATION = Path(__file__).parents[1] / "docker" / "prometheus.yml"
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Prometheus:
    """Where it answers."""

    url: str
    log: Path

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes, and how that goes."""
        targets: list[dict[str, Any]] = self._ask("targets")["activeTargets"]
        return targets

    def rules(self) -> list[dict[str, Any]]:
        """The rules that it evaluates, alerts and recordings."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression now."""
        samples: list[dict[str, Any]] = self._ask("query", query=expression)["result"]
        return samples

    def query_range(self, expression: str, from_s: float, until_s: float) -> list[dict[str, Any]]:
        """The series of an expression between two moments, a sample a second."""
        series: list[dict[str, Any]] = self._ask(
            "query_range", query=expression, start=str(from_s), end=str(until_s), step="1"
        )["result"]
        return series

    def _ask(self, path: str, **parameters: str) -> Any:
        response = httpx2.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=TIMEOUT_S)
        answer = response.json()
        if answer["status"] != "success":
            raise ValueError(f"{parameters}: {answer['error']}")
        return answer["data"]


@contextmanager
def running_prometheus(
    folder: Path, *, replicas: Sequence[str], edge: str, scrape_s: int = 1
) -> Iterator[Prometheus]:
    """Prometheus with the deployed configuration but for addresses and the time between scrapes.

    Docker's names are not there: `replicas` and `edge` are host:port.
    """
    configuration = YAML(typ="safe").load(CONFIGURATION)
    configuration["global"] |= {"scrape_interval": f"{scrape_s}s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [
        str(CONFIGURATION.parent / name) for name in configuration["rule_files"]
    ]
    jobs = {job["job_name"]: job for job in configuration["scrape_configs"]}
    del jobs["densepose"]["dns_sd_configs"]
    jobs["densepose"]["static_configs"] = [{"targets": list(replicas)}]
    jobs["edge"]["static_configs"] = [{"targets": [edge]}]
    file = folder / "prometheus.yml"
    YAML().dump(configuration, file)
    url = f"http://{HOST}:{free_port()}"
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [  # noqa: S607  # as the shell finds it
                "prometheus",
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'metrics'}",
                f"--web.listen-address={url.removeprefix('http://')}",
            ],
            stderr=output,
            env={**os.environ, "GOMAXPROCS": "1"},
        )
    try:
        _wait_until_ready(url, process, log)
        yield Prometheus(url, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            if httpx2.get(f"{url}/-/ready").status_code == httpx2.codes.OK:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.05)
    raise ServerFailed(f"Prometheus is not ready:\n{log.read_text(errors='replace')[-2000:]}")
