import pytest
import torch

from service.network.fpn import STRIDES
from service.network.rpn import ANCHOR_SIDES, RegionProposalNetwork, cell_anchors


@pytest.mark.parametrize("side", ANCHOR_SIDES)
def test_anchors_have_one_area_and_three_aspect_ratios(side: int) -> None:
    anchors = cell_anchors(side)
    widths, heights = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    assert torch.allclose(widths * heights, torch.full((3,), float(side**2)))
    assert torch.allclose(heights / widths, torch.tensor([0.5, 1.0, 2.0]))
    assert torch.allclose(anchors.reshape(3, 2, 2).sum(1), torch.zeros(3, 2), atol=1e-5)


def test_the_anchor_of_the_best_cell_becomes_the_best_proposal() -> None:
    network = RegionProposalNetwork(4)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    head = network.rpn_head
    with torch.no_grad():
        head.conv.weight[0, 0, 1, 1] = 1  # passes channel 0 on
        head.objectness_logits.weight[1, 0] = 1  # the square anchor
    size = 256
    pyramid = [torch.zeros(1, 4, size // stride, size // stride) for stride in STRIDES]
    row, column = 9, 5
    pyramid[1][0, 0, row, column] = 1
    with torch.inference_mode():
        proposals, is_proposal = network(pyramid, torch.tensor([[size, size]]).float())
    center = torch.tensor([column * 8.0, row * 8.0])
    assert is_proposal[0, 0]
    assert torch.equal(proposals[0, 0], torch.cat((center - 32, center + 32)).clamp(min=0))


def test_proposals_stay_inside_the_unpadded_image() -> None:
    torch.manual_seed(0)
    network = RegionProposalNetwork(4)
    pyramid = [torch.randn(2, 4, 256 // stride, 256 // stride) for stride in STRIDES]
    sizes = [(250, 200), (230, 256)]
    with torch.inference_mode():
        proposals, is_proposal = network(pyramid, torch.tensor(sizes).float())
    assert proposals.shape == (2, 1000, 4)
    for padded, is_some, (height, width) in zip(proposals, is_proposal, sizes, strict=True):
        # Those that are some stand first; nothing but 0 follows them.
        count = int(is_some.sum())
        assert is_some[:count].all()
        assert not padded[count:].any()
        boxes = padded[:count]
        assert len(boxes) > 0
        assert boxes.min() >= 0
        assert boxes[:, [0, 2]].max() <= width
        assert boxes[:, [1, 3]].max() <= height
