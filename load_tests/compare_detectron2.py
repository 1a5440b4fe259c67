"""Our predictor beside detectron2's, in one process, on the same image, weights and threads.

detectron2 is no dependency of this project: put its folder and its `projects/DensePose` on
PYTHONPATH, with fvcore, iopath, yacs, omegaconf, pycocotools and av installed. The weights are the
parity tests' stand-ins: what they find is noise, and takes as long as anything else.

    python -m load_tests.compare_detectron2 [--threads 2] [--repetitions 5] [--device cpu]
"""

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage

from model_store.catalogue import load_catalogue
from service.datatypes import Image, Output, Query, Sample
from service.imaging.resize import resize_image
from service.inference.chart_maps import ChartMaps
from service.inference.embedding_maps import closest_vertices
from service.inference.loading import DTYPES, build_predictor, find_device
from service.inference.map_buffer import Chunk, MapBuffer
from service.inference.predictor import MAX_CHUNK, MAX_TILE_PIXELS
from service.inference.regions import num_pixels
from service.network.predictors import HeadOutput
from tests.parity.stand_ins import DATA, build_arrays

MODEL = "R_50_FPN_s1x"
WIDTH, HEIGHT = 1066, 800
# A person in the middle distance.
REGION = (40, 20, 150, 400)
NUM_VERTICES, NUM_PIXELS = 27_554, 100_000

Steps = Mapping[str, Callable[[], object]]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    # Of detectron2's own code.
    warnings.simplefilter("ignore")
    torch.set_num_threads(chosen.threads)
    device = find_device(chosen.device)
    print(f"{chosen.threads} threads, {device}, {platform.machine()}, torch {torch.__version__}")
    print(f"median of {chosen.repetitions}, in turn; ratios are detectron2's time over ours;")
    print("the last column is by how much a run raises the peak of memory\n")
    for comparisons in (whole_predictor, postprocessing, vertex_search):
        for title, steps in comparisons(device):
            compare(title, steps, chosen.repetitions, device)


def whole_predictor(device: torch.device) -> Iterator[tuple[str, Steps]]:
    """From pixels in memory to maps in memory."""
    card = load_catalogue()[MODEL]
    arrays = build_arrays(MODEL, "figures_2")
    ours = {name: build_predictor(card, dict(arrays), device, DTYPES[name])[0] for name in DTYPES}
    picture = PillowImage.open(DATA / "pictures" / "figures_2.png").convert("RGB")
    rgb = np.asarray(picture.resize((WIDTH, HEIGHT)))
    image = Image(np.ascontiguousarray(rgb[:, :, ::-1]))
    precisions = ("fp32", "bf16") if device.type == "cpu" else tuple(DTYPES)
    for num_instances in (1, 3, 10, 50):
        theirs = Detectron2(arrays, num_instances, device)
        # The best ones, however bad they are.
        query = Query(frozenset({Output.IUV}), min_score=0.0, max_instances=num_instances)

        def describe(name: str, query: Query = query) -> object:
            pixels = resize_image(image, short_side=card.short_side, long_side=card.long_side)
            return ours[name].predict_batch([Sample(pixels, image.size_hw, query)])

        steps: dict[str, Callable[[], object]] = {
            "detectron2": lambda theirs=theirs: theirs.describe(image.pixels_HW3)  # type: ignore[misc]
        }
        for name in precisions:
            steps[f"ours {name}"] = lambda name=name, describe=describe: describe(name)  # type: ignore[misc]
        title = f"{MODEL}, {WIDTH} x {HEIGHT} pixels to IUV maps, {num_instances} instances"
        yield title, steps


def postprocessing(device: torch.device) -> Iterator[tuple[str, Steps]]:
    """The head's outputs of 50 people to their IUV maps."""
    from densepose.converters import ToChartResultConverter  # noqa: PLC0415
    from densepose.structures import DensePoseChartPredictorOutput  # noqa: PLC0415
    from densepose.structures.chart_result import (  # noqa: PLC0415
        quantize_densepose_chart_result,
    )
    from detectron2.structures import Boxes  # noqa: PLC0415

    torch.manual_seed(0)
    count = 50
    channels = {"coarse_segm": 2, "fine_segm": 25, "u": 25, "v": 25}
    raw = {f: torch.randn(count, c, 112, 112, device=device) for f, c in channels.items()}
    # As our predictor gives it: all fields side by side, channels last.
    values = torch.cat(tuple(raw.values()), dim=1).contiguous(memory_format=torch.channels_last)
    ends = accumulate(channels.values())
    slices = {f: slice(end - channels[f], end) for f, end in zip(channels, ends, strict=True)}
    x, y, width, height = REGION
    box = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32, device=device)

    def theirs() -> None:
        for index in range(count):
            one = {field: array[index : index + 1] for field, array in raw.items()}
            output = DensePoseChartPredictorOutput(**one)
            result = ToChartResultConverter.convert(output, Boxes(box))
            quantize_densepose_chart_result(result).labels_uv_uint8.cpu()

    def ours() -> None:
        chart_maps, outputs = ChartMaps(()), frozenset({Output.IUV})
        regions = [REGION] * count
        maps = MapBuffer(chart_maps.layout(outputs, num_pixels(regions), count), device)
        for first in range(0, count, MAX_CHUNK):
            part = slice(first, first + MAX_CHUNK)
            chunk = Chunk(
                regions[part],
                [None] * len(regions[part]),
                first_instance=first,
                first_pixel=num_pixels(regions[:first]),
                max_tile_pixels=MAX_TILE_PIXELS[device.type],
            )
            chart_maps.paint(HeadOutput(values[part], slices), chunk, maps)
        maps.to_host()

    title = f"postprocessing alone, {count} instances of {width} x {height} pixels"
    yield title, {"detectron2": theirs, "ours": ours}


