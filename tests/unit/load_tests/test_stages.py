import time

import pytest
import torch
from torch import nn

from load_tests.ceilings import Ceilings
from load_tests.stages import REST, Stages

CPU = torch.device("cpu")


class Slow(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return images


class Network(nn.Module):
    """Two of the stages that detectron2's and our network have, and arithmetic outside of both."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.proposal_generator = Slow()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.proposal_generator(self.backbone(images))
        return found.flatten(1) @ torch.ones(8 * 10 * 20, 5)


@pytest.fixture
def network() -> Network:
    return Network()


def test_work_is_counted_under_its_stage(network: Network) -> None:
    images = torch.randn(2, 3, 10, 20)
    with torch.inference_mode():
        work = Stages(network, CPU).count(lambda: network(images))
    convolution, product = work["backbone, FPN"], work[REST]
    assert convolution.flops == 2 * (2 * 10 * 20) * (3 * 3 * 3) * 8
    assert convolution.num_bytes == 4 * (images.numel() + 8 * 3 * 9 + 2 * 8 * 10 * 20)
    assert product.flops == 2 * 2 * (8 * 10 * 20) * 5
    assert "RPN" not in work


def test_time_is_that_of_the_stage_in_which_it_passed(network: Network) -> None:
    def step() -> dict[str, float]:
        network(torch.randn(1, 3, 10, 20))
        time.sleep(0.05)
        return {"maps": 0.02}

    stages = Stages(network, CPU)
    begun_s = time.perf_counter()
    stages.time(step)
    total_s = time.perf_counter() - begun_s
    assert stages.seconds["RPN"] >= 0.05
    assert stages.seconds[REST] >= 0.03
    assert sum(stages.seconds.values()) <= total_s


def test_the_floor_is_arithmetic_or_memory_whichever_takes_longer() -> None:
    ceilings = Ceilings(flops_per_s=100.0, bytes_per_s=10.0)
    assert ceilings.least_seconds(200.0, 10.0) == 2.0
    assert ceilings.least_seconds(200.0, 50.0) == 5.0
    assert ceilings.raised_by(Ceilings(50.0, 20.0)) == Ceilings(100.0, 20.0)
