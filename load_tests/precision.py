"""How far bf16 and fp16 are from fp32: every model, on the parity tests' pictures and stand-ins.

The boxes of the first columns are given, so that only the head and the pictures' features differ;
of the last ones they are found, and matched to those of fp32. The weights are random numbers: their
labels and vertices lie closer to ties than those of trained ones, so that trained ones agree more.

    python -m load_tests.precision [--device cpu] [--precisions bf16 fp16] [--models ID...]
        [--output docs/precision.md]
"""

import argparse
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage

from load_tests.stand_in_weights import DATA, PROMPTED, as_caffe2, build_arrays, read_spec
from model_store.caffe2_names import convert_blobs
from model_store.catalogue import ModelCard, load_catalogue
from service.datatypes import Image, Instance, Output, Prediction, Query, Sample
from service.imaging.pictures import resize_image
from service.inference.devices import DTYPES, find_device
from service.inference.loading import build_predictor
from service.inference.predictor import Predictor

# As in the parity tests, whose given boxes and background biases suit these pictures and sizes.
PICTURES = ("figures_2", "figure_1")
SHORT_SIDE, LONG_SIDE = 320, 533
MIN_SCORE = 0.05
MAX_INSTANCES = 100
# Two detections of one class are the same where they overlap by this much. Less, and they are two
# neighbours, either of which suppresses the other: which one stays hangs on the last bits.
MIN_IOU = 0.9
FIGURES = {
    "labels": ("labels, equal", "{:.2%}"),
    "mask_iou": ("mask IoU", "{:.4f}"),
    "uv_mean": ("U, V, mean /255", "{:.2f}"),
    "uv_p99": ("U, V, p99 /255", "{:.1f}"),
    "confidences": ("confidences, mean share of range", "{:.2%}"),
    "vertices": ("vertices, equal", "{:.2%}"),
    "found": ("found in fp32", "{}"),
    "matched": ("matched", "{}"),
    "score_median": ("score, median", "{:.4f}"),
    "score_max": ("score, largest", "{:.4f}"),
    "box_median": ("box, median px", "{:.2f}"),
    "box_max": ("box, largest px", "{:.1f}"),
}
ABOUT = """# How far bf16 and fp16 are from fp32

`python -m load_tests.precision --output docs/precision.md` makes this page. Pictures of 427 x 320
and 320 x 480 pixels as the network sees them; {machine}.

Up to the vertices, boxes are given: labels and vertices are the shares of the pixels on the body
that are equal, U and V differ by so many 255ths where the labels are equal. After them, boxes are
found, on two pictures, and matched where they overlap by 0.9: what is not matched is mostly one of
two neighbours that suppress each other. The weights are the parity tests' random ones, whose labels
and vertices lie closer to ties than those of a trained model.
"""


@dataclass(frozen=True, slots=True)
class Distance:
    """What one model in one precision says otherwise than in fp32; None where it has no such map.

    Shares are 0..1, U and V in 255ths, boxes in the picture's pixels; scores and boxes of the
    detections that are matched.
    """

    mask_iou: float
    labels: float | None
    uv_mean: float | None
    uv_p99: float | None
    confidences: float | None
    vertices: float | None
    found: int
    matched: int
    score_median: float
    score_max: float
    box_median: float
    box_max: float


def main() -> None:
    """Print a row as soon as it is known, and write the page at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    cards = {card.id: card for card in load_catalogue().values() if card.group != "demo"}
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp16"], choices=list(DTYPES))
    parser.add_argument("--models", nargs="+", default=list(cards), choices=list(cards))
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    device = find_device(chosen.device)
    rows: dict[str, dict[str, Distance]] = {name: {} for name in chosen.precisions}
    for model_id in chosen.models:
        for name, distance in measure(cards[model_id], chosen.precisions, device).items():
            rows[name][model_id] = distance
            print(name, model_id, *_cells(distance), sep=" | ", flush=True)
    if chosen.output:
        chosen.output.write_text(as_page(rows, device))


def measure(
    card: ModelCard, precisions: Iterable[str], device: torch.device
) -> dict[str, Distance]:
    """The distances of one model by precision."""
    names = ("fp32", *precisions)
    said: dict[str, list[Prediction]] = {name: [] for name in names}
    for picture in (PROMPTED, *PICTURES):
        sample = read_sample(card, picture)
        for name in names:
            said[name].append(_predict(stand_in(card, picture, device, name), sample))
    return {
        name: compare(said["fp32"], said[name], card.architecture.confidence_fields)
        for name in names[1:]
    }


def stand_in(card: ModelCard, picture: str, device: torch.device, precision: str) -> Predictor:
    """A predictor with the weights that stand in for the model's on this picture."""
    arrays = build_arrays(card.id, picture)
    if read_spec(card.id)["format"] == "caffe2":
        arrays = convert_blobs(as_caffe2(card.id, arrays))
    return build_predictor(card, dict(arrays), device, DTYPES[precision])[0]


def read_sample(card: ModelCard, picture: str) -> Sample:
    """A picture, or `PROMPTED` with its boxes, as the parity tests show it."""
    file = PICTURES[0] if picture == PROMPTED else picture
    rgb = np.asarray(PillowImage.open(DATA / "pictures" / f"{file}.png").convert("RGB"))
    image = Image(np.ascontiguousarray(rgb[:, :, ::-1]))
    query = Query(frozenset(), min_score=MIN_SCORE, max_instances=MAX_INSTANCES)
    if picture == PROMPTED:
        outputs = {Output.VERTICES, Output.MASK}
        if card.kind == "chart":
            outputs = {Output.IUV16, Output.MASK}
        if card.architecture.confidence_fields:
            outputs.add(Output.CONFIDENCE)
        given = np.load(DATA / "outputs" / f"{card.id}.{PROMPTED}.npz")["prompt_boxes"].tolist()
        boxes = tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in given)
        query = Query(frozenset(outputs), boxes_xyxy=boxes, class_ids=(0,) * len(boxes))
    pixels = resize_image(image, short_side=SHORT_SIDE, long_side=LONG_SIDE)
    return Sample(pixels, image.size_hw, query)


