"""What answers cost at most: CPU seconds of encoding, and bytes of memory, whatever they show.

    python -m load_tests.costly_answers [--megapixels 2] [--large-megapixels 40] [--form json ...]

Goes over outputs, renders, layouts and forms with a box over the whole picture, and over samples
from noise to nothing; then asks the costliest of each form again about a large picture, or the
largest that it has room for. No network computes: the samples are made up. Each is measured in a
process of its own. Exits with 1 where a bound does not hold.
"""

import argparse
import math
import multiprocessing
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.catalogue import load_catalogue
from service.api.negotiation import types_with
from service.batching.inflight import InflightBytes
from service.datatypes import AnyMap, Image, Instance, Map, Output, Prediction, RawMap, SizeHW
from service.errors import AnswerTooLarge, ServiceError
from service.output.chunks import gzip_of
from service.output.drawing import Scenery
from service.output.media import COCO, JSON, NPY, NPZ, PNG, ZIP
from service.output.presets import PRESETS
from service.pipeline.answer import Draft, canvases_of, jobs_of, write_answer
from service.pipeline.parameters import check_parameters
from service.pipeline.plan import Plan, plan_answer
from service.pipeline.record import STAGES
from service.pipeline.room import AnswerRoom, AnswerSize
from service.settings import Settings

MAX_CPU_S = 2.0
# Of samples, that much of which may take so long.
PER_BYTES = 120_000_000
# Above what is counted: strips, compressors, and what the C library keeps.
MAX_UNCOUNTED_BYTES = 64 * 2**20
# What a request about so little costs says nothing of a rate.
MIN_SAMPLE_BYTES = 4_000_000
MODELS = ("R_50_FPN_WC2M_s1x", "cse_R_50_FPN_soft_s1x")
CONFIDENCES = (
    *("sigma_2", "kappa_u", "kappa_v", "fine_segm_confidence", "coarse_segm_confidence"),
    *("u_std", "v_std"),
)
CONTENTS = ("noise", "few", "runs", "nothing")
# Tried in turn where the largest picture has no room.
SHARES = (1, 0.75, 0.6, 0.5, 0.35, 0.25, 0.2, 0.1)
NO_TIMING = dict.fromkeys((*STAGES, "total"), 0.0)


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked, and what is shown."""

    media_type: str
    is_packed: bool
    wishes: tuple[tuple[str, str], ...]
    content: str
    megapixels: float

    @property
    def form(self) -> str:
        """The form in a word."""
        return self.media_type.rpartition("/")[2] + ("+gzip" if self.is_packed else "")


@dataclass(frozen=True, slots=True)
class Cost:
    """What it took; `counted_bytes` is what the service says that it held at most."""

    sample_bytes: int
    cpu_s: float
    counted_bytes: int
    peak_bytes: int

    @property
    def rate(self) -> float:
        """CPU seconds for 120 MB of samples; small answers count as `MIN_SAMPLE_BYTES`."""
        return self.cpu_s * PER_BYTES / max(self.sample_bytes, MIN_SAMPLE_BYTES)

    @property
    def uncounted_bytes(self) -> int:
        """What it took beyond what was counted."""
        return self.peak_bytes - self.counted_bytes


class CountedBytes(InflightBytes):
    """Remembers the most that was held."""

    most = 0

    def change(self, *arguments: Any, **options: Any) -> None:
        """Changes it, and looks."""
        super().change(*arguments, **options)
        self.most = max(self.most, self.num_bytes)


def main() -> int:
    """Print the worst case of each form; 1 if one is above a bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megapixels", type=float, default=2)
    parser.add_argument("--large-megapixels", type=float, default=40)
    parser.add_argument("--form", nargs="*", help="these alone, as the table calls them")
    options = parser.parse_args()
    # One core's, as where others keep all of them busy.
    cv2.setNumThreads(1)
    found: dict[str, list[tuple[Case, Cost]]] = {}
    with processes_apart() as processes:
        for case in all_cases(options.megapixels):
            if is_answered(case) and (not options.form or case.form in options.form):
                cost = processes.apply(measure, (case,))
                if cost is not None:
                    found.setdefault(case.form, []).append((case, cost))
        for costs in found.values():
            for case in costliest(costs):
                for share in SHARES:
                    large = replace(case, megapixels=share * options.large_megapixels)
                    cost = processes.apply(measure, (large,))
                    if cost is not None:
                        costs.append((large, cost))
                        break
    return report(found)


