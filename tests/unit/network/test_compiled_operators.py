import subprocess
import sys

import pytest
import torch
from torchvision import ops

from service.network.compiled_operators import nms, roi_align


def test_neither_torchvision_s_networks_nor_pytorch_s_compiler_is_imported() -> None:
    code = (
        "import sys; from service.inference import loading; "
        "print([name for name in ('torchvision', 'torch._dynamo') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == "[]\n"


def test_nms_is_torchvision_s() -> None:
    torch.manual_seed(0)
    corners = torch.rand(200, 2) * 50
    boxes = torch.cat((corners, corners + torch.rand(200, 2) * 30), dim=1)
    scores = torch.rand(200)
    assert torch.equal(nms(boxes, scores, 0.5), ops.nms(boxes, scores, 0.5))


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_is_torchvision_s(sampling_ratio: int, aligned: bool) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 20, 30)
    rois = torch.tensor([[0, 1.0, 2.0, 90.0, 60.0], [1, 10.0, 3.0, 20.0, 50.0]])
    ours = roi_align(
        features, rois, 7, spatial_scale=0.25, sampling_ratio=sampling_ratio, aligned=aligned
    )
    theirs = ops.roi_align(features, rois, 7, 0.25, sampling_ratio, aligned)
    assert torch.equal(ours, theirs)
