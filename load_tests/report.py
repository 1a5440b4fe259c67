"""What became of the requests of a run, in numbers."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

SUCCESS, REFUSED = "200", "429 overloaded"
# The request was sent, and no answer came; or there was nobody to send it to.
LOST, NOT_CONNECTED, HUNG_UP = "lost", "not_connected", "hung_up"
PERCENTILES = (50, 90, 95, 99, 100)


@dataclass(frozen=True, slots=True)
class Ending:
    """How one request ended; times count from the start of the run."""

    due_s: float
    ended_s: float
    outcome: str
    # What the server's log has it under.
    request_id: str = ""

    @property
    def latency_ms(self) -> float:
        """From the moment when it should have been sent."""
        return 1000 * (self.ended_s - self.due_s)


@dataclass(frozen=True, slots=True)
class Report:
    """One run: rates per second over its measured part, latencies by percentile and outcome."""

    scenario: str
    seconds: float
    offered_per_s: float
    answered_per_s: float
    outcomes: dict[str, int]
    latency_ms: dict[str, dict[str, float]]
    lost: int
    notes: dict[str, float]

    def as_json(self) -> dict[str, object]:
        """The report as plain values."""
        return asdict(self)

    def as_text(self) -> str:
        """The report for people."""
        lines = [
            f"{self.scenario}: {self.seconds:.1f} s, offered {self.offered_per_s:.1f}/s, "
            f"answered {self.answered_per_s:.1f}/s, lost {self.lost}",
            f"  {'outcome':28}{'count':>8}" + "".join(f"{f'p{p} ms':>11}" for p in PERCENTILES),
        ]
        for outcome, count in sorted(self.outcomes.items()):
            times = "".join(f"{value:>11.1f}" for value in self.latency_ms[outcome].values())
            lines.append(f"  {outcome:28}{count:>8}{times}")
        lines += [f"  {name}: {value:.4g}" for name, value in self.notes.items()]
        return "\n".join(lines)


def as_table(reports: Iterable[Report]) -> str:
    """The reports as a table for the README."""
    rows = [
        "| scenario | offered/s | answered/s | p50 ms | p99 ms | refused | refusal p99 ms | lost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for report in reports:
        nothing = dict.fromkeys((f"p{share}" for share in PERCENTILES), math.nan)
        answered = report.latency_ms.get(SUCCESS, nothing)
        refused = report.latency_ms.get(REFUSED, nothing)
        cells = [
            report.scenario,
            f"{report.offered_per_s:.0f}",
            f"{report.answered_per_s:.1f}",
            f"{answered['p50']:.1f}",
            f"{answered['p99']:.1f}",
            str(report.outcomes.get(REFUSED, 0)),
            f"{refused['p99']:.1f}",
            str(report.lost),
        ]
        rows.append(f"| {' | '.join(cells)} |".replace("nan", "-"))
    return "\n".join(rows)


def summarize(
    scenario: str,
    endings: Iterable[Ending],
    *,
    begin_s: float,
    end_s: float,
    notes: dict[str, float] | None = None,
) -> Report:
    """The report of requests that were due, or answered, between two moments of the run."""
    all_endings = list(endings)
    due = [ending for ending in all_endings if begin_s <= ending.due_s < end_s]
    num_answered = sum(
        ending.outcome == SUCCESS and begin_s <= ending.ended_s < end_s for ending in all_endings
    )
    by_outcome: dict[str, list[float]] = {}
    for ending in due:
        by_outcome.setdefault(ending.outcome, []).append(ending.latency_ms)
    seconds = end_s - begin_s
    return Report(
        scenario,
        seconds,
        offered_per_s=len(due) / seconds,
        answered_per_s=num_answered / seconds,
        outcomes=dict(Counter(ending.outcome for ending in due)),
        latency_ms={
            outcome: {f"p{share}": percentile(times, share) for share in PERCENTILES}
            for outcome, times in by_outcome.items()
        },
        # Also of those that are not measured: none may get lost at any time.
        lost=sum(ending.outcome == LOST for ending in all_endings),
        notes=notes or {},
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * share / 100), 1) - 1]
