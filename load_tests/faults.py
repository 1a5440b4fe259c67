"""Every fault that a device can have, together, for a while; and what became of the requests.

    python -m load_tests.faults [--minutes 10] [--json FILE]

There are two servers. The device of the first raises, is slow, runs out of memory and loses its
thread now and then, while six models take turns on a device for three, and one in ten clients
leaves: it has to last, and its memory is watched. The device of the second is lost, hangs, or loses
its thread for good within seconds, again and again: its process has to end with the status that
says so, and is started anew, as an orchestrator would do.

Exits with 1 unless every request was accounted for and the first server's memory stayed as it was.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import uvloop

from load_tests.connections import Pool
from load_tests.faulty_server import MODELS
from load_tests.generator import Generator, Load, get, jpeg, post
from load_tests.memory import resident_bytes
from load_tests.report import HUNG_UP, LOST, NOT_CONNECTED, Ending
from load_tests.server import Server, running_server, start_server, stop, wait_until_ready
from service.server import DEVICE_FAILED

COMMAND = ("-m", "load_tests.faulty_server")
SETTINGS = {"DEFAULT_MODEL": MODELS[0], "PRELOAD": "", "TIMEOUT_MS": "5000", "LOG_FORMAT": "json"}
PHOTO = jpeg(160, 120, 6_000)
# The first model is asked for as often as all others together.
ASKED = (*MODELS[1:], *[MODELS[0]] * (len(MODELS) - 1))
REQUESTS = tuple(post(f"/v1/densepose?model={model}", PHOTO) for model in ASKED)
LASTING_PER_S, ENDING_PER_S = 40.0, 10.0
HANG_UP_SHARE, HANG_UP_S = 0.1, 0.1
ENDS = ("device", "watchdog", "thread")
# Of the whole run; what is measured before it is the first reading.
SETTLED_SHARE = 0.2
NUM_READINGS = 10
MAX_GROWTH = 0.05
# What a request may end in. Errors of the device side are answers too.
ANSWERED = {
    "200",
    "429 overloaded",
    "500 internal_error",
    "502 checkpoint_unavailable",
    "503 loading",
    "503 unhealthy",
    "504 deadline_exceeded",
    "507 out_of_memory",
}
# A connection that is made while the listener is being closed is reset, whatever was sent on it.
# The server has read nothing of it then, so that a load balancer may send it to another one.
CUT_OFF, CUT_OFF_S = "cut_off", 1.0
UNREAD = "unread"
# What a process says that ends before all whom it has accepted are answered.
FORCED_END = "the time to shut down is over"


@dataclass
class Account:
    """What became of the requests to a server, and of the server."""

    outcomes: dict[str, int]
    lost: int
    # How long after they were due the lost ones ended, in seconds.
    lost_after_s: list[float]
    # What the server's log says of them.
    lost_logged_as: dict[str, int]
    # Answered, but not in the log: it would be of no use for what is lost.
    num_unlogged: int
    unexpected: dict[str, int]
    # As the server counted them, of the first one.
    counted: int | None = None
    events: dict[str, float] = field(default_factory=dict)
    memory_bytes: tuple[float, float] | None = None
    exit_statuses: dict[str, int] = field(default_factory=dict)
    num_forced_ends: int = 0

    @property
    def growth(self) -> float:
        """By how much of what it was the memory has grown."""
        assert self.memory_bytes is not None
        before, after = self.memory_bytes
        return after / before - 1

    def complaints(self) -> list[str]:
        """What must not be."""
        found = []
        if self.lost:
            found.append(f"{self.lost} requests have had no answer")
        if self.num_unlogged:
            found.append(f"{self.num_unlogged} answers are not in the log")
        if self.unexpected:
            found.append(f"unexpected: {self.unexpected}")
        if self.counted is not None:
            sent = sum(self.outcomes.values())
            if self.outcomes.get(NOT_CONNECTED):
                found.append("the server was away")
            left = self.outcomes.get(HUNG_UP, 0)
            if not sent - left <= self.counted <= sent:
                found.append(f"{sent} requests were sent, and {self.counted} counted")
        if self.memory_bytes is not None and self.growth > MAX_GROWTH:
            found.append(f"memory has grown by {self.growth:.1%}")
        if self.num_forced_ends:
            found.append(f"{self.num_forced_ends} processes did not answer all before they ended")
        wrong = set(self.exit_statuses) - {str(DEVICE_FAILED)}
        if wrong:
            found.append(f"processes ended with {wrong}")
        return found


async def outlast(seconds: float, folder: Path) -> Account:
    """A server whose device fails in ways that it has to survive."""
    log = folder / "lasting.log"
    with running_server(SETTINGS, log, COMMAND) as server:
        pool = Pool(server.host, server.port)
        load = Load([(seconds, LASTING_PER_S)], REQUESTS, HANG_UP_SHARE, HANG_UP_S)
        generator = Generator(pool, load)
        running = asyncio.create_task(generator.run())
        await asyncio.sleep(SETTLED_SHARE * seconds)
        before = await _read_memory(server, seconds)
        endings = await running
        after = await _read_memory(server, seconds)
        metrics = (await pool.ask(get("/metrics"))).body.decode()
        pool.close()
    account = _account(endings, _outcomes_in(log))
    account.memory_bytes = (before, after)
    account.counted = int(_sum_of(metrics, "densepose_requests_total{"))
    for name in ("model_loads", "model_evictions", "out_of_memory", "batch_splits"):
        account.events[name] = _sum_of(metrics, f"densepose_{name}_total{{")
    return account


async def fall_and_rise(seconds: float, folder: Path) -> Account:
    """A server whose device fails for good, again and again, each time in another way."""
    end_s = asyncio.get_running_loop().time() + seconds
    statuses = Counter[str]()
    endings: list[Ending] = []
    logged: dict[str, str] = {}
    num_forced_ends = 0
    for number, end in enumerate(itertools.cycle(ENDS)):
        command = (*COMMAND, "--seed", str(number), "--end", end)
        log = folder / f"ending_{number}.log"
        server = start_server(SETTINGS, log, command)
        try:
            await asyncio.to_thread(wait_until_ready, server)
            endings += await _until_it_ends(server)
            statuses[str(server.process.returncode)] += 1
            logged |= _outcomes_in(log)
            num_forced_ends += FORCED_END in log.read_text()
        finally:
            await asyncio.to_thread(stop, server)
        if asyncio.get_running_loop().time() > end_s and number + 1 >= len(ENDS):
            break
    account = _account(endings, logged)
    account.exit_statuses, account.num_forced_ends = dict(statuses), num_forced_ends
    return account


async def _until_it_ends(server: Server) -> list[Ending]:
    pool = Pool(server.host, server.port)
    generator = Generator(pool, Load([(60.0, ENDING_PER_S)], REQUESTS, HANG_UP_SHARE, HANG_UP_S))
    running = asyncio.create_task(generator.run())
    await asyncio.to_thread(server.process.wait, 60)
    ended_s = time.perf_counter() - generator.begin_s
    generator.is_stopped = True
    endings = await running
    pool.close()
    read = _outcomes_in(server.log)
    return [
        replace(ending, outcome=CUT_OFF)
        if ending.outcome == LOST
        and ending.ended_s > ended_s - CUT_OFF_S
        and ending.request_id not in read
        else ending
        for ending in endings
    ]


def _account(endings: Sequence[Ending], logged: Mapping[str, str]) -> Account:
    outcomes = Counter(ending.outcome for ending in endings)
    known = ANSWERED | {HUNG_UP, LOST, NOT_CONNECTED, CUT_OFF}
    unexpected = {name: count for name, count in outcomes.items() if name not in known}
    lost = [ending for ending in endings if ending.outcome == LOST]
    lost_after_s = [round(ending.latency_ms / 1000, 2) for ending in lost]
    logged_as = Counter(logged.get(ending.request_id, UNREAD) for ending in lost)
    num_unlogged = sum(e.outcome in ANSWERED and e.request_id not in logged for e in endings)
    return Account(
        dict(outcomes), len(lost), lost_after_s, dict(logged_as), num_unlogged, unexpected
    )


def _outcomes_in(log: Path) -> dict[str, str]:
    """What the server says of the requests that it has read, by their ids."""
    lines = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    return {line["id"]: line["outcome"] for line in lines if line["message"] == "request"}


async def _read_memory(server: Server, seconds: float) -> float:
    """The median of ten readings, within a tenth of the run."""
    readings = []
    for _ in range(NUM_READINGS):
        readings.append(resident_bytes(server.process.pid))
        await asyncio.sleep(seconds / 10 / NUM_READINGS)
    return statistics.median(readings)


def _sum_of(metrics: str, prefix: str) -> float:
    lines = metrics.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(prefix))


async def run(seconds: float, folder: Path) -> dict[str, Account]:
    """Both servers, side by side."""
    lasting, ending = await asyncio.gather(outlast(seconds, folder), fall_and_rise(seconds, folder))
    return {"lasting": lasting, "ending": ending}


def main() -> int:
    """Run, and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the report")
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        accounts = runner.run(run(60 * chosen.minutes, Path(folder)))
    for name, account in accounts.items():
        print(name, json.dumps(asdict(account), indent=1))
        for complaint in account.complaints():
            print(f"{name}: {complaint}")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({n: asdict(a) for n, a in accounts.items()}, indent=1))
    return 1 if any(account.complaints() for account in accounts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
