"""The last step alone, beside detectron2's: the head's outputs to maps, embeddings to vertices.

Without detectron2 ours is timed alone.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PillowImage
from torch import Tensor, nn

from load_tests.ceilings import timed
from load_tests.stand_in_weights import DATA
from model_store.catalogue import load_catalogue
from model_store.checkpoint import read_checkpoint
from service.datatypes import Image, Output, Query, Sample
from service.imaging.pictures import resize_image
from service.inference.chart_maps import ChartMaps
from service.inference.devices import DEVICES, traits_of
from service.inference.embedding_maps import closest_vertices
from service.inference.loading import build_predictor
from service.inference.map_buffer import Chunk, MapBuffer
from service.inference.regions import num_pixels
from service.network.densepose_head import ChartPredictor, HeadOutput

# A person in the middle distance.
REGION = (40, 20, 150, 400)
CHANNELS = {"coarse_segm": 2, "fine_segm": 25, "u": 25, "v": 25}
NUM_VERTICES = 27_554
# As many pixels as half of a person of 400 x 800 pixels: what is body of its box.
SEARCHED_SIDE = 400

Steps = Mapping[str, Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Timing:
    """One way's median, how many times as fast as detectron2's it is, and its memory."""

    name: str
    milliseconds: float
    ratio: float | None
    growth_mib: float


def postprocessing(num_instances: int, device: torch.device) -> Iterator[tuple[str, Steps]]:
    """The head's outputs of some people to their IUV maps: of figures, and of noise."""
    heads = {"the demo model's outputs for figures": demo_outputs(device)}
    torch.manual_seed(0)
    noise = torch.randn(1, sum(CHANNELS.values()), 112, 112, device=device)
    heads["noise"] = noise.contiguous(memory_format=torch.channels_last)
    for name, few in heads.items():
        values = few.repeat(-(-num_instances // len(few)), 1, 1, 1)[:num_instances]
        raw = _as_head_output(values.contiguous(memory_format=torch.channels_last))
        _, _, width, height = REGION
        steps: dict[str, Callable[[], object]] = {"ours": lambda raw=raw: _paint(raw, device)}  # type: ignore[misc]
        if (theirs := _their_charts(raw, device)) is not None:
            steps = {"detectron2": theirs, **steps}
        yield f"{num_instances} instances of {width} x {height} pixels to maps, {name}", steps


def vertex_search(device: torch.device) -> Iterator[tuple[str, Steps]]:
    """The closest vertex of every pixel of a mask."""
    torch.manual_seed(0)
    side = SEARCHED_SIDE
    vertices = nn.functional.normalize(torch.randn(NUM_VERTICES, 16, device=device), dim=1)
    embedding = torch.randn(1, 16, side, side, device=device)
    mask = torch.stack((torch.zeros(side, side), torch.ones(side, side)))[None].to(device)

    def ours() -> Tensor:
        return closest_vertices(embedding[0].flatten(1).T, vertices)

    title = f"the closest of {NUM_VERTICES} vertices for {side * side} pixels"
    try:
        from densepose.modeling.cse.utils import get_closest_vertices_mask_from_ES  # noqa: PLC0415
    except ImportError:
        yield title, {"ours": ours}
        return

    def theirs() -> Tensor:
        found: Tensor = get_closest_vertices_mask_from_ES(
            embedding, mask, side, side, vertices, device
        )[0]
        return found.flatten()

    share = (theirs() == ours()).float().mean().item()
    yield f"{title}, equal for {share:.4%}", {"detectron2": theirs, "ours": ours}


def compare(steps: Steps, repetitions: int, device: torch.device) -> Iterator[Timing]:
    """Time the steps in turn, the order swapped every time."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    growth_mib = {name: memory_growth_mib(step, device) for name, step in steps.items()}
    names = list(steps)
    for _ in range(repetitions):
        for name in names:
            seconds[name].append(timed(steps[name], device))
        names.reverse()
    baseline = seconds.get("detectron2")
    for name, times in seconds.items():
        ratio = None
        if baseline is not None:
            ratio = statistics.median(b / t for b, t in zip(baseline, times, strict=True))
        yield Timing(name, 1000 * statistics.median(times), ratio, growth_mib[name])


def demo_outputs(device: torch.device) -> Tensor:
    """What the demo model's head says of the figures that it finds in a picture: [R, 77, S, S]."""
    card = load_catalogue()["demo"]
    with resources.as_file(resources.files("model_store") / "demo.pkl") as path:
        arrays = read_checkpoint(path)
    seen: list[Tensor] = []

    def look(module: nn.Module, _args: object, output: HeadOutput) -> None:
        if isinstance(module, ChartPredictor):
            seen.append(output.values_RCSS.clone())

    picture = PillowImage.open(DATA / "demo" / "test4_3fig.png").convert("RGB")
    image = Image(np.ascontiguousarray(np.asarray(picture)[:, :, ::-1]))
    pixels = resize_image(image, short_side=card.short_side, long_side=card.long_side)
    predictor, _ = build_predictor(card, arrays, torch.device("cpu"), torch.float32)
    hook = nn.modules.module.register_module_forward_hook(look)
    try:
        predictor.predict_batch([Sample(pixels, image.size_hw, Query(frozenset({Output.IUV})))])
    finally:
        hook.remove()
    return torch.cat(seen).to(device)


def memory_growth_mib(step: Callable[[], object], device: torch.device) -> float:
    """By how much a step, run a second time, raises the peak of memory: the host's or the GPU's."""
    step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    # Linux: sets the peak back to what is resident now. man 5 proc
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_kib("VmRSS")
    step()
    return (_status_kib("VmHWM") - before) / 2**10


def _status_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise LookupError(field)


def _as_head_output(values_RCSS: Tensor) -> HeadOutput:
    ends = accumulate(CHANNELS.values())
    slices = {f: slice(end - CHANNELS[f], end) for f, end in zip(CHANNELS, ends, strict=True)}
    return HeadOutput(values_RCSS, slices)


@torch.inference_mode()
def _paint(raw: HeadOutput, device: torch.device) -> object:
    chart_maps, outputs = ChartMaps(()), frozenset({Output.IUV})
    regions = [REGION] * len(raw.values_RCSS)
    maps = MapBuffer(chart_maps.layout(outputs, num_pixels(regions), len(regions)), device)
    for first in range(0, len(regions), DEVICES["cpu"].max_chunk):
        part = slice(first, first + DEVICES["cpu"].max_chunk)
        chunk = Chunk(
            regions[part],
            [None] * len(regions[part]),
            first_instance=first,
            first_pixel=num_pixels(regions[:first]),
            max_tile_pixels=traits_of(device).max_tile_pixels,
        )
        chart_maps.paint(HeadOutput(raw.values_RCSS[part], raw.channels), chunk, maps)
    return maps.to_host()


def _their_charts(raw: HeadOutput, device: torch.device) -> Callable[[], object] | None:
    try:
        from densepose.converters import ToChartResultConverter  # noqa: PLC0415
        from densepose.structures import DensePoseChartPredictorOutput  # noqa: PLC0415
        from densepose.structures.chart_result import (  # noqa: PLC0415
            quantize_densepose_chart_result,
        )
        from detectron2.structures import Boxes  # noqa: PLC0415
    except ImportError:
        return None
    x, y, width, height = REGION
    box = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32, device=device)
    # As their head gives them: apart, and channels first.
    fields = {field: raw[field].contiguous() for field in CHANNELS}

    def theirs() -> None:
        for index in range(len(raw.values_RCSS)):
            one = {field: array[index : index + 1] for field, array in fields.items()}
            result = ToChartResultConverter.convert(
                DensePoseChartPredictorOutput(**one), Boxes(box)
            )
            quantize_densepose_chart_result(result).labels_uv_uint8.cpu()

    return theirs
