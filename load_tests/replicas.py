"""Puts replicas behind the deployed load balancer under load, on this machine.

    python -m load_tests.replicas [SCENARIO...] [--replicas 3] [--seconds 10] [--demo] [--table]

Without a name all scenarios are run. The device of each replica is a stand-in that takes 50 ms per
image, one at a time; with --demo it is the model `demo`, with one thread each. Needs `haproxy`.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

import uvloop

from load_tests.replica_scenarios import SCENARIOS, VIOLATIONS, Drill
from load_tests.report import Report, as_table


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
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                made = runner.run(SCENARIOS[name](drill))
        reports += made
        print("\n".join(report.as_text() for report in made), flush=True)
    if chosen.table:
        print(as_table(reports))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([report.as_json() for report in reports], indent=1))
    return 1 if any(report.notes.get(VIOLATIONS) for report in reports) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    described = "; ".join(f"{name}: {run.__doc__}" for name, run in SCENARIOS.items())
    # argparse fills in what follows a per cent sign.
    described = described.replace("%", "%%")
    parser.add_argument(
        "scenario", nargs="*", choices=[*SCENARIOS, []], metavar="SCENARIO", help=described
    )
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each is measured")
    parser.add_argument("--demo", action="store_true", help="a real model in each replica")
    parser.add_argument("--table", action="store_true", help="all of them once more, as Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the reports")
    return parser


if __name__ == "__main__":
    sys.exit(main())
