import pytest
import torch
from torchvision.ops import roi_align

from model_store.catalogue import Pooler
from service.network.roi_align import RoIPooler, pyramid_levels


def test_a_box_is_read_from_the_level_that_suits_its_size() -> None:
    sides = torch.tensor([1.0, 111.0, 112.0, 223.0, 224.0, 447.0, 448.0, 5000.0])
    boxes = torch.stack((torch.zeros(8), torch.zeros(8), sides, sides), dim=1)
    assert pyramid_levels(boxes).tolist() == [2, 2, 3, 3, 4, 4, 5, 5]


def test_each_box_reads_its_own_image_and_level_in_the_order_given() -> None:
    # Every level of every image is one number, so that what was read tells where from.
    levels = [
        torch.tensor([level, 10.0 + level]).reshape(2, 1, 1, 1).expand(2, 1, 64, 64).contiguous()
        for level in (2.0, 3.0, 4.0, 5.0)
    ]
    rois = torch.tensor(
        [[1, 0, 0, 224, 224], [0, 8, 8, 16, 16], [1, 0, 0, 600, 600], [0, 0, 0, 120, 120.0]]
    )
    pooled = RoIPooler(Pooler(resolution=7))(levels, rois)
    assert pooled.shape == (4, 1, 7, 7)
    assert pooled.mean(dim=(1, 2, 3)).tolist() == [14.0, 2.0, 15.0, 3.0]


def test_no_boxes_read_nothing() -> None:
    pooled = RoIPooler(Pooler(resolution=28))([torch.zeros(1, 6, 8, 8)], torch.zeros(0, 5))
    assert pooled.shape == (0, 6, 28, 28)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_boxes_are_read_as_torchvision_reads_them(sampling_ratio: int, aligned: bool) -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 5, 40, 60)
    corners = torch.rand(200, 2) * torch.tensor([260.0, 180.0]) - 20
    sizes = torch.rand(200, 2) ** 4 * 400
    images = torch.randint(3, (200, 1)).float()
    # Some lie outside the map in part or wholly, some have nearly no inside.
    rois = torch.cat((images, corners, corners + sizes), dim=1)
    pooled = RoIPooler(Pooler(7, sampling_ratio, aligned))([features], rois)
    expected = roi_align(features, rois, 7, 0.25, sampling_ratio, aligned)
    torch.testing.assert_close(pooled, expected)


def test_half_precision_features_are_read_at_exact_places() -> None:
    features = torch.rand(1, 2, 300, 300)
    roi = torch.tensor([[0, 1001.3, 1002.7, 1100.9, 1190.1]])
    pooler = RoIPooler(Pooler(resolution=14))
    half = pooler([features.bfloat16()], roi)
    assert half.dtype == torch.bfloat16
    # The weights are rounded as the features are, to eight bits.
    exact = pooler([features.bfloat16().float()], roi)
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=4 * 2**-8)