def processes_apart() -> Pool:
    """Where each case is measured in a process of its own, with the imports of this one."""
    return multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1)


def costliest(costs: Sequence[tuple[Case, Cost]]) -> list[Case]:
    """The slowest ones, and those that take the most for a byte that is counted."""
    by_rate = sorted(costs, key=lambda pair: -pair[1].rate)[:2]
    by_size = sorted(costs, key=lambda pair: -pair[1].peak_bytes / pair[0].megapixels)[:2]
    by_excess = sorted(costs, key=lambda pair: -pair[1].uncounted_bytes)[:2]
    return list(dict.fromkeys(case for case, _ in (*by_rate, *by_size, *by_excess)))


def report(found: Mapping[str, Sequence[tuple[Case, Cost]]]) -> int:
    """Print a row for each form; 1 if a bound does not hold."""
    is_above = False
    print("| form | cases | CPU s for 120 MB of samples, at most | of | bytes, at most | of |")
    print("|---" * 6 + "|")
    for form, costs in found.items():
        slow_case, slow = max(costs, key=lambda pair: pair[1].rate)
        large_case, large = max(costs, key=lambda pair: pair[1].peak_bytes)
        above = [(case, cost) for case, cost in costs if is_costly(cost)]
        is_above = is_above or bool(above)
        print(
            f"| {form} | {len(costs)} | {slow.rate:.2f} | {describe(slow_case)} "
            f"| {large.peak_bytes / 1e6:.0f} MB | {describe(large_case)} |",
            flush=True,
        )
        for case, cost in above:
            print(
                f"ABOVE: {form}, {describe(case)}: {cost.rate:.2f} s, "
                f"{cost.uncounted_bytes / 1e6:.0f} MB uncounted",
                file=sys.stderr,
            )
    return int(is_above)


def is_costly(cost: Cost) -> bool:
    """Whether it is above a bound."""
    return cost.rate > MAX_CPU_S or cost.uncounted_bytes > MAX_UNCOUNTED_BYTES


def describe(case: Case) -> str:
    """What was asked, in few words."""
    wishes = ", ".join(f"{name}={value}" for name, value in case.wishes if name != "model")
    return f"{case.content}, {wishes}, {case.megapixels:g} MP"


def all_cases(megapixels: float) -> Iterator[Case]:
    """Every output and render in every form and layout, with every content."""
    for wishes in all_wishes():
        asked = tuple(wishes.items())
        for media_type in (JSON, PNG, ZIP, NPZ, NPY, COCO):
            for content in CONTENTS:
                yield Case(media_type, False, asked, content, megapixels)
                if media_type in {JSON, COCO}:
                    yield Case(media_type, True, asked, content, megapixels)


def all_wishes() -> Iterator[dict[str, str]]:
    """What may be asked of a chart model with confidences, and of one of continuous surfaces."""
    cards = load_catalogue()
    for model in MODELS:
        kind = cards[model].kind
        outputs = {
            "chart": ("iuv", "iuv16", "uv", "labels", "coarse", "mask", "confidence", "texture"),
            "cse": ("vertices", "vertex_colours", "coarse", "mask", "embedding"),
        }[kind]
        for output in (*outputs, "none"):
            for layout in ("instance", "image"):
                yield {"model": model, "outputs": output, "layout": layout}
        for preset in PRESETS.values():
            if kind in preset.needs and preset.name != "texture":
                yield {"model": model, "render": preset.name}
                if preset.background is not None:
                    yield {"model": model, "render": preset.name, "background": "transparent"}
        if kind == "chart":
            yield {"model": model, "outputs": "none", "parts": "24,14,sides,limbs"}
        yield {"model": model, "outputs": "none", "points": "[[1,1],[2,2]]"}


def is_answered(case: Case) -> bool:
    """Whether there is such an answer at all."""
    if case.media_type not in types_with(dict(case.wishes).get("render")):
        return False
    try:
        plan_of(case)
    except ServiceError:
        return False
    return True


def plan_of(case: Case) -> Plan:
    """What was asked, understood."""
    wishes = dict(case.wishes)
    return plan_answer(
        check_parameters(wishes.items()),
        load_catalogue(),
        default_model=wishes["model"],
        media_type=case.media_type,
    )


