"""What replicas behind the deployed load balancer are put through, one function each."""

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from load_tests.balancer import NO_ADDRESS_LIMITS
from load_tests.connections import Pool
from load_tests.demo import PICTURE
from load_tests.fleet import Fleet, running_fleet
from load_tests.generator import Generator, Load, ask_in_turn, jpeg, post
from load_tests.report import HUNG_UP, REFUSED, SUCCESS, Ending, Report, percentile, summarize
from load_tests.server import SERVE
from load_tests.slow_people import slow_people

PATH = "/v1/densepose"
SMALL = jpeg(64, 64, 2000)
SHAPES = ((64, 64), (640, 480), (480, 640), (500, 375), (333, 500), (1280, 720))
# What a batch of one image takes the stand-in's device.
IMAGE_MS = 50
HOT, COLD = "hot", tuple(f"cold_{index}" for index in range(5))
NUM_SLOW_CLIENTS = 20
# Long enough for the balancer to see that a replica goes: 1 s between its questions, and two.
DRAIN_DELAY_MS = 2500
# Of a scenario that ends when it has done what it does.
MAX_SECONDS = 600.0
# What should not have happened, in a report's notes.
VIOLATIONS = "violations"


@dataclass(frozen=True)
class Drill:
    """What a scenario runs with: how many replicas, of what, and for how long."""

    folder: Path
    num_replicas: int = 3
    seconds: float = 10.0
    # A real model instead of the stand-in for a device.
    is_demo: bool = False

    @contextmanager
    def fleet(
        self,
        num_replicas: int | None = None,
        edge: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        default_model: str = "demo",
    ) -> Iterator[Fleet]:
        """Replicas that are in use; `options` are those of the stand-in."""
        settings = {
            "DEFAULT_MODEL": default_model,
            "DRAIN_DELAY_MS": str(DRAIN_DELAY_MS),
            "MAX_BATCH": "1",
        }
        command: tuple[str, ...] = (
            "-m",
            "load_tests.stand_in",
            "--batch-ms",
            str(IMAGE_MS),
            "--image-ms",
            "0",
        )
        command += ("--short-side", "128", *options)
        with running_fleet(
            num_replicas or self.num_replicas,
            self.folder,
            settings,
            SERVE if self.is_demo else command,
            {**NO_ADDRESS_LIMITS, **(edge or {})},
        ) as fleet:
            yield fleet

    @property
    def request(self) -> bytes:
        """The request that is sent where a scenario does not tell."""
        if self.is_demo:
            return post(f"{PATH}?short_side=256", PICTURE.read_bytes(), "image/png")
        return post(PATH, SMALL)

    async def peak_per_s(self, fleet: Fleet) -> float:
        """Answers per second of all replicas together; of real models as the cores allow."""
        if not self.is_demo:
            return 1000 / IMAGE_MS * len(fleet.replicas)
        pool = Pool(fleet.balancer.host, fleet.balancer.port)
        endings = await ask_in_turn(pool, self.request, 5 * len(fleet.replicas))
        pool.close()
        alone_s = statistics.median(ending.latency_ms for ending in endings) / 1000
        return min(len(fleet.replicas), len(os.sched_getaffinity(0))) / alone_s


Scenario: TypeAlias = Callable[[Drill], Coroutine[Any, Any, list[Report]]]
# Shares of the peak, and how much of the time each lasts.
Shape: TypeAlias = Sequence[tuple[float, float]]


async def steady(drill: Drill) -> list[Report]:
    """70% of what the replicas can do."""
    return [await _offer("steady", drill, [(1.0, 0.7)])]


async def ramp(drill: Drill) -> list[Report]:
    """From a fifth of what they can do to a fifth more than that."""
    shares = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
    return [await _offer("ramp", drill, [(1 / len(shares), share) for share in shares])]


