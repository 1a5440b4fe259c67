"""Puts a real server on this machine under load, and reports what became of the requests.

    python -m load_tests.run [SCENARIO...] [--seconds 10] [--json FILE] [--table]

Without a name all scenarios are run. The device is a stand-in that takes 20 ms and 5 ms per image;
server and generator get a core each.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from load_tests.report import Report
from load_tests.scenario_command import run_scenario, scenario_parser, show
from load_tests.scenarios import SCENARIOS, Course, free_cores
from load_tests.stand_in import StandIn


def main() -> int:
    """Run the named scenarios, one after the other; 1 if requests were lost."""
    chosen = _parser().parse_args()
    server_core, own_core = free_cores()
    if own_core is not None:
        os.sched_setaffinity(0, {own_core})
    reports: list[Report] = []
    with tempfile.TemporaryDirectory() as folder:
        course = Course(
            Path(folder) / "server.log",
            seconds=chosen.seconds,
            core=server_core,
            max_batch=chosen.max_batch,
            device=StandIn(chosen.batch_ms, chosen.image_ms),
            short_side=chosen.short_side,
        )
        for name in chosen.scenario or SCENARIOS:
            reports += run_scenario(SCENARIOS[name], course)
    show(reports, chosen)
    return 1 if any(report.lost for report in reports) else 0


def _parser() -> argparse.ArgumentParser:
    parser = scenario_parser(__doc__, SCENARIOS)
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--batch-ms", type=float, default=20.0)
    parser.add_argument("--image-ms", type=float, default=5.0)
    parser.add_argument("--short-side", type=int, default=480, help="what images are resized to")
    return parser


if __name__ == "__main__":
    sys.exit(main())
