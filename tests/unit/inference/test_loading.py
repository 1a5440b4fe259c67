import numpy as np
import pytest
import torch

from model_store.catalogue import load_catalogue
from model_store.errors import CheckpointRejected
from service.errors import DeviceUnavailable
from service.inference.loading import build_predictor, find_device, parameter_shapes

CATALOGUE = load_catalogue()
DEMO = CATALOGUE["demo"]


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(DeviceUnavailable, match="cuda:99"):
        find_device("cuda:99")


def test_the_cpu_is_always_there_and_float32_is_exact() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_arrays_without_use_are_passed_over_and_named() -> None:
    arrays = {
        name: np.zeros(shape, np.float32)
        for name, shape in parameter_shapes(DEMO.architecture).items()
    }
    arrays["pixel_mean"] = np.zeros((3, 1, 1), np.float32)
    _, unused = build_predictor(DEMO, arrays, torch.device("cpu"), torch.float32)
    assert unused == ("pixel_mean",)


def test_arrays_of_another_architecture_are_refused() -> None:
    other = CATALOGUE["R_50_FPN_s1x_legacy"].architecture
    arrays = {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(other).items()}
    with pytest.raises(CheckpointRejected, match="decoder"):
        build_predictor(DEMO, arrays, torch.device("cpu"), torch.float32)
