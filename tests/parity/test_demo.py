"""The demo model: equal to detectron2 on its pictures, and right about them."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from load_tests.stand_in_weights import DATA
from model_store.catalogue import load_catalogue
from model_store.checkpoint import read_checkpoint
from service.datatypes import Image, Output, Prediction, Query, Sample
from service.imaging.pictures import resize_image
from service.inference.loading import build_predictor
from service.inference.predictor import Predictor
from tests.parity.conftest import Worst
from tests.parity.test_detectron2 import (
    MAX_BOX_DIFFERENCE,
    MAX_SCORE_DIFFERENCE,
    MIN_LABEL_AGREEMENT,
    MIN_UV_AGREEMENT,
    assert_masks_agree,
    assert_pixels_agree,
)

PICTURES = sorted((DATA / "demo").glob("*fig.png"), key=lambda path: path.name)
CARD = load_catalogue()["demo"]


@pytest.fixture(scope="module")
def demo() -> Predictor:
    with resources.as_file(resources.files("model_store") / "demo.pkl") as path:
        arrays = read_checkpoint(path)
    return build_predictor(CARD, arrays, torch.device("cpu"), torch.float32)[0]


def predict(demo: Predictor, picture: Path, query: Query) -> Prediction:
    rgb = np.asarray(PillowImage.open(picture).convert("RGB"))
    image = Image(np.ascontiguousarray(rgb[:, :, ::-1]))
    pixels = resize_image(image, short_side=CARD.short_side, long_side=CARD.long_side)
    (prediction,) = demo.predict_batch([Sample(pixels, image.size_hw, query)])
    assert isinstance(prediction, Prediction)
    return prediction


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_the_answer_is_detectron2_s(demo: Predictor, picture: Path, worst: Worst) -> None:
    reference = np.load(picture.with_suffix(".npz"))
    query = Query(frozenset({Output.IUV}), min_score=0.05, max_instances=100)
    instances = predict(demo, picture, query).instances
    assert [instance.class_id for instance in instances] == reference["classes"].tolist()
    boxes = np.array([instance.box_xyxy for instance in instances])
    scores = np.array([instance.score for instance in instances])
    box_difference = np.abs(boxes - reference["boxes"]).max()
    assert worst.at_most("box, pixels", box_difference) <= MAX_BOX_DIFFERENCE
    score_difference = np.abs(scores - reference["scores"]).max()
    assert worst.at_most("score", score_difference) <= MAX_SCORE_DIFFERENCE
    described = [name for name in reference.files if name.startswith("inst")]
    assert len(described) == (scores >= 0.5).sum()
    ours = [instances[index].maps["iuv"].samples.reshape(-1, 3) for index in range(len(described))]
    theirs = [reference[f"inst{index}_iuv"].reshape(3, -1).T for index in range(len(described))]
    our_iuv, their_iuv = np.concatenate(ours).astype(int), np.concatenate(theirs).astype(int)
    assert_masks_agree(our_iuv[:, 0] > 0, their_iuv[:, 0] > 0, worst)
    union = (our_iuv[:, 0] > 0) | (their_iuv[:, 0] > 0)
    agreeing = our_iuv[:, 0] == their_iuv[:, 0]
    assert_pixels_agree("labels that differ, share", agreeing[union], MIN_LABEL_AGREEMENT, worst)
    is_close = (np.abs(our_iuv - their_iuv)[union & agreeing, 1:] <= 1).all(axis=1)
    assert_pixels_agree("U, V off by more than 1/255, share", is_close, MIN_UV_AGREEMENT, worst)


@pytest.mark.parametrize("stem", ["test1_1fig", "test2_1fig"])
def test_the_figure_of_a_one_figure_picture_is_found(demo: Predictor, stem: str) -> None:
    is_figure = np.asarray(PillowImage.open(DATA / "demo" / f"{stem}_inst_gt.png")) > 0
    rows, columns = np.nonzero(is_figure)
    truth = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    prediction = predict(demo, DATA / "demo" / f"{stem}.png", Query(frozenset()))
    assert max(iou(instance.box_xyxy, truth) for instance in prediction.instances) >= 0.5


def test_most_of_the_figure_carries_its_part(demo: Predictor) -> None:
    truth = np.asarray(PillowImage.open(DATA / "demo" / "test1_1fig_iuv_gt.png"))[..., 0]
    prediction = predict(demo, DATA / "demo" / "test1_1fig.png", Query(frozenset({Output.LABELS})))
    labels = np.zeros_like(truth)
    for instance in reversed(prediction.instances):  # the best on top
        x, y, width, height = instance.region_xywh
        samples = instance.maps["labels"].samples
        here = labels[y : y + height, x : x + width]
        here[samples > 0] = samples[samples > 0]
    assert (labels == truth)[truth > 0].mean() > 0.5


def iou(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    overlap = max(width, 0) * max(height, 0)
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (box, other)]
    return float(overlap / (sum(areas) - overlap))
