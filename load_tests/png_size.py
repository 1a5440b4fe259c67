"""How fast maps are written as PNG files, and how large these are, beside Pillow's default.

    python -m load_tests.png_size [--repetitions 5]

The maps are those of the figures in the demo's pictures, at several sizes, and those that
detectron2 computed for the parity tests: noise, by weights that nobody trained. Pillow cannot write
three channels of 16 bits; there libpng's own default takes its place, by way of OpenCV.
"""

import argparse
import io
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage

from load_tests.stand_in_weights import DATA
from model_store.catalogue import load_catalogue
from model_store.checkpoint import read_checkpoint
from service.datatypes import Image, Output, Prediction, Query, Sample
from service.imaging.pictures import resize_image
from service.inference.loading import build_predictor
from service.output.png import encode_png

OUTPUTS = frozenset({Output.IUV, Output.IUV16, Output.LABELS, Output.COARSE, Output.MASK})
# Times the picture's own size of 320 x 256 pixels.
MAGNIFICATIONS = (1, 2, 4)
# What libpng does unless told otherwise: zlib's level 6, every row's filter by a heuristic.
LIBPNG_DEFAULT = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 6),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS),
)

Samples = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same maps by both encoders."""

    ours_s: float
    theirs_s: float
    our_bytes: int
    their_bytes: int


def main() -> None:
    """Print a row for each kind of map."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=5)
    repetitions = parser.parse_args().repetitions
    # Encoding is timed as in one of the service's threads.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print("| maps | type | number | Pillow | ours | times as fast | bytes, of Pillow's |")
    print("|---" * 7 + "|")
    for name, maps in {**figures(), **noise()}.items():
        found = compare(maps, repetitions)
        shape = "x".join(map(str, maps[0].shape[2:] or (1,)))
        print(
            f"| {name} | {shape} {maps[0].dtype} | {len(maps)} | {1000 * found.theirs_s:.1f} ms "
            f"| {1000 * found.ours_s:.1f} ms | {found.theirs_s / found.ours_s:.1f} "
            f"| {found.our_bytes / found.their_bytes:.1%} |",
            flush=True,
        )


def figures() -> dict[str, list[Samples]]:
    """The maps of the demo's instances, by name and size of the picture."""
    card = load_catalogue()["demo"]
    with resources.as_file(resources.files("model_store") / "demo.pkl") as path:
        arrays = read_checkpoint(path)
    predictor, _ = build_predictor(card, arrays, torch.device("cpu"), torch.float32)
    maps: dict[str, list[Samples]] = defaultdict(list)
    for magnification in MAGNIFICATIONS:
        for file in sorted((DATA / "demo").glob("*fig.png")):
            picture = PillowImage.open(file).convert("RGB")
            larger = picture.resize((picture.width * magnification, picture.height * magnification))
            image = Image(np.ascontiguousarray(np.asarray(larger)[:, :, ::-1]))
            pixels = resize_image(image, short_side=card.short_side, long_side=card.long_side)
            (found,) = predictor.predict_batch([Sample(pixels, image.size_hw, Query(OUTPUTS))])
            assert isinstance(found, Prediction)
            for instance in found.instances:
                for output, map_ in instance.maps.items():
                    maps[f"figures x {magnification}: {output}"].append(map_.samples)
    return dict(maps)


def noise() -> dict[str, list[Samples]]:
    """The parity tests' maps of given boxes."""
    maps: dict[str, list[Samples]] = defaultdict(list)
    for file in sorted((DATA / "outputs").glob("*.prompted.npz")):
        arrays = np.load(file)
        for name in arrays.files:
            if name.endswith("_iuv"):
                maps["noise: iuv"].append(np.ascontiguousarray(arrays[name].transpose(1, 2, 0)))
            if name.endswith("_vertex"):
                maps["noise: vertices"].append(arrays[name])
    return dict(maps)


def compare(maps: Sequence[Samples], repetitions: int) -> Comparison:
    """Encode all of them in turn, the order swapped every time; seconds are the core's."""
    is_deep_colour = maps[0].ndim == 3 and maps[0].dtype == np.uint16
    encoders: dict[str, Callable[[Samples], bytes]] = {
        "ours": lambda samples: encode_png(samples, {}),
        "theirs": libpng_default if is_deep_colour else pillow_default,
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    sizes = {}
    names = list(encoders)
    for _ in range(repetitions):
        for name in names:
            begun_s = time.thread_time()
            sizes[name] = _encode_all(maps, encoders[name])
            seconds[name].append(time.thread_time() - begun_s)
        names.reverse()
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return Comparison(medians["ours"], medians["theirs"], sizes["ours"], sizes["theirs"])


def pillow_default(samples: Samples) -> bytes:
    """The file that Pillow writes unless told otherwise."""
    file = io.BytesIO()
    PillowImage.fromarray(samples).save(file, format="png")
    return file.getvalue()


def libpng_default(samples: Samples) -> bytes:
    """The file that libpng writes unless told otherwise."""
    _, file = cv2.imencode(".png", cv2.cvtColor(samples, cv2.COLOR_RGB2BGR), LIBPNG_DEFAULT)
    return file.tobytes()


def _encode_all(maps: Iterable[Samples], encode: Callable[[Samples], bytes]) -> int:
    return sum(len(encode(samples)) for samples in maps)


if __name__ == "__main__":
    main()
