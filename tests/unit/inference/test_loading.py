import numpy as np
import pytest
import torch

from model_store.catalogue import load_catalogue
from model_store.errors import CheckpointRejected
from service.inference.loading import build_predictor, parameter_shapes, served_configuration

CATALOGUE = load_catalogue()
DEMO = CATALOGUE["demo"]


def test_arrays_without_use_are_passed_over_and_named() -> None:
    arrays = {
        name: np.zeros(shape, np.float32)
        for name, shape in parameter_shapes(DEMO.architecture).items()
    }
    arrays["pixel_mean"] = np.array([103.5, 116.5, 123.5], np.float32).reshape(3, 1, 1)
    arrays |= served_configuration()
    _, unused = build_predictor(DEMO, arrays, torch.device("cpu"), torch.float32)
    assert set(unused) == served_configuration().keys()


ANCHORS = "proposal_generator.anchor_generator.cell_anchors"


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "pixel_std",
            [[[57.375]], [[57.12]], [[58.395]]],
            r"pixel_std is \[57\.375, 57\.12, 58\.395\] in the file, and \[1, 1, 1\] would be",
        ),
        (
            "pixel_mean",
            [123.675, 116.28, 103.53],
            r"pixel_mean is \[123\.675, .* and \[103\.53, 116\.28, 123\.675\] would be served",
        ),
        ("pixel_mean", [0.5], r"pixel_mean is \[0\.5\] in the file"),
        ("pixel_std", [np.nan] * 3, r"pixel_std is \[nan, nan, nan\] in the file"),
        (
            f"{ANCHORS}.0",
            [[-8, -8, 8, 8]] * 3,
            r"cell_anchors\.0 is \[-8, .* and \[-22\.627, -11\.314",
        ),
        (f"{ANCHORS}.0", [[-8, -8, 8, 8]] * 6, r"cell_anchors\.0 is \[.*, \.\.\.\] in the file"),
        (
            f"{ANCHORS}.5",
            [[-8, -8, 8, 8]] * 3,
            r"cell_anchors\.5 is .* and nothing would be served",
        ),
    ],
)
def test_a_configuration_that_leaves_no_trace_in_shapes_is_compared(
    name: str, values: object, message: str
) -> None:
    arrays = {
        name: np.zeros(shape, np.float32)
        for name, shape in parameter_shapes(DEMO.architecture).items()
    }
    arrays[name] = np.array(values, np.float32)
    with pytest.raises(CheckpointRejected, match=message):
        build_predictor(DEMO, arrays, torch.device("cpu"), torch.float32)


def test_arrays_of_another_architecture_are_refused() -> None:
    other = CATALOGUE["R_50_FPN_s1x_legacy"].architecture
    arrays = {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(other).items()}
    with pytest.raises(CheckpointRejected, match="decoder"):
        build_predictor(DEMO, arrays, torch.device("cpu"), torch.float32)
