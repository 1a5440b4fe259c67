import math

import pytest
import torch

from service.network.backbone import STRIDES
from service.network.faster_rcnn import (
    ANCHOR_SIDES,
    MAX_LOG_SCALE,
    RegionProposalNetwork,
    apply_deltas,
    are_boxes,
    cell_anchors,
    clip,
    suppress,
)


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


UNIT = (1.0, 1.0, 1.0, 1.0)


def test_no_deltas_leave_a_box_where_it_is() -> None:
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    assert torch.equal(apply_deltas(torch.zeros(1, 1, 4), boxes, UNIT)[:, 0], boxes)


def test_deltas_move_by_the_box_s_size_and_scale_exponentially() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    deltas = torch.tensor([[[0.5, -0.25, math.log(2), math.log(0.5)]]])
    moved = apply_deltas(deltas, boxes, UNIT)[0, 0]
    # Centre 5, 10 moves by 5, -5; the size becomes 20 x 10.
    assert torch.allclose(moved, torch.tensor([0.0, 0.0, 20.0, 10.0]))


def test_weights_divide_the_deltas_of_every_class() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    deltas = torch.tensor([[[10.0, 0, 0, 0], [0, 10.0, 0, 0]]])
    moved = apply_deltas(deltas, boxes, (10.0, 5.0, 1.0, 1.0))[0]
    assert moved.tolist() == [[10.0, 0.0, 20.0, 10.0], [0.0, 20.0, 10.0, 30.0]]


def test_no_regression_scales_a_box_beyond_its_limit() -> None:
    boxes = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    moved = apply_deltas(torch.tensor([[[0, 0, 100.0, MAX_LOG_SCALE]]]), boxes, UNIT)[0, 0]
    assert math.isclose(moved[2] - moved[0], 1000, rel_tol=1e-5)
    assert math.isclose(moved[3] - moved[1], 1000, rel_tol=1e-5)


def test_half_precision_deltas_are_computed_in_float32() -> None:
    boxes = torch.tensor([[1000.25, 0.0, 1010.25, 10.0]])
    moved = apply_deltas(torch.zeros(1, 1, 4, dtype=torch.bfloat16), boxes, UNIT)
    assert moved.dtype == torch.float32
    assert torch.equal(moved[:, 0], boxes)


def test_clipping_keeps_what_is_inside_the_image() -> None:
    boxes = torch.tensor([[-5.0, 3.0, 50.0, 99.0]]).expand(2, 1, 4)
    clipped = clip(boxes, torch.tensor([[[40.0, 30.0]], [[50.0, 70.0]]]))
    assert clipped.tolist() == [[[0.0, 3.0, 30.0, 40.0]], [[0.0, 3.0, 50.0, 50.0]]]


def test_a_box_without_an_inside_or_a_number_is_none() -> None:
    nan = float("nan")
    boxes = torch.tensor(
        [[0.0, 0, 1, 1], [1, 0, 1, 1], [0, 2, 1, 1], [nan, 0, 1, 1], [0, 0, 1, nan]]
    )
    assert are_boxes(boxes).tolist() == [True, False, False, False, False]


def test_only_a_better_box_of_the_same_group_that_stays_itself_suppresses() -> None:
    large, upper, lower, far = [0.0, 0, 10, 10], [0.0, 0, 10, 6], [0.0, 4, 10, 10], [50.0, 0, 60, 9]
    boxes = torch.tensor([[upper, large, lower, far], [large, upper, lower, far]])
    is_box = torch.ones(2, 4, dtype=torch.bool)
    # Upper and lower overlap by a fifth of what both cover, and either by 0.6 with the large one.
    kept = suppress(boxes, is_box, 0.5)
    assert kept.tolist() == [[True, False, True, True], [True, False, False, True]]


def test_what_is_no_box_neither_stays_nor_suppresses() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8]]])
    is_box = torch.tensor([[False, True, True]])
    assert suppress(boxes, is_box, 0.5).tolist() == [[False, True, False]]


def test_nothing_is_kept_of_nothing() -> None:
    for shape in ((0, 3), (2, 0)):
        kept = suppress(torch.zeros(*shape, 4), torch.zeros(shape, dtype=torch.bool), 0.5)
        assert kept.shape == shape
