"""The whole predictor and the head's raw outputs against what detectron2 computed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage

from load_tests.stand_in_weights import DATA, PROMPTED, as_caffe2, build_arrays, read_spec
from model_store.caffe2_names import convert_blobs
from model_store.catalogue import ModelCard, load_catalogue
from service.datatypes import Image, Instance, Output, Prediction, Query, Sample
from service.imaging.pictures import resize_image
from service.inference.detection import find_boxes
from service.inference.loading import build_predictor
from service.inference.predictor import Predictor
from service.inference.steps import stack_samples
from service.network.rcnn import as_rois
from tests.parity.conftest import Worst

# What is held to the reference's bounds; `make parity` shows how far below them we are. They are
# loose for rounding (a label at a tie, a coordinate at the edge of a step) and tight for anything
# that would be computed differently.
MAX_BOX_DIFFERENCE = 0.02  # pixels
MAX_SCORE_DIFFERENCE = 5e-5
MAX_RAW_DIFFERENCE = 1e-3  # of the field's largest magnitude
MIN_LABEL_AGREEMENT = 0.995
MIN_MASK_IOU = 0.999
MAX_DIFFERENT_PIXELS = 2  # where shares say nothing: fewer than MIN_PIXELS are on the body
MIN_PIXELS = 1000
MIN_UV_AGREEMENT = 0.999  # within one step of 255
MAX_CONFIDENCE_DIFFERENCE = 1e-3  # of the field's largest magnitude
MAX_CONFIDENCE_DIFFERENCE_IN_FLOAT16 = 2e-3  # where the reference is stored so
SHORT_SIDE, LONG_SIDE = 320, 533

# The rows of every commit; the others' command is `make parity`.
QUICK = {
    "R_50_FPN_s1x_legacy",
    "R_50_FPN_s1x",
    "R_101_FPN_s1x",
    "R_50_FPN_DL_s1x",
    "R_50_FPN_WC1_s1x",
    "R_50_FPN_DL_WC2M_s1x",
    "R_50_FPN_DL_WC1M_3x_Atop10P_CA_B_uniform",
    "ResNet50_FPN_s1x-e2e",
    "cse_R_50_FPN_s1x",
    "cse_R_50_FPN_DL_soft_s1x",
    "cse_R_50_FPN_soft_animals_finetune_4k",
    "cse_R_50_FPN_soft_animals_CA_finetune_4k",
}
CARDS = {card.id: card for card in load_catalogue().values() if card.group != "demo"}
DETECTIONS = ("figures_2", "figure_1")
# The very objects, by which pytest knows that tests share a fixture.
CASES = [(card, picture) for card in CARDS.values() for picture in (*DETECTIONS, PROMPTED)]


def on_cases(
    suits: Callable[[ModelCard], object] = lambda card: True,
    pictures: Sequence[str] = (*DETECTIONS, PROMPTED),
) -> pytest.MarkDecorator:
    """Run a test on these models and pictures; the rows that are not quick are marked slow."""
    cases = [
        pytest.param(
            case,
            id=f"{case[0].id}-{case[1]}",
            marks=() if case[0].id in QUICK else pytest.mark.slow,
        )
        for case in CASES
        if suits(case[0]) and case[1] in pictures
    ]
    return pytest.mark.parametrize("case", cases, indirect=True, scope="module")


def is_chart(card: ModelCard) -> bool:
    return card.kind == "chart"


@dataclass(frozen=True)
class Case:
    """A model's answer for a picture, and detectron2's."""

    card: ModelCard
    predictor: Predictor
    device: torch.device
    sample: Sample
    prediction: Prediction
    reference: Mapping[str, NDArray[Any]]

    @property
    def described(self) -> list[Instance]:
        return list(self.prediction.instances[:3])


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, device: torch.device) -> Case:
    card, picture = request.param
    reference = np.load(DATA / "outputs" / f"{card.id}.{picture}.npz")
    predictor = stand_in_predictor(card, picture, device)
    sample = read_sample(card, picture, reference)
    (prediction,) = predictor.predict_batch([sample])
    assert isinstance(prediction, Prediction)
    return Case(card, predictor, device, sample, prediction, reference)


def stand_in_predictor(card: ModelCard, picture: str, device: torch.device) -> Predictor:
    arrays = build_arrays(card.id, picture)
    if read_spec(card.id)["format"] == "caffe2":
        arrays = convert_blobs(as_caffe2(card.id, arrays))
    return build_predictor(card, arrays, device, torch.float32)[0]


def read_sample(card: ModelCard, picture: str, reference: Mapping[str, NDArray[Any]]) -> Sample:
    file = "figures_2" if picture == PROMPTED else picture
    rgb = np.asarray(PillowImage.open(DATA / "pictures" / f"{file}.png").convert("RGB"))
    image = Image(np.ascontiguousarray(rgb[:, :, ::-1]))
    outputs = {Output.VERTICES, Output.MASK}
    if card.kind == "chart":
        outputs = {Output.IUV, Output.IUV16}
        outputs |= {Output.CONFIDENCE} if card.architecture.confidence_fields else set()
    # detectron2's own settings.
    query = Query(frozenset(outputs), min_score=0.05, max_instances=100)
    if picture == PROMPTED:
        boxes = tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in reference["prompt_boxes"].tolist())
        query = Query(frozenset(outputs), boxes_xyxy=boxes, class_ids=(0,) * len(boxes))
    pixels = resize_image(image, short_side=SHORT_SIDE, long_side=LONG_SIDE)
    return Sample(pixels, image.size_hw, query)


@on_cases(pictures=DETECTIONS)
def test_the_resized_picture_is_detectron2_s(case: Case) -> None:
    pixels = case.sample.pixels_hw3.transpose(2, 0, 1)
    assert pixels.shape == tuple(case.reference["input_shape"])
    assert np.array_equal(pixels[:, ::32, ::32], case.reference["input_sample"])


@on_cases()
def test_the_same_boxes_are_found_with_the_same_scores(case: Case, worst: Worst) -> None:
    instances = case.prediction.instances
    assert len(instances) == len(case.reference["boxes"])
    boxes = np.array([instance.box_xyxy for instance in instances])
    difference = np.abs(boxes - case.reference["boxes"]).max()
    assert worst.at_most("box, pixels", difference) <= MAX_BOX_DIFFERENCE
    if "scores" in case.reference:
        scores = np.array([instance.score for instance in instances])
        difference = np.abs(scores - case.reference["scores"]).max()
        assert worst.at_most("score", difference) <= MAX_SCORE_DIFFERENCE
        class_ids = [instance.class_id for instance in instances]
        assert class_ids == case.reference["classes"].tolist()


@on_cases(pictures=DETECTIONS)
def test_the_head_s_raw_outputs_are_the_same(case: Case, worst: Worst) -> None:
    names = [name for name in case.reference if name.startswith("raw0_")]
    network = case.predictor._network
    with torch.inference_mode():
        images = stack_samples([case.sample], case.device, torch.float32)
        pyramid = network.extract(images)
        (found,) = find_boxes(network, pyramid, [case.sample])
        rois = as_rois({0: found.network_boxes_B4[:1]}).to(case.device)
        fields = [name.removeprefix("raw0_") for name in names]
        raw = network.describe(network.fuse(pyramid), rois, fields)
    for name, field in zip(names, fields, strict=True):
        expected = case.reference[name]
        difference = np.abs(raw[field][0, :, ::8, ::8].cpu().numpy() - expected).max()
        share = difference / np.abs(expected).max()
        assert worst.at_most("raw output, share of the largest", share) <= MAX_RAW_DIFFERENCE, field


@on_cases(is_chart)
def test_labels_and_coordinates_are_the_same(case: Case, worst: Worst) -> None:
    ours = [instance.maps["iuv"].samples.transpose(2, 0, 1) for instance in case.described]
    theirs = [case.reference[f"inst{index}_iuv"] for index in range(len(ours))]
    assert [iuv.shape for iuv in ours] == [iuv.shape for iuv in theirs]
    our_iuv = np.concatenate([iuv.reshape(3, -1) for iuv in ours], axis=1).astype(int)
    their_iuv = np.concatenate([iuv.reshape(3, -1) for iuv in theirs], axis=1).astype(int)
    assert_masks_agree(our_iuv[0] > 0, their_iuv[0] > 0, worst)
    union = (our_iuv[0] > 0) | (their_iuv[0] > 0)
    agreeing = our_iuv[0] == their_iuv[0]
    assert_pixels_agree("labels that differ, share", agreeing[union], MIN_LABEL_AGREEMENT, worst)
    body = union & agreeing
    is_close = (np.abs(our_iuv[1:] - their_iuv[1:])[:, body] <= 1).all(axis=0)
    assert_pixels_agree("U, V off by more than 1/255, share", is_close, MIN_UV_AGREEMENT, worst)


@on_cases(is_chart)
def test_fine_coordinates_round_to_where_the_coarse_ones_were_cut(case: Case) -> None:
    for instance in case.described:
        coarse, fine = instance.maps["iuv"].samples, instance.maps["iuv16"].samples
        assert np.array_equal(coarse[..., 0], fine[..., 0])
        value = fine[..., 1:] / 65535
        assert (np.abs(value * 255 - coarse[..., 1:] - 0.5) <= 0.5 + 255 / 65535).all()


@on_cases(lambda card: card.architecture.confidence_fields)
def test_confidences_are_the_same(case: Case, worst: Worst) -> None:
    fields = case.card.architecture.confidence_fields
    instance = case.prediction.instances[0]
    is_body = instance.maps["iuv"].samples[..., 0]
    is_body = (is_body == case.reference["inst0_iuv"][0]) & (is_body > 0)
    for field in fields:
        expected = case.reference[f"inst0_{field}"]
        bound = MAX_CONFIDENCE_DIFFERENCE
        step = 4
        if expected.dtype == np.float16:
            bound, step = MAX_CONFIDENCE_DIFFERENCE_IN_FLOAT16, 1
        confidence = instance.maps[f"confidence.{field}"]
        assert confidence.scale is not None
        assert confidence.offset is not None
        values = confidence.offset + confidence.scale * confidence.samples.astype(np.float64)
        body = is_body[::step, ::step]
        difference = np.abs(values[::step, ::step] - expected)[body].max(initial=0)
        largest = np.abs(expected.astype(np.float64)).max()
        if not largest:  # nothing of the instance is body
            assert not confidence.samples.any()
            continue
        share = difference / largest
        assert worst.at_most(f"confidence in {expected.dtype}, share", share) <= bound, field


@on_cases(lambda card: card.architecture.uv_confidence)
def test_derived_deviations_follow_from_the_confidences(case: Case) -> None:
    fields = case.card.architecture.confidence_fields

    def values(name: str) -> NDArray[np.float64]:
        confidence = instance.maps[f"confidence.{name}"]
        return (confidence.offset or 0) + (confidence.scale or 0) * confidence.samples.astype(float)

    for instance in case.described:
        is_body = instance.maps["iuv"].samples[..., 0] > 0
        for axis in ("u", "v"):
            kappa = values(f"kappa_{axis}") if f"kappa_{axis}" in fields else 0.0
            expected = np.sqrt(np.logaddexp(0, values("sigma_2")) + 0.01 + kappa**2)
            difference = np.abs(values(f"{axis}_std") - expected)[is_body].max(initial=0)
            # Each quantity is rounded to 1/65535 of its range.
            assert difference <= 1e-3 * np.abs(expected).max()


@on_cases(lambda card: not is_chart(card))
def test_vertices_and_masks_are_the_same(case: Case, worst: Worst) -> None:
    ours = [instance.maps["vertices"].samples.ravel().astype(int) for instance in case.described]
    masks = [instance.maps["mask"].samples.ravel() for instance in case.described]
    assert [instance.mesh for instance in case.described] == [
        str(case.reference[f"inst{index}_mesh"]) for index in range(len(ours))
    ]
    our_vertex, our_mask = np.concatenate(ours), np.concatenate(masks) > 0
    their_vertex = np.concatenate(
        [case.reference[f"inst{index}_vertex"].ravel() for index in range(len(ours))]
    )
    their_mask = np.concatenate(
        [case.reference[f"inst{index}_mask"].ravel() for index in range(len(ours))]
    )
    assert np.array_equal(our_vertex > 0, our_mask)
    assert_masks_agree(our_mask, their_mask, worst)
    common = our_mask & their_mask
    agreeing = our_vertex[common] - 1 == their_vertex[common]
    assert_pixels_agree("vertices that differ, share", agreeing, MIN_LABEL_AGREEMENT, worst)


def assert_masks_agree(ours: NDArray[Any], theirs: NDArray[Any], worst: Worst) -> None:
    union = (ours | theirs).sum()
    if union < MIN_PIXELS:
        assert (ours != theirs).sum() <= MAX_DIFFERENT_PIXELS
        return
    difference = (ours != theirs).sum() / union
    assert worst.at_most("1 - mask IoU", difference) <= 1 - MIN_MASK_IOU


def assert_pixels_agree(
    name: str, agreeing: NDArray[np.bool_], min_share: float, worst: Worst
) -> None:
    if len(agreeing) < MIN_PIXELS:
        assert (~agreeing).sum() <= MAX_DIFFERENT_PIXELS
        return
    assert worst.at_most(name, (~agreeing).mean()) <= 1 - min_share
