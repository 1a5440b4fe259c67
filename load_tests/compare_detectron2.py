"""Our predictor beside detectron2's, in one process, on the same images, weights and threads.

    python -m load_tests.compare_detectron2 [--models ID...] [--batches N...] [--instances N...]

By default one model, one image, three instances, and the last step alone: some minutes on two
cores. `--everything` has four models, five batch sizes, four numbers of instances and all
precisions, which takes hours on a CPU; `--minutes` bounds it. What cannot be run is said below the
table. `load_tests/detectron2_predictor.py` tells where detectron2 must lie; without it ours is
measured alone. The weights are the parity tests' stand-ins: what they find is noise, and takes as
long as anything else.
"""

import argparse
import platform
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from load_tests.ceilings import Ceilings, measure_ceilings
from load_tests.conversions import compare, postprocessing, vertex_search
from load_tests.runners import (
    TOTAL,
    Case,
    Runner,
    given_boxes,
    our_runner,
    pictures,
    their_runner,
)
from load_tests.stages import MAPS, PREPROCESS, REST, STAGES, Work
from load_tests.stand_in_weights import build_arrays
from model_store.catalogue import load_catalogue
from service.inference.devices import DTYPES, find_device

MODELS = (
    "R_50_FPN_s1x",
    "R_50_FPN_DL_WC2M_s1x",
    "R_101_FPN_DL_s1x",
    "cse_R_101_FPN_DL_soft_s1x",
)
BATCHES, INSTANCES = (1, 2, 4, 8, 16), (1, 3, 10, 50)
THEIRS = "detectron2"
# Below this share of float32's rate, arithmetic is imitated, not built in.
MIN_RATE = 0.5
HEADINGS = ("model", "batch", "instances", "stage", "precision", "GFLOP", "MB", THEIRS, "ours")
HEADER = (*HEADINGS, "ratio", "GFLOP/s", "of the roof")


