"""The kernel against the plain PyTorch of embedding_maps.py."""

import pytest
import torch
from torch.nn import functional as F

from service.datatypes import Output
from service.inference.embedding_maps import EmbeddingMaps, colour_vertices
from service.inference.map_buffer import Chunk, MapBuffer
from service.inference.regions import num_pixels
from service.network.densepose_head import HeadOutput
from tests.unit.kernel_device import DEVICE, NO_TRITON

vertex_kernel = pytest.importorskip("service.inference.vertex_kernel", reason=NO_TRITON)

OUTPUTS = frozenset({Output.VERTICES, Output.VERTEX_COLOURS, Output.COARSE, Output.MASK})
SIDE = 8
REGIONS = [(3, 4, 16, 8), (0, 0, 4, 32), (9, 9, 1, 2), (0, 0, 13, 11)]
MESHES = ["cat", "dog", "cat", "dog"]
CHANNELS = {"coarse_segm": slice(0, 2), "embedding": slice(2, 18)}
CPU = torch.device("cpu")


def paint(
    values: torch.Tensor, vertices: dict[str, torch.Tensor], outputs: frozenset[Output] = OUTPUTS
) -> tuple[MapBuffer, MapBuffer]:
    """What plain PyTorch and what the kernel paint, with a place before theirs."""
    values = values.contiguous(memory_format=torch.channels_last)
    maps_of = EmbeddingMaps(vertices)
    before = 5
    layout = maps_of.layout(outputs, before + num_pixels(REGIONS), len(REGIONS))
    chunk = Chunk(REGIONS, MESHES, 0, before, max_tile_pixels=2**15)
    expected, painted = MapBuffer(layout, CPU), MapBuffer(layout, DEVICE)
    for maps in (expected, painted):
        for output in outputs:
            maps[output].fill_(1)
    maps_of.paint(HeadOutput(values, CHANNELS), chunk, expected)
    on_device = {mesh: vertices_VD.to(DEVICE) for mesh, vertices_VD in vertices.items()}
    colours = {mesh: colour_vertices(vertices_VD) for mesh, vertices_VD in on_device.items()}
    table = vertex_kernel.join_vertices(on_device, colours)
    vertex_kernel.paint_vertices(HeadOutput(values.to(DEVICE), CHANNELS), chunk, painted, table)
    return expected, painted


def test_the_kernel_paints_the_same_to_the_bit_where_nothing_is_rounded() -> None:
    torch.manual_seed(0)
    values = torch.randint(-8, 8, (4, 18, SIDE, SIDE)) / 4
    vertices = {
        mesh: torch.randint(-2, 3, (count, 16)) / 2.0 for mesh, count in (("cat", 150), ("dog", 64))
    }
    # Every vertex has a twin, of which the first one is the answer.
    vertices["cat"][75:] = vertices["cat"][:75]
    # Dyadic sizes alone: REGIONS' last one is not.
    values[3] = 0
    expected, painted = paint(values, vertices)
    assert 0.2 < (expected[Output.MASK][5:] > 0).float().mean() < 0.8
    assert expected[Output.VERTICES].int().max() <= 75
    for output in OUTPUTS:
        assert torch.equal(painted[output].cpu(), expected[output]), output


def test_the_kernel_finds_the_same_vertices_in_regions_of_every_size() -> None:
    torch.manual_seed(1)
    values = torch.randn(4, 18, SIDE, SIDE)
    vertices = {
        mesh: F.normalize(torch.randn(count, 16), dim=1)
        for mesh, count in (("cat", 70), ("dog", 9))
    }
    expected, painted = paint(values, vertices)
    for output in (Output.MASK, Output.COARSE, Output.VERTICES):
        assert torch.equal(painted[output].cpu(), expected[output]), output


def test_only_what_is_asked_for_is_read() -> None:
    torch.manual_seed(0)
    vertices = {mesh: torch.randn(3, 16) for mesh in ("cat", "dog")}
    for output in (Output.MASK, Output.VERTICES):
        expected, painted = paint(torch.randn(4, 18, SIDE, SIDE), vertices, frozenset({output}))
        assert torch.equal(painted[output].cpu(), expected[output])
