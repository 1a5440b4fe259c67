"""A real scrape, judged by Prometheus' own linter."""

import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest

from load_tests.server import running_server

PICTURE = Path(__file__).parents[1] / "parity" / "data" / "demo" / "test4_3fig.png"


@pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed: it is in Debian's package prometheus",
)
def test_promtool_finds_nothing_to_say_about_a_scrape(tmp_path: Path) -> None:
    with running_server({"DEFAULT_MODEL": "demo"}, tmp_path / "server.log") as server:
        for body in (PICTURE.read_bytes(), b"no image"):
            httpx2.post(
                f"{server.url}/v1/densepose", content=body, headers={"Content-Type": "image/png"}
            )
        scrape = httpx2.get(f"{server.url}/metrics").content
    assert b'densepose_requests_total{model="demo",outcome="success"} 1.0' in scrape
    network = b'densepose_stage_duration_seconds_count{model="demo",stage="network"} 1.0'
    assert network in scrape
    judged = subprocess.run(
        ["promtool", "check", "metrics"], input=scrape, capture_output=True, check=False
    )
    assert (judged.returncode, judged.stdout + judged.stderr) == (0, b"")
