"""`densepose bench`: what each stage takes on this machine, without a server."""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.datatypes import Output, Prediction, Query, Sample
from service.errors import ServiceError, UndecodableImage
from service.imaging.decode import decode_image
from service.imaging.pictures import resize_image
from service.inference.predictor import Predictor
from service.output.chunks import base64_of, join
from service.output.maps import encode_map

STAGES = ("decode", "preprocess", "network", "postprocess", "encode")
MAX_PIXELS = 40_000_000


@dataclass(frozen=True, slots=True)
class Report:
    """Seconds per image of each stage, one entry per image and repetition, and of all together."""

    stage_seconds: Mapping[str, Sequence[float]]
    num_images: int
    num_instances: int
    elapsed_s: float

    def table(self) -> str:
        """The figures for people: per image, in milliseconds."""
        rows = [f"{'stage':12} {'median ms':>10} {'p95 ms':>10}"]
        for stage in (*STAGES, "total"):
            milliseconds = sorted(1000 * seconds for seconds in self.stage_seconds[stage])
            median = statistics.median(milliseconds)
            p95 = milliseconds[min(int(0.95 * len(milliseconds)), len(milliseconds) - 1)]
            rows.append(f"{stage:12} {median:>10.1f} {p95:>10.1f}")
        rows.append(
            f"{self.num_images / self.elapsed_s:.2f} images per second, "
            f"{self.num_instances / self.num_images:.1f} instances per image"
        )
        return "\n".join(rows)


def run_bench(
    predictor: Predictor, files: Sequence[Path], *, batch_size: int, repetitions: int
) -> Report:
    """Run the files through every stage, one after the other, after one batch to warm up.

    Raises:
        UndecodableImage: a file is not an image; the message has its name.
    """
    # What a client gets that asks for nothing in particular.
    query = Query(frozenset({Output.IUV if predictor.card.kind == "chart" else Output.VERTICES}))
    seconds: dict[str, list[float]] = defaultdict(list)
    warm_up = next(_batches(_prepare(predictor, files[:batch_size], query, {}), batch_size))
    predictor.predict_batch(warm_up)
    num_images = num_instances = 0
    begun_s = time.perf_counter()
    for _ in range(repetitions):
        for batch in _batches(_prepare(predictor, files, query, seconds), batch_size):
            predictions = predictor.predict_batch(batch)
            for prediction in predictions:
                if isinstance(prediction, ServiceError):
                    raise prediction
                for stage in ("network", "postprocess"):
                    seconds[stage].append(prediction.stage_seconds[stage] / len(batch))
                seconds["preprocess"][num_images] += prediction.stage_seconds["preprocess"] / len(
                    batch
                )
                seconds["encode"].append(_encode(predictor.card.id, prediction))
                num_images += 1
                num_instances += len(prediction.instances)
    elapsed_s = time.perf_counter() - begun_s
    seconds["total"] = [
        sum(stages) for stages in zip(*(seconds[stage] for stage in STAGES), strict=True)
    ]
    return Report(seconds, num_images, num_instances, elapsed_s)


def image_files(folder: Path) -> list[Path]:
    """The files of a folder, in the order of their names.

    Raises:
        UndecodableImage: there is none.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    if not files:
        raise UndecodableImage(f"there is no file in {folder}")
    return files


def _prepare(
    predictor: Predictor, files: Iterable[Path], query: Query, seconds: dict[str, list[float]]
) -> Iterator[Sample]:
    card = predictor.card
    for file in files:
        data = file.read_bytes()
        begun_s = time.perf_counter()
        try:
            image = decode_image(data, max_pixels=MAX_PIXELS)
        except UndecodableImage as error:
            raise UndecodableImage(f"{file.name}: {error}") from error
        decoded_s = time.perf_counter()
        pixels = resize_image(image, short_side=card.short_side, long_side=card.long_side)
        resized_s = time.perf_counter()
        seconds.setdefault("decode", []).append(decoded_s - begun_s)
        seconds.setdefault("preprocess", []).append(resized_s - decoded_s)
        yield Sample(pixels, image.size_hw, query)


def _batches(samples: Iterable[Sample], batch_size: int) -> Iterator[list[Sample]]:
    """The samples in order; a batch ends where the padded size changes."""
    batch: list[Sample] = []
    for sample in samples:
        if batch and (len(batch) == batch_size or sample.padded_size_hw != batch[0].padded_size_hw):
            yield batch
            batch = []
        batch.append(sample)
    yield batch


def _encode(model: str, prediction: Prediction) -> float:
    begun_s = time.perf_counter()
    for instance in prediction.instances:
        for name, map_ in instance.maps.items():
            encoded = encode_map(
                name,
                map_,
                model=model,
                region_xywh=instance.region_xywh,
                scores=(instance.score,),
            )
            join(base64_of(encoded.chunks))
    return time.perf_counter() - begun_s