def compare(
    exact: Sequence[Prediction], rounded: Sequence[Prediction], confidence_fields: Sequence[str]
) -> Distance:
    """The distance of two lists of predictions: of given boxes first, then of pictures."""
    is_chart = "iuv16" in exact[0].instances[0].maps
    ours, theirs = (_pixels(prediction, "mask") > 0 for prediction in (exact[0], rounded[0]))
    labels = uv_mean = uv_p99 = vertices = None
    if is_chart:
        iuv, other = (_pixels(prediction, "iuv16") for prediction in (exact[0], rounded[0]))
        is_equal = iuv[:, 0] == other[:, 0]
        labels = float(is_equal[ours | theirs].mean())
        both = is_equal & ours & theirs
        steps = np.abs(iuv[both, 1:].astype(float) - other[both, 1:]) * (255 / 65535)
        uv_mean, uv_p99 = float(steps.mean()), float(np.percentile(steps, 99))
    else:
        vertex, other = (_pixels(prediction, "vertices") for prediction in (exact[0], rounded[0]))
        vertices = float((vertex == other)[ours & theirs].mean())
    pairs, found = [], 0
    for one, another in zip(exact[1:], rounded[1:], strict=True):
        pairs += match(one.instances, another.instances)
        found += len(one.instances)
    boxes = np.array([np.abs(np.subtract(a.box_xyxy, b.box_xyxy)).max() for a, b in pairs])
    scores = np.array([abs(a.score - b.score) for a, b in pairs])
    return Distance(
        mask_iou=float((ours & theirs).sum() / (ours | theirs).sum()),
        labels=labels,
        uv_mean=uv_mean,
        uv_p99=uv_p99,
        confidences=_confidence_distance(exact[0], rounded[0], confidence_fields),
        vertices=vertices,
        found=found,
        matched=len(pairs),
        score_median=float(np.median(scores)) if pairs else 0.0,
        score_max=float(scores.max(initial=0)),
        box_median=float(np.median(boxes)) if pairs else 0.0,
        box_max=float(boxes.max(initial=0)),
    )


def match(
    exact: Sequence[Instance], rounded: Sequence[Instance]
) -> list[tuple[Instance, Instance]]:
    """Each instance with the one of its class that overlaps it most, the best first, none twice."""
    pairs, free = [], list(rounded)
    for one in exact:
        same_class = [other for other in free if other.class_id == one.class_id]
        closest = max(same_class, key=lambda other: _iou(one, other), default=None)
        if closest is not None and _iou(one, closest) >= MIN_IOU:
            free.remove(closest)
            pairs.append((one, closest))
    return pairs


def as_page(rows: Mapping[str, Mapping[str, Distance]], device: torch.device) -> str:
    """The page of these distances, by precision and model."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    machine = f"on {where}, torch {torch.__version__}"
    text = ABOUT.format(machine=machine)
    for precision, distances in rows.items():
        titles = [FIGURES[field.name][0] for field in fields(Distance)]
        text += f"\n## {precision}\n\n| model | {' | '.join(titles)} |\n"
        text += "|---" * (len(titles) + 1) + "|\n"
        for model_id, distance in distances.items():
            text += f"| `{model_id}` | {' | '.join(_cells(distance))} |\n"
    return text


def _cells(distance: Distance) -> list[str]:
    values = [(field.name, getattr(distance, field.name)) for field in fields(Distance)]
    return ["" if value is None else FIGURES[name][1].format(value) for name, value in values]


def _predict(predictor: Predictor, sample: Sample) -> Prediction:
    (prediction,) = predictor.predict_batch([sample])
    assert isinstance(prediction, Prediction)
    return prediction


def _pixels(prediction: Prediction, name: str) -> NDArray[Any]:
    """All samples of all instances, one pixel after the other."""
    arrays = [instance.maps[name].samples for instance in prediction.instances]
    return np.concatenate([array.reshape(-1, *array.shape[2:]) for array in arrays])


def _confidence_distance(
    exact: Prediction, rounded: Prediction, confidence_fields: Sequence[str]
) -> float | None:
    """The largest among the fields of the mean difference over the field's range on the body."""
    shares = []
    for name in confidence_fields:
        differences, values = [], []
        for one, other in zip(exact.instances, rounded.instances, strict=True):
            body = (one.maps["mask"].samples > 0) & (other.maps["mask"].samples > 0)
            ours, theirs = (
                (maps.offset or 0.0) + (maps.scale or 0.0) * maps.samples[body].astype(float)
                for maps in (instance.maps[f"confidence.{name}"] for instance in (one, other))
            )
            differences.append(np.abs(ours - theirs))
            values.append(ours)
        spread = np.ptp(np.concatenate(values))
        shares.append(float(np.concatenate(differences).mean() / spread))
    return max(shares, default=None)


def _iou(one: Instance, other: Instance) -> float:
    a, b = one.box_xyxy, other.box_xyxy
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0.0) * max(height, 0.0)
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b)]
    return overlap / (sum(areas) - overlap)


if __name__ == "__main__":
    main()
