"""Puts a real server on this machine under load, and reports what became of the requests.

    python -m load_tests.run [SCENARIO...] [--seconds 10] [--json FILE] [--table]

Without a name all scenarios are run. The device is a stand-in that takes 20 ms and 5 ms per image;
server and generator get a core each.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

import uvloop

from load_tests.report import Report, as_table
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
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                made = runner.run(SCENARIOS[name](course))
            reports += made
            print("\n".join(report.as_text() for report in made), flush=True)
    if chosen.table:
        print(as_table(reports))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([report.as_json() for report in reports], indent=1))
    return 1 if any(report.lost for report in reports) else 0


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
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each is measured")
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--batch-ms", type=float, default=20.0)
    parser.add_argument("--image-ms", type=float, default=5.0)
    parser.add_argument("--short-side", type=int, default=480, help="what images are resized to")
    parser.add_argument("--table", action="store_true", help="all of them once more, as Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the reports")
    return parser


if __name__ == "__main__":
    sys.exit(main())
