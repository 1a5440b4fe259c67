"""The kernel against the plain PyTorch of chart_maps.py."""

import pytest
import torch

from service.datatypes import Output, RegionXYWH
from service.inference.chart_maps import ChartMaps
from service.inference.map_buffer import Chunk, MapBuffer
from service.inference.regions import num_pixels
from service.network.densepose_head import HeadOutput
from tests.unit.kernel_device import DEVICE, NO_TRITON

chart_kernel = pytest.importorskip("service.inference.chart_kernel", reason=NO_TRITON)

OUTPUTS = frozenset(
    {Output.IUV, Output.IUV16, Output.UV, Output.LABELS, Output.COARSE, Output.MASK}
)
SIDE = 8
NUM_FIELDS = {"fine_segm": 25, "u": 25, "v": 25}
CPU = torch.device("cpu")


def a_head(values: torch.Tensor, num_coarse: int = 2) -> HeadOutput:
    channels, end = {}, 0
    for field, count in {"coarse_segm": num_coarse, **NUM_FIELDS}.items():
        channels[field] = slice(end, end + count)
        end += count
    assert values.shape[1] == end
    return HeadOutput(values.contiguous(memory_format=torch.channels_last), channels)


def paint(
    raw: HeadOutput, regions: list[RegionXYWH], outputs: frozenset[Output] = OUTPUTS
) -> tuple[MapBuffer, MapBuffer]:
    """What plain PyTorch and what the kernel paint, with a place before theirs."""
    charts = ChartMaps(())
    before = 5
    layout = charts.layout(outputs, before + num_pixels(regions), len(regions))
    chunk = Chunk(regions, [None] * len(regions), 0, before, max_tile_pixels=2**15)
    expected, painted = MapBuffer(layout, CPU), MapBuffer(layout, DEVICE)
    for maps in (expected, painted):
        for output in outputs:
            maps[output].fill_(1)
    charts.paint(raw, chunk, expected)
    chart_kernel.paint_charts(HeadOutput(raw.values_RCSS.to(DEVICE), raw.channels), chunk, painted)
    return expected, painted


@pytest.mark.parametrize("num_coarse", [2, 15])
def test_the_kernel_paints_the_same_to_the_bit_where_nothing_is_rounded(num_coarse: int) -> None:
    torch.manual_seed(num_coarse)
    # Sixteenths, a quarter of them doubled, and sizes by which all weights are eighths: exact sums,
    # and many ties.
    values = torch.randint(-8, 24, (3, num_coarse + 75, SIDE, SIDE)) / 16
    values[:, num_coarse + 3] = values[:, num_coarse + 7]
    values[:, 1] = values[:, 0]
    values[:, 1, :5] += 0.5
    regions = [(3, 4, 16, 8), (0, 0, 4, 32), (9, 9, 1, 2)]
    expected, painted = paint(a_head(values, num_coarse), regions)
    is_part = expected[Output.LABELS][5:] > 0
    assert 0.2 < is_part.float().mean() < 1
    for output in OUTPUTS:
        assert torch.equal(painted[output].cpu(), expected[output]), output


def test_the_kernel_paints_the_same_in_regions_of_every_size() -> None:
    torch.manual_seed(0)
    regions = [(3, 4, 13, 9), (0, 0, 5, 27), (9, 9, 1, 1), (1, 1, 11, 3)]
    # Logits are far apart, so that no rounding makes another label of them.
    logits = torch.stack([torch.randperm(27) for _ in range(4 * SIDE**2)]).reshape(
        4, SIDE, SIDE, 27
    )
    values = torch.cat((logits.permute(0, 3, 1, 2) ** 3.0, torch.rand(4, 50, SIDE, SIDE)), dim=1)
    expected, painted = paint(a_head(values), regions)
    for output in (Output.LABELS, Output.COARSE, Output.MASK):
        assert torch.equal(painted[output].cpu(), expected[output]), output
    torch.testing.assert_close(painted[Output.UV].cpu(), expected[Output.UV])
    for output in (Output.IUV, Output.IUV16):
        # At the edge of a step, where the sums are rounded otherwise.
        difference = painted[output].cpu().int() - expected[output].int()
        assert difference.abs().max() <= 1
        assert (difference != 0).float().mean() < 0.01


def test_only_what_is_asked_for_is_read() -> None:
    torch.manual_seed(0)
    head = a_head(torch.randn(1, 77, SIDE, SIDE))
    coarse = HeadOutput(
        head.values_RCSS[:, :2].contiguous(memory_format=torch.channels_last),
        {"coarse_segm": slice(0, 2)},
    )
    for raw, output in ((coarse, Output.COARSE), (head, Output.IUV)):
        expected, painted = paint(raw, [(0, 0, 8, 8)], frozenset({output}))
        assert torch.equal(painted[output].cpu(), expected[output])
