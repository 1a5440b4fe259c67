"""What the commands that run scenarios share: their options, and how reports are shown."""

import argparse
import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import uvloop

from load_tests.report import Report, as_table

C = TypeVar("C")

Scenario: TypeAlias = Callable[[C], Coroutine[Any, Any, list[Report]]]


def scenario_parser(
    description: str | None, scenarios: Mapping[str, Scenario[Any]]
) -> argparse.ArgumentParser:
    """A parser of the scenarios' names, and of what is done with their reports."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    described = "; ".join(f"{name}: {run.__doc__}" for name, run in scenarios.items())
    # argparse fills in what follows a per cent sign.
    described = described.replace("%", "%%")
    parser.add_argument(
        "scenario", nargs="*", choices=[*scenarios, []], metavar="SCENARIO", help=described
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each is measured")
    parser.add_argument("--table", action="store_true", help="all of them once more, as Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the reports")
    return parser


def run_scenario(scenario: Scenario[C], course: C) -> list[Report]:
    """Its reports, printed as soon as they are there."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        reports = runner.run(scenario(course))
    print("\n".join(report.as_text() for report in reports), flush=True)
    return reports


def show(reports: list[Report], chosen: argparse.Namespace) -> None:
    """All reports once more, in the ways that were asked for."""
    if chosen.table:
        print(as_table(reports))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([report.as_json() for report in reports], indent=1))
