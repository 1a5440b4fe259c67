"""Draws the dashboard's panels, with its own queries, from a real run on this machine.

    python -m load_tests.dashboard_picture [--seconds 150] [--out docker/dashboard.png]

Three replicas with small models of a store of their own are put behind the deployed balancer, under
load that rises and falls; one is killed, all are restarted one by one. Prometheus, as it is
deployed, watches. Needs `haproxy` and `prometheus`.
"""

import argparse
import asyncio
import io
import json
import math
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter
from PIL import Image

from load_tests.balancer import NO_ADDRESS_LIMITS
from load_tests.connections import Pool
from load_tests.demo import PICTURE
from load_tests.fleet import Fleet, running_fleet
from load_tests.generator import Generator, Load, post
from load_tests.prometheus import Prometheus, running_prometheus
from model_store.catalogue import load_catalogue
from model_store.store import ModelStore
from service.inference.loading import parameter_shapes

DOCKER = Path(__file__).parents[1] / "docker"
DASHBOARD = DOCKER / "grafana" / "dashboards" / "densepose.json"
DEMO_WEIGHTS = DOCKER.parent / "model_store" / "demo.pkl"
PATH = "/v1/densepose?short_side=192&model="
# Of weights like the demo's; how often each is asked for, of ten times.
MODELS = {"demo": 5, "portraits": 2, "dancers": 1, "athletes": 1}
# Of the whole time, and requests per second: quiet, busy, too many, quiet, quiet.
PHASES = ((0.2, 3.0), (0.2, 7.0), (0.1, 40.0), (0.5, 3.0))
KILLED_AT = 0.6
# As long as Grafana makes it for scrapes that are a second apart.
VARIABLES = {"$__rate_interval": "8s", "$model": ".*", "$instance": ".*"}
NUM_COLUMNS = 6
PANEL_INCHES = (4.2, 2.4)
NUM_COLOURS = 64
MAX_LEGEND = 8


@dataclass(frozen=True)
class Panel:
    """One picture of the dashboard: its title, its unit, and queries with their legends."""

    title: str
    unit: str
    is_stacked: bool
    queries: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Series:
    """A line of a panel; times in seconds from the run's start, values NaN where there is a gap."""

    label: str
    times_s: list[float]
    values: list[float]


def main() -> int:
    """Run, draw, and name the panels without data."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--out", type=Path, default=DOCKER / "dashboard.png")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        drawn = record(Path(name), chosen.seconds)
    chosen.out.write_bytes(draw(drawn))
    empty = [panel.title for panel, series in drawn if not series]
    print(f"{len(drawn)} panels, {chosen.out.stat().st_size / 1000:.0f} kB; without data: {empty}")
    return 0


def record(folder: Path, seconds: float) -> list[tuple[Panel, list[Series]]]:
    """Every panel with what its queries return of a run."""
    settings = {
        "MODEL_STORE": str(fill_store(folder / "store")),
        "DEFAULT_MODEL": "demo",
        "DRAIN_DELAY_MS": "2500",
        "MAX_QUEUE": "16",
        # The default model stays; of the three others that are asked for, two fit beside it.
        "DEVICE_MEMORY": str(52 * 2**20),
    }
    with running_fleet(3, folder, settings, edge=NO_ADDRESS_LIMITS) as fleet:
        balancer = fleet.balancer
        with running_prometheus(
            folder,
            replicas=[f"{replica.host}:{replica.port}" for replica in fleet.replicas],
            edge=f"{balancer.host}:{balancer.metrics_port}",
        ) as prometheus:
            begin_s = time.time()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_run(fleet, seconds))
            end_s = time.time()
            return [
                (panel, read_series(prometheus, panel, begin_s, end_s)) for panel in read_panels()
            ]


def fill_store(folder: Path) -> Path:
    """A store with models of the demo's weights under names of their own."""
    store = ModelStore(folder, load_catalogue())
    shapes = parameter_shapes(load_catalogue()["demo"].architecture)
    for name in MODELS:
        if name != "demo":
            store.add(name, DEMO_WEIGHTS, "demo", shapes)
    return folder