async def spike(drill: Drill) -> list[Report]:
    """Half load, three times as much as can be done for a fifth of the time, half load."""
    return [await _offer("spike", drill, [(0.4, 0.5), (0.2, 3.0), (0.4, 0.5)])]


async def overload(drill: Drill) -> list[Report]:
    """Twice what they can do."""
    return [await _offer("overload", drill, [(1.0, 2.0)])]


async def hangups(drill: Drill) -> list[Report]:
    """At their limit, a third of the clients leave before they have their answer."""
    return [await _offer("hangups", drill, [(1.0, 1.0)], hang_up_share=1 / 3)]


async def mixed(drill: Drill) -> list[Report]:
    """Three models and six sizes, 70% of what the replicas can do."""
    models = ("demo",) if drill.is_demo else ("demo", "second", "third")
    requests = [
        post(f"{PATH}?model={model}", jpeg(width, height, width * height // 5))
        for model in models
        for width, height in SHAPES
    ]
    with drill.fleet(options=("--models", ",".join(models))) as fleet:
        generator = await _generator(drill, fleet, [(1.0, 0.7)], requests)
        await generator.run()
    return [_measured("mixed", generator, drill)]


async def slow_clients(drill: Drill) -> list[Report]:
    """Half load, beside clients that send a byte now and then, or do not read their answer."""
    with drill.fleet() as fleet:
        async with slow_people(fleet.balancer.host, fleet.balancer.port, NUM_SLOW_CLIENTS):
            generator = await _generator(drill, fleet, [(1.0, 0.5)])
            await generator.run()
    return [_measured("slow_clients", generator, drill)]


async def killed(drill: Drill) -> list[Report]:
    """Half load; a replica ends as `kill -9` ends it, and is started again.

    First clients do not ask again, then once.
    """
    with drill.fleet() as fleet:
        return [await _killed(drill, fleet, index, retries=index) for index in (0, 1)]


async def _killed(drill: Drill, fleet: Fleet, index: int, *, retries: int) -> Report:
    generator = await _generator(drill, fleet, [(1.0, 0.5)])
    generator.retries = retries
    running = asyncio.create_task(generator.run())
    await asyncio.sleep(drill.seconds / 3)
    from_s = time.perf_counter() - generator.begin_s
    await asyncio.to_thread(fleet.kill, index)
    until_s = time.perf_counter() - generator.begin_s
    await asyncio.to_thread(fleet.revive, index)
    await running
    failed = _failed(generator.endings)
    # In flight while the process went: it may have been on that replica.
    elsewhere = [each for each in failed if each.due_s > until_s or each.ended_s < from_s]
    notes = {
        "failed though not in flight then": float(len(elsewhere)),
        "asked again": float(generator.num_retried),
        VIOLATIONS: float(len(failed if retries else elsewhere)),
    }
    return _measured(f"killed, {retries} retries", generator, drill, notes)


async def rolling(drill: Drill) -> list[Report]:
    """Half load; every replica is told to go and started again, one after the other."""
    with drill.fleet() as fleet:
        generator = await _generator(drill, fleet, [(MAX_SECONDS / drill.seconds, 0.5)])
        running = asyncio.create_task(generator.run())
        for index in range(len(fleet.replicas)):
            await asyncio.sleep(drill.seconds / 10)
            await asyncio.to_thread(fleet.restart, index)
        await asyncio.sleep(drill.seconds / 10)
        generator.is_stopped = True
        took_s = time.perf_counter() - generator.begin_s
        await running
    notes = {VIOLATIONS: float(len(_failed(generator.endings)))}
    return [_measured("rolling", generator, drill, notes, seconds=took_s)]


async def hot_model(drill: Drill) -> list[Report]:
    """One model gets 80% of the load, five others the rest; a replica holds three.

    First with least connections, then with the balancer sending each model to its own replicas.
    """
    return [await _hot_model(drill, balance) for balance in ("leastconn", "model")]


async def _hot_model(drill: Drill, balance: str) -> Report:
    models = (HOT, *COLD)
    options = ("--models", ",".join(models), "--load-ms", "500", "--capacity", "3")
    load_of = {HOT: 0.36, "cold": 0.09}
    with drill.fleet(edge={"EDGE_BALANCE": balance}, options=options, default_model=HOT) as fleet:
        peak_per_s = await drill.peak_per_s(fleet)
        pool = Pool(fleet.balancer.host, fleet.balancer.port)
        generators = {}
        for seed, (kind, share) in enumerate(load_of.items()):
            names = (HOT,) if kind == HOT else COLD
            requests = [post(f"{PATH}?model={name}", SMALL) for name in names]
            load = Load([(drill.seconds, share * peak_per_s)], requests, seed=seed)
            generators[kind] = Generator(pool, load)
        await asyncio.gather(*(generator.run() for generator in generators.values()))
        pool.close()
        pairs = [
            fleet.metric(index, "densepose_requests_total", model=model, outcome="success") > 0
            for index in range(len(fleet.replicas))
            for model in models
        ]
    notes = {"models that a replica answered about": sum(pairs) / len(fleet.replicas)}
    for kind, generator in generators.items():
        times_ms = [each.latency_ms for each in generator.endings if each.outcome == SUCCESS]
        notes |= {f"{kind}, p{share} ms": percentile(times_ms, share) for share in (50, 90)}
    together = generators[HOT]
    together.endings += generators["cold"].endings
    return _measured(f"hot_model, {balance}", together, drill, notes)


async def scaling(drill: Drill) -> list[Report]:
    """A fifth more than the replicas can do, for 1, 2, 3: what comes back, of one replica's."""
    reports: list[Report] = []
    for num_replicas in range(1, drill.num_replicas + 1):
        with drill.fleet(num_replicas) as fleet:
            generator = await _generator(drill, fleet, [(1.0, 1.2)])
            await generator.run()
            answered = fleet.metrics("densepose_requests_total", outcome="success")
        report = _measured(f"scaling, {num_replicas}", generator, drill)
        alone_per_s = reports[0].answered_per_s if reports else report.answered_per_s
        report.notes["of linear"] = report.answered_per_s / (num_replicas * alone_per_s)
        report.notes["fewest answers of a replica, of the most"] = min(answered) / max(answered)
        reports.append(report)
    return reports


async def _offer(name: str, drill: Drill, shape: Shape, *, hang_up_share: float = 0.0) -> Report:
    with drill.fleet() as fleet:
        generator = await _generator(drill, fleet, shape, hang_up_share=hang_up_share)
        await generator.run()
    return _measured(name, generator, drill)


async def _generator(
    drill: Drill,
    fleet: Fleet,
    shape: Shape,
    requests: Sequence[bytes] | None = None,
    *,
    hang_up_share: float = 0.0,
) -> Generator:
    peak_per_s = await drill.peak_per_s(fleet)
    rates = [(drill.seconds * part, share * peak_per_s) for part, share in shape]
    load = Load(rates, requests or [drill.request], hang_up_share=hang_up_share)
    return Generator(Pool(fleet.balancer.host, fleet.balancer.port), load)


def _failed(endings: Sequence[Ending]) -> list[Ending]:
    return [each for each in endings if each.outcome not in {SUCCESS, REFUSED, HUNG_UP}]


def _measured(
    name: str,
    generator: Generator,
    drill: Drill,
    notes: Mapping[str, float] | None = None,
    seconds: float | None = None,
) -> Report:
    generator.pool.close()
    endings = generator.endings
    notes = {"failed": float(len(_failed(endings))), **(notes or {})}
    return summarize(name, endings, begin_s=0.0, end_s=seconds or drill.seconds, notes=notes)


SCENARIOS: Mapping[str, Scenario] = {
    function.__name__: function
    for function in (
        *(steady, ramp, spike, overload, mixed, slow_clients, hangups),
        *(killed, rolling, hot_model, scaling),
    )
}
