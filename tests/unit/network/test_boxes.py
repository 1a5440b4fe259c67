import math

import torch

from service.network.boxes import MAX_LOG_SCALE, apply_deltas, are_boxes, clip, nms_by_group

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
    clipped = clip(torch.tensor([[-5.0, 3.0, 50.0, 99.0]]), (40, 30))
    assert clipped.tolist() == [[0.0, 3.0, 30.0, 40.0]]


def test_a_box_without_an_inside_or_a_number_is_none() -> None:
    nan = float("nan")
    boxes = torch.tensor(
        [[0.0, 0, 1, 1], [1, 0, 1, 1], [0, 2, 1, 1], [nan, 0, 1, 1], [0, 0, 1, nan]]
    )
    assert are_boxes(boxes).tolist() == [True, False, False, False, False]


def test_only_a_better_box_of_the_same_group_suppresses() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [50, 50, 60, 60]])
    scores = torch.tensor([0.5, 0.9, 0.8, 0.95])
    groups = torch.tensor([1, 1, 2, 2])
    assert nms_by_group(boxes, scores, groups, 0.5).tolist() == [3, 1, 2]


def test_nothing_is_kept_of_nothing() -> None:
    empty = torch.zeros(0)
    kept = nms_by_group(torch.zeros(0, 4), empty, empty.long(), 0.5)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64
