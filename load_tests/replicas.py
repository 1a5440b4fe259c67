"""Puts replicas behind the deployed load balancer under load, on this machine.

    python -m load_tests.replicas [SCENARIO...] [--replicas 3] [--seconds 10] [--demo] [--table]

Without a name all scenarios are run. The device of each replica is a stand-in that takes 50 ms per
image, one at a time; with --demo it is the model `demo`, with one thread each. Needs `haproxy`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from load_tests.replica_scenarios import SCENARIOS, VIOLATIONS, Drill
from load_tests.report import Report
from load_tests.scenario_command import run_scenario, scenario_parser, show


def main() -> int:
    """Run the named scenarios, one after the other; 1 if something failed that must not."""
    chosen = _parser().parse_args()
    reports: list[Report] = []
    for name in chosen.scenario or SCENARIOS:
        with tempfile.TemporaryDirectory() as folder:
            drill = Drill(
                Path(folder),
                num_replicas=chosen.replicas,
                seconds=chosen.seconds,
                is_demo=chosen.demo,
            )
            reports += run_scenario(SCENARIOS[name], drill)
    show(reports, chosen)
    return 1 if any(report.notes.get(VIOLATIONS) for report in reports) else 0


def _parser() -> argparse.ArgumentParser:
    parser = scenario_parser(__doc__, SCENARIOS)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--demo", action="store_true", help="a real model in each replica")
    return parser


if __name__ == "__main__":
    sys.exit(main())