def read_panels() -> Iterator[Panel]:
    """The panels of the dashboard, in its order."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] == "row":
            continue
        defaults = panel["fieldConfig"]["defaults"]
        queries = tuple((each["expr"], each["legendFormat"]) for each in panel["targets"])
        yield Panel(panel["title"], defaults["unit"], "stacking" in defaults["custom"], queries)


def read_series(prometheus: Prometheus, panel: Panel, begin_s: float, end_s: float) -> list[Series]:
    """What the panel's queries return, labelled as it says."""
    series = []
    for expression, legend in panel.queries:
        for found in prometheus.query_range(fill_variables(expression), begin_s, end_s):
            value_at = {round(t - begin_s): float(v) for t, v in found["values"] if v != "NaN"}
            if value_at:
                # With gaps where there is nothing.
                times_s = range(min(value_at), max(value_at) + 1)
                values = [value_at.get(moment_s, math.nan) for moment_s in times_s]
                label = _label(legend, found["metric"])
                series.append(Series(label, [float(each) for each in times_s], values))
    return series


def fill_variables(expression: str) -> str:
    """The expression as Grafana would ask it, of all models and replicas."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def draw(drawn: list[tuple[Panel, list[Series]]]) -> bytes:
    """A PNG with all of them."""
    num_rows = -(-len(drawn) // NUM_COLUMNS)
    width, height = PANEL_INCHES
    figure = Figure((width * NUM_COLUMNS, height * num_rows), dpi=60, layout="constrained")
    axes = figure.subplots(num_rows, NUM_COLUMNS).ravel()
    for cell in axes:
        cell.set_axis_off()
    for (panel, series), cell in zip(drawn, axes, strict=False):
        _draw_panel(cell, panel, series)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    packed = io.BytesIO()
    picture = Image.open(buffer).convert("RGB")
    picture.quantize(NUM_COLOURS).save(packed, "PNG", optimize=True)
    return packed.getvalue()


def _draw_panel(axes: Axes, panel: Panel, series: list[Series]) -> None:
    axes.set_axis_on()
    axes.set_title(panel.title, fontsize=11, loc="left")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    if panel.unit == "percentunit":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    elif panel.unit in {"s", "bytes"}:
        axes.yaxis.set_major_formatter(EngFormatter("s" if panel.unit == "s" else "B"))
    if not series:
        axes.text(0.5, 0.5, "nothing in this run", ha="center", transform=axes.transAxes)
        return
    if panel.is_stacked:
        # Where a series has no sample it adds nothing.
        moments_s = sorted({moment for each in series for moment in each.times_s})
        samples = [dict(zip(each.times_s, each.values, strict=True)) for each in series]
        heights = [np.nan_to_num([each.get(at, 0.0) for at in moments_s]) for each in samples]
        axes.stackplot(moments_s, heights, labels=[each.label for each in series], alpha=0.7)
    else:
        for each in series:
            axes.plot(each.times_s, each.values, label=each.label, linewidth=1)
    axes.set_ylim(bottom=0)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[:MAX_LEGEND], labels[:MAX_LEGEND], fontsize=6, loc="upper left", framealpha=0.6
    )


def _label(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), legend)


async def _run(fleet: Fleet, seconds: float) -> None:
    photo = PICTURE.read_bytes()
    requests = [
        post(PATH + name, photo, "image/png")
        for name, weight in MODELS.items()
        for _ in range(weight)
    ]
    requests.append(post(f"{PATH}demo", b"no image"))
    load = Load([(seconds * part, per_s) for part, per_s in PHASES], requests)
    generator = Generator(Pool(fleet.balancer.host, fleet.balancer.port), load)
    running = asyncio.create_task(generator.run())
    await asyncio.sleep(seconds * KILLED_AT)
    await asyncio.to_thread(fleet.kill, 0)
    await asyncio.to_thread(fleet.revive, 0)
    for index in range(len(fleet.replicas)):
        await asyncio.to_thread(fleet.restart, index)
    await running


if __name__ == "__main__":
    sys.exit(main())