def vertex_search(device: torch.device) -> Iterator[tuple[str, Steps]]:
    """The closest vertex of every pixel of a mask."""
    from densepose.modeling.cse.utils import (  # noqa: PLC0415
        get_closest_vertices_mask_from_ES,
    )

    torch.manual_seed(0)
    vertices = torch.nn.functional.normalize(torch.randn(NUM_VERTICES, 16, device=device), dim=1)
    side = 316  # of a square of about NUM_PIXELS pixels, all of them body
    embedding = torch.randn(1, 16, side, side, device=device)
    mask = torch.stack((torch.zeros(side, side), torch.ones(side, side)))[None].to(device)

    def theirs() -> torch.Tensor:
        found: torch.Tensor = get_closest_vertices_mask_from_ES(
            embedding, mask, side, side, vertices, device
        )[0]
        return found.flatten()

    def ours() -> torch.Tensor:
        return closest_vertices(embedding[0].flatten(1).T, vertices)

    assert torch.equal(theirs(), ours())
    title = f"closest of {NUM_VERTICES} vertices for {side * side} pixels (equal everywhere)"
    yield title, {"detectron2": theirs, "ours": ours}


def compare(title: str, steps: Steps, repetitions: int, device: torch.device) -> None:
    """Time the steps in turn, the order swapped every time, and print a row for each."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    growth_mib = {name: memory_growth_mib(step, device) for name, step in steps.items()}
    names = list(steps)
    for _ in range(repetitions):
        for name in names:
            seconds[name].append(timed(steps[name], device))
        names.reverse()
    print(title)
    baseline = seconds["detectron2"]
    for name, times in seconds.items():
        ratio = statistics.median(b / t for b, t in zip(baseline, times, strict=True))
        milliseconds = 1000 * statistics.median(times)
        print(f"  {name:12} {milliseconds:9.1f} ms {ratio:8.2f}x {growth_mib[name]:8.0f} MiB")
    print(flush=True)


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


def timed(step: Callable[[], object], device: torch.device) -> float:
    """The seconds that a step takes, the device's work included."""
    begun_s = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun_s


class Detectron2:
    """detectron2's `DefaultPredictor` and its chart-result conversion, with weights from memory."""

    def __init__(
        self, arrays: Mapping[str, NDArray[np.float32]], num_instances: int, device: torch.device
    ) -> None:
        import densepose  # noqa: PLC0415
        from densepose.vis.extractor import DensePoseResultExtractor  # noqa: PLC0415
        from detectron2.config import get_cfg  # noqa: PLC0415
        from detectron2.data.transforms import ResizeShortestEdge  # noqa: PLC0415
        from detectron2.modeling import build_model  # noqa: PLC0415

        settings = get_cfg()
        densepose.add_densepose_config(settings)
        configs = Path(densepose.__file__).parents[1] / "configs"
        settings.merge_from_file(str(configs / f"densepose_rcnn_{MODEL}.yaml"))
        settings.MODEL.DEVICE, settings.MODEL.WEIGHTS = str(device), ""
        settings.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
        settings.TEST.DETECTIONS_PER_IMAGE = num_instances
        self._model: Any = build_model(settings).eval()
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self._model.load_state_dict(state, strict=False)
        self._resize = ResizeShortestEdge([800, 800], 1333)
        self._extract = DensePoseResultExtractor()

    @torch.no_grad()
    def describe(self, pixels_HW3: NDArray[np.uint8]) -> object:
        """What `DefaultPredictor.__call__` does, then labels, U and V of every instance."""
        height, width = pixels_HW3.shape[:2]
        resized = self._resize.get_transform(pixels_HW3).apply_image(pixels_HW3)
        tensor = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))
        (answer,) = self._model([{"image": tensor, "height": height, "width": width}])
        return self._extract(answer["instances"])


if __name__ == "__main__":
    main()