def measure(case: Case) -> Cost | None:
    """What it takes to make the answer; None where there is no room for it."""
    plan = plan_of(case)
    height = round(math.sqrt(case.megapixels * 1e6 * 5 / 8))
    size_hw = height, round(case.megapixels * 1e6 / height)
    region = (0, 0, size_hw[1], size_hw[0])
    inflight = CountedBytes(2**62, lambda: 0.0)
    bytes_before = memory_bytes("VmRSS")
    with inflight.hold() as holding:
        photo = None
        if plan.is_drawn_on_photo:
            photo = Image(samples_of(case.content, (*size_hw, 3), np.uint8))
        scenery = Scenery(photo=photo)
        holding.resize(scenery.num_bytes)
        size = AnswerSize(plan, size_hw)
        room = AnswerRoom(size, holding, Settings.model_fields["max_answer_bytes"].default)
        try:
            room.reserve([region])
        except AnswerTooLarge:
            return None
        box = (0.0, 0.0, float(size_hw[1]), float(size_hw[0]))
        instance = Instance(1.0, 0, box, region, "smpl_27554", maps_of(case, plan, size_hw))
        draft = Draft(plan, Prediction(size_hw, (instance,)), scenery)
        forget_peak()
        begun_s = time.process_time()
        try:
            pieces = [job() for job in jobs_of(draft, canvases_of(draft), room.count)]
            chunks = write_answer(draft, pieces, NO_TIMING, room.count)
            if case.is_packed:
                chunks = gzip_of(chunks, room.count)
        except AnswerTooLarge:
            return None
        cpu_s = time.process_time() - begun_s
        peak_bytes = memory_bytes("VmHWM") - bytes_before
    return Cost(size.samples([region]), cpu_s, inflight.most, peak_bytes)


def maps_of(case: Case, plan: Plan, size_hw: SizeHW) -> dict[str, Map]:
    """What the device would give, but for what it shows."""
    maps: dict[str, Map] = {}
    for output in sorted(plan.needed_outputs):
        for name, samples in made_up(output, case.content, size_hw):
            is_quantized = output is Output.CONFIDENCE
            maps[name] = Map(samples, 0.5, 0.0) if is_quantized else Map(samples)
    return maps


def made_up(output: AnyMap, content: str, size_hw: SizeHW) -> Iterator[tuple[str, NDArray[Any]]]:
    """The maps of an output, by their names."""
    match output:
        case Output.CONFIDENCE:
            for name in CONFIDENCES:
                yield f"{output}.{name}", samples_of(content, size_hw, np.uint16)
        case RawMap.CONFIDENCE:
            for name in CONFIDENCES:
                yield f"{output}.{name}", floats_of(content, size_hw, np.float32)
        case Output.EMBEDDING:
            yield "embedding", floats_of(content, (16, 112, 112), np.float16)
            yield "coarse_logits", floats_of(content, (2, 112, 112), np.float16)
        case Output.TEXTURE:
            yield str(output), samples_of(content, (1200, 800, 4), np.uint8)
        case Output.UV | RawMap.UV:
            yield str(output), floats_of(content, (2, *size_hw), np.float32)
        case Output.IUV | Output.IUV16 | Output.VERTEX_COLOURS:
            dtype = np.uint16 if output is Output.IUV16 else np.uint8
            samples = samples_of(content, (*size_hw, 3), dtype)
            samples[..., 0] %= 25
            yield str(output), samples
        case Output.VERTICES:
            yield str(output), samples_of(content, size_hw, np.uint16)
        case _:
            samples = samples_of(content, size_hw, np.uint8)
            yield str(output), samples % 2 * 255 if output is Output.MASK else samples % 25


def samples_of(content: str, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    """Whole numbers of a type: any, few of them, runs of one row, or none but 0."""
    random = np.random.default_rng(0)
    match content:
        case "noise":
            return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
        case "few":
            return random.integers(0, 8, shape, dtype)
        case "runs":
            return np.cumsum(random.integers(0, 2, shape, dtype), axis=0, dtype=dtype)
    return np.zeros(shape, dtype)


def floats_of(content: str, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    """Floats from 0 to 1, as `samples_of`."""
    if content == "noise":
        return np.random.default_rng(0).random(shape, np.float32).astype(dtype, copy=False)
    floats: NDArray[Any] = samples_of(content, shape, np.uint8).astype(dtype)
    floats /= dtype(255)
    return floats


def memory_bytes(name: str) -> int:
    """A row of what the system says of this process' memory."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    assert found is not None
    return 1024 * int(found[1])


def forget_peak() -> None:
    """Begins anew with the most that this process took."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    sys.exit(main())
