import pytest
import torch

from service.network.faster_rcnn import suppress
from tests.unit.kernel_device import DEVICE, NO_TRITON

nms_kernel = pytest.importorskip("service.network.nms_kernel", reason=NO_TRITON)


@pytest.mark.parametrize("max_iou", [0.5, 0.7])
def test_the_kernel_keeps_the_same_boxes(max_iou: float) -> None:
    torch.manual_seed(0)
    corners = torch.rand(3, 150, 2) * 100
    boxes = torch.cat((corners, corners + torch.rand(3, 150, 2) * 90), dim=-1)
    # Doubles, and boxes that overlap by exactly the limit.
    boxes[:, 40:50] = boxes[:, 30:40]
    boxes[0, :3] = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 7]])
    is_box = torch.rand(3, 150) > 0.1
    expected = suppress(boxes, is_box, max_iou)
    assert 30 < expected.sum() < is_box.sum() - 20
    kept = nms_kernel.suppress_on_device(boxes.to(DEVICE), is_box.to(DEVICE), max_iou)
    assert torch.equal(kept.cpu(), expected)


def test_nothing_is_kept_of_nothing() -> None:
    for shape in ((0, 3), (2, 0)):
        boxes, is_box = torch.zeros(*shape, 4), torch.zeros(shape, dtype=torch.bool)
        assert (
            nms_kernel.suppress_on_device(boxes.to(DEVICE), is_box.to(DEVICE), 0.5).shape == shape
        )
