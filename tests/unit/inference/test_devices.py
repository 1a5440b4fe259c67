import pytest
import torch

from service.errors import DeviceUnavailable
from service.inference.devices import find_device


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(DeviceUnavailable, match="cuda:99"):
        find_device("cuda:99")


def test_the_cpu_is_always_there_and_float32_is_exact() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
