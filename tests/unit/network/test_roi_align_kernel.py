import pytest
import torch

from model_store.catalogue import Pooler
from service.network.roi_align import RoIPooler, pyramid_levels
from tests.unit.kernel_device import DEVICE, NO_TRITON

roi_align_kernel = pytest.importorskip("service.network.roi_align_kernel", reason=NO_TRITON)

# One on each level, one without an inside, one in part and one wholly outside the picture.
ROIS = torch.tensor(
    [
        [1, 10.3, 20.7, 60.1, 90.2],
        [0, 5.5, 3.25, 170.9, 201.3],
        [1, 0.0, 0.0, 300.2, 250.9],
        [0, -30.0, 11.0, 620.0, 610.0],
        [0, 33.3, 44.4, 33.3, 44.4],
        [1, 500.0, 700.0, 560.0, 760.0],
    ]
)


def a_pyramid(dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(2, 6, 64 >> level, 96 >> level) for level in range(4)]
    return [torch.randn(shape).to(dtype, memory_format=torch.channels_last) for shape in shapes]


def align(levels: list[torch.Tensor], which: torch.Tensor, pooler: Pooler) -> torch.Tensor:
    pooled: torch.Tensor = roi_align_kernel.align_on_device(
        [level.to(DEVICE) for level in levels],
        ROIS.to(DEVICE),
        which.to(DEVICE),
        side=pooler.resolution,
        sampling_ratio=pooler.sampling_ratio,
        is_aligned=pooler.aligned,
    )
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    return pooled.cpu()


@pytest.mark.parametrize("pooler", [Pooler(3, 2, aligned=False), Pooler(3, 0, aligned=True)])
def test_the_kernel_reads_what_the_pooler_reads(pooler: Pooler) -> None:
    levels, which = a_pyramid(torch.float32), pyramid_levels(ROIS[:, 1:]) - 2
    assert set(which.tolist()) == {0, 1, 2, 3}
    expected = RoIPooler(pooler)(levels, ROIS)
    torch.testing.assert_close(align(levels, which, pooler), expected)


def test_the_one_map_of_a_decoder_is_read_by_boxes_of_every_size() -> None:
    pooler = Pooler(2)
    levels = a_pyramid(torch.float32)[:1]
    nothing = torch.zeros(len(ROIS), dtype=torch.int64)
    torch.testing.assert_close(align(levels, nothing, pooler), RoIPooler(pooler)(levels, ROIS))


def test_half_precision_is_added_up_in_float32() -> None:
    pooler = Pooler(2)
    levels = a_pyramid(torch.float16)[:1]
    nothing = torch.zeros(len(ROIS), dtype=torch.int64)
    exact = RoIPooler(pooler)([level.float() for level in levels], ROIS)
    # But for the last bit.
    pooled = align(levels, nothing, pooler)
    torch.testing.assert_close(pooled, exact.half(), rtol=2**-10, atol=0)