class Benchmark:
    """Prints one table, row by row, and keeps what it could not run."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self._chosen = chosen
        self._device = find_device(chosen.device)
        self._end_s = time.monotonic() + 60 * chosen.minutes
        self._ceilings: dict[str, Ceilings] = {}
        self._not_run: list[str] = []

    def run(self) -> None:
        """Everything that was asked for and can be had."""
        chosen = self._chosen
        print(f"{torch.get_num_threads()} threads, {self._describe_device()}", end=", ")
        print(f"torch {torch.__version__}; medians of {chosen.repetitions}, in turn")
        self._measure_ceilings()
        if reason := why_no_detectron2():
            self._not_run.append(f"detectron2, ours was measured alone: {reason}")
        print("\n| " + " | ".join(HEADER) + " |\n" + "|---" * len(HEADER) + "|")
        cases = [
            (model, batch, instances)
            for model in chosen.models
            for batch in chosen.batches
            for instances in chosen.instances
        ]
        for model, batch, instances in cases:
            name = f"{model}, batch {batch}, {instances} instances"
            if time.monotonic() > self._end_s:
                self._not_run.append(f"{name}: the {chosen.minutes:g} minutes were over")
                continue
            try:
                self._run_case(model, batch, instances)
            except (RuntimeError, MemoryError) as error:
                self._not_run.append(f"{name}: {str(error).partition(chr(10))[0]}")
        print("\nthe ceilings, the greatest seen:")
        self._print_ceilings()
        self._run_conversions()
        print("\nnot run:" if self._not_run else "", *self._not_run, sep="\n- ")

    def _describe_device(self) -> str:
        if self._device.type == "cuda":
            return torch.cuda.get_device_name(self._device)
        return f"{self._device} ({platform.machine()})"

    def _measure_ceilings(self) -> None:
        for precision in self._chosen.precisions:
            self._ceilings[precision] = measure_ceilings(DTYPES[precision], self._device)
        self._print_ceilings()
        least = (
            MIN_RATE * self._ceilings.get("fp32", next(iter(self._ceilings.values()))).flops_per_s
        )
        for precision in [p for p, found in self._ceilings.items() if found.flops_per_s < least]:
            rate = self._ceilings.pop(precision).flops_per_s / 1e9
            self._not_run.append(f"{precision}: its matrix products run at {rate:.1f} GFLOP/s here")
        if not torch.cuda.is_available():
            self._not_run.append("CUDA: no device here")

    def _print_ceilings(self) -> None:
        for precision, found in self._ceilings.items():
            print(
                f"{precision}: matrix products {found.flops_per_s / 1e9:.0f} GFLOP/s, "
                f"copies {found.bytes_per_s / 1e9:.1f} GB/s"
            )

    def _raise_ceilings(self) -> None:
        """Measure them beside each case: others on this machine come and go."""
        for precision, before in self._ceilings.items():
            now = measure_ceilings(DTYPES[precision], self._device)
            self._ceilings[precision] = before.raised_by(now)

    def _run_case(self, model: str, batch: int, instances: int) -> None:
        card = load_catalogue()[model]
        arrays = build_arrays(model, "figures_2")
        boxes = given_boxes(instances) if self._chosen.boxes == "given" else None
        case = Case(card, pictures(batch), instances, boxes, self._device)
        runners = {
            precision: our_runner(case, dict(arrays), precision) for precision in self._ceilings
        }
        if not why_no_detectron2():
            runners = {THEIRS: their_runner(case, arrays), **runners}
        for runner in runners.values():
            runner.step()
        names = list(runners)
        for _ in range(self._chosen.repetitions):
            for name in names:
                runners[name].run(self._device)
            names.reverse()
        self._raise_ceilings()
        for precision in self._ceilings:
            work = runners[precision].stages.count(runners[precision].step)
            self._print_case((model, batch, instances), precision, runners, work)

    def _print_case(
        self,
        case: tuple[object, ...],
        precision: str,
        runners: Mapping[str, Runner],
        work: Mapping[str, Work],
    ) -> None:
        ours, theirs, ceilings = runners[precision], runners.get(THEIRS), self._ceilings[precision]
        for stage in (*STAGES, TOTAL):
            done = _work_of(stage, work)
            ours_s = ours.median_s(stage)
            if not ours_s:
                continue
            cells = [*case, stage, precision]
            cells += (
                [f"{done.flops / 1e9:.1f}", f"{done.num_bytes / 1e6:.0f}"] if done else ["", ""]
            )
            cells.append(f"{1000 * theirs.median_s(stage):.1f} ms" if theirs else "")
            cells.append(f"{1000 * ours_s:.1f} ms")
            cells.append(f"{ours.ratio(theirs, stage):.2f}" if theirs else "")
            if done:
                least_s = ceilings.least_seconds(done.flops, done.num_bytes)
                if stage == TOTAL:  # the sum of its stages' floors
                    least_s = sum(
                        ceilings.least_seconds(one.flops, one.num_bytes) for one in work.values()
                    )
                cells += [f"{done.flops / ours_s / 1e9:.0f}", f"{least_s / ours_s:.0%}"]
            else:
                cells += ["", ""]
            _print_row(cells)

    def _run_conversions(self) -> None:
        chosen = self._chosen
        parts: list[Iterator[tuple[str, Any]]] = []
        if "postprocessing" in chosen.parts:
            parts.append(postprocessing(max(INSTANCES), self._device))
        if "vertices" in chosen.parts:
            parts.append(vertex_search(self._device))
        for part in parts:
            for title, steps in part:
                for timing in compare(steps, chosen.repetitions, self._device):
                    ratio = "" if timing.ratio is None else f"{timing.ratio:.2f}"
                    print(
                        f"{title}: {timing.name} {timing.milliseconds:.1f} ms, ratio {ratio}, "
                        f"raises the peak of memory by {timing.growth_mib:.0f} MiB",
                        flush=True,
                    )


def _work_of(stage: str, work: Mapping[str, Work]) -> Work | None:
    """The stage's work; None of those that are counted together with the rest."""
    if stage == TOTAL:
        flops = sum(one.flops for one in work.values())
        return Work(flops, sum(one.num_bytes for one in work.values()))
    return None if stage in {PREPROCESS, MAPS, REST} else work.get(stage)


def _print_row(cells: Sequence[object]) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def why_no_detectron2() -> str | None:
    """What keeps detectron2, or what it needs, from being imported; None if all is there."""
    try:
        import load_tests.detectron2_predictor  # noqa: F401, PLC0415
    except ImportError as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return None


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS[:1], metavar="ID")
    parser.add_argument("--batches", nargs="+", type=int, default=(1,), metavar="N")
    parser.add_argument("--instances", nargs="*", type=int, default=(3,), metavar="N")
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=("fp32", "bf16"))
    parser.add_argument("--boxes", choices=("found", "given"), default="found")
    parts = ("postprocessing", "vertices")
    parser.add_argument("--parts", nargs="*", choices=parts, default=parts, help="the last step")
    parser.add_argument("--everything", action="store_true")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=600.0, help="after which nothing is begun")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    if chosen.everything:
        chosen.models, chosen.batches, chosen.instances = MODELS, BATCHES, INSTANCES
        chosen.precisions = tuple(DTYPES)
    # Of detectron2's own code.
    warnings.simplefilter("ignore")
    torch.set_num_threads(chosen.threads)
    Benchmark(chosen).run()


if __name__ == "__main__":
    main()
