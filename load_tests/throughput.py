"""Images per second over HTTP, beside the predictor alone on pixels in memory.

    python -m load_tests.throughput [--seconds 60] [--rounds 2] [--model R_50|demo]

JPEGs of 640 x 480 pixels in, IUV maps of three instances out, as PNGs in JSON. The server is a real
process; the predictor alone is another one, with the same weights, precision and threads, on the
same cores. They take turns, the order swapped every round. The clients share the server's cores,
as there are no others: what they take counts against the server.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop

from load_tests.connections import Pool
from load_tests.filled_store import NAME, fill_store, open_store
from load_tests.generator import jpeg, outcome_of, post
from load_tests.server import running_server
from service.threads import prepare_threads

WIDTH, HEIGHT, JPEG_BYTES = 640, 480, 60_000
# The best ones, however bad they are.
NUM_INSTANCES = 3
MODELS = {"R_50": NAME, "demo": "demo"}


@dataclass(frozen=True, slots=True)
class Course:
    """What both do, and how long."""

    model: str
    folder: Path
    precision: str
    batch: int
    seconds: float


def main() -> None:
    """Print both rates, round by round, and the share."""
    chosen = _parser().parse_args()
    if chosen.alone is not None:
        course = Course(chosen.model, chosen.alone, chosen.precision, chosen.batch, chosen.seconds)
        print(rate_alone(course))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill_store(folder)
        model = MODELS[chosen.model]
        course = Course(model, folder, chosen.precision, chosen.batch, chosen.seconds)
        rates: dict[str, list[float]] = {"alone": [], "over HTTP": []}
        names = list(rates)
        for _ in range(chosen.rounds):
            for way in names:
                rate = ask_alone(course) if way == "alone" else rate_over_http(course)
                rates[way].append(rate)
                print(f"{way:10} {rate:8.3f} images per second", flush=True)
            names.reverse()
    shares = [http / alone for http, alone in zip(rates["over HTTP"], rates["alone"], strict=True)]
    print(
        f"{model}, {course.precision}, batches of up to {course.batch}: over HTTP "
        f"{statistics.median(shares):.1%} of the predictor alone, of {chosen.rounds} rounds "
        f"the least {min(shares):.1%}, the most {max(shares):.1%}"
    )


def rate_alone(course: Course) -> float:
    """Images per second of the predictor, from resized pixels to maps in memory."""
    prepare_threads()
    # The generator's process has no need of torch.
    import torch  # noqa: PLC0415

    from service.allocator import keep_freed_memory  # noqa: PLC0415
    from service.datatypes import Output, Query, Sample  # noqa: PLC0415
    from service.imaging.decode import decode_image  # noqa: PLC0415
    from service.imaging.pictures import resize_image  # noqa: PLC0415
    from service.inference.devices import DTYPES  # noqa: PLC0415
    from service.inference.loading import build_predictor  # noqa: PLC0415

    keep_freed_memory()
    store = open_store(course.folder)
    card = store.find(course.model)
    predictor, _ = build_predictor(
        card, store.load_arrays(card), torch.device("cpu"), DTYPES[course.precision]
    )
    image = decode_image(jpeg(WIDTH, HEIGHT, JPEG_BYTES), max_pixels=WIDTH * HEIGHT)
    pixels = resize_image(image, short_side=card.short_side, long_side=card.long_side)
    query = Query(frozenset({Output.IUV}), min_score=0.0, max_instances=NUM_INSTANCES)
    batch = [Sample(np.array(pixels), image.size_hw, query) for _ in range(course.batch)]
    predictor.predict_batch(batch)
    begun_s = time.perf_counter()
    num_images = 0
    while (elapsed_s := time.perf_counter() - begun_s) < course.seconds:
        predictor.predict_batch(batch)
        num_images += len(batch)
    return num_images / elapsed_s


def ask_alone(course: Course) -> float:
    """The same, in a process of its own."""
    options = {
        "--alone": course.folder,
        "--model": course.model,
        "--precision": course.precision,
        "--batch": course.batch,
        "--seconds": course.seconds,
    }
    arguments = [str(word) for option in options.items() for word in option]
    command = [sys.executable, "-m", "load_tests.throughput", *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def rate_over_http(course: Course) -> float:
    """Images per second of a server whose queue is never empty, by requests answered with 200."""
    settings = {
        "MODEL_STORE": str(course.folder),
        "DEFAULT_MODEL": course.model,
        "PRELOAD": course.model,
        "PRECISION": course.precision,
        "MAX_BATCH": str(course.batch),
        "DEVICE": "cpu",
    }
    with running_server(settings, course.folder / "server.log") as server:
        pool = Pool(server.host, server.port)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_saturate(pool, course))


async def _saturate(pool: Pool, course: Course) -> float:
    """Two batches' worth of clients, each of whom asks again as soon as it is answered."""
    path = f"/v1/densepose?outputs=iuv&min_score=0&max_instances={NUM_INSTANCES}"
    request = post(path, jpeg(WIDTH, HEIGHT, JPEG_BYTES))
    answered_s: list[float] = []
    is_warm = asyncio.Event()
    end_s = float("inf")

    async def client() -> None:
        while time.perf_counter() < end_s:
            outcome = outcome_of(await pool.ask(request))
            if outcome != "200":
                raise RuntimeError(outcome)
            answered_s.append(time.perf_counter())
            if len(answered_s) == 2 * course.batch:
                # The first batch and its successor.
                is_warm.set()

    async with asyncio.TaskGroup() as clients:
        for _ in range(2 * course.batch):
            clients.create_task(client())
        await is_warm.wait()
        begun_s = answered_s[-1]
        before = len(answered_s)
        end_s = begun_s + course.seconds
    # From one answer to another: whole batches, but for the last ones, when clients leave.
    within = [moment_s for moment_s in answered_s[before:] if moment_s <= end_s]
    return len(within) / (within[-1] - begun_s)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*MODELS, NAME]
    parser.add_argument("--model", choices=names, default="R_50", metavar="|".join(MODELS))
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch", type=int, default=1, help="images in a batch, at most")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
