import numpy as np
import torch
from torch.nn import functional as F

from service.datatypes import Output
from service.inference.embedding_maps import EmbeddingMaps
from service.inference.map_buffer import Chunk, MapBuffer
from service.inference.regions import num_pixels
from service.inference.vertex_colours import colour_vertices
from service.network.densepose_head import HeadOutput


def unit_vectors(*shape: int) -> torch.Tensor:
    torch.manual_seed(shape[0])
    spread = torch.linspace(1, 3, shape[1])
    return F.normalize(torch.randn(*shape) * spread, dim=-1)


def test_colours_are_the_principal_components_each_over_its_whole_range() -> None:
    vertices = unit_vectors(500, 16)
    colours = colour_vertices(vertices).numpy()
    centred = vertices.numpy().astype(np.float64)
    centred -= centred.mean(axis=0)
    # Another way to the same axes.
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    for channel in range(3):
        component = centred @ axes[channel]
        component *= np.sign(axes[channel][np.abs(axes[channel]).argmax()])
        share = (component - component.min()) / (component.max() - component.min())
        np.testing.assert_array_equal(colours[:, channel], np.rint(255 * share).astype(np.uint8))
        assert (colours[:, channel].min(), colours[:, channel].max()) == (0, 255)


def test_what_does_not_vary_has_no_colour() -> None:
    assert not colour_vertices(torch.ones(10, 16)).any()


def test_each_pixel_has_the_colour_of_its_vertex_on_its_own_mesh() -> None:
    vertices = {"cat_90": unit_vectors(90, 16), "dog_70": unit_vectors(70, 16)}
    meshes, regions = ["dog_70", "cat_90", "dog_70"], [(0, 0, 30, 40), (5, 5, 1, 1), (9, 0, 57, 23)]
    torch.manual_seed(0)
    raw = {"coarse_segm": torch.randn(3, 2, 112, 112), "embedding": torch.randn(3, 16, 112, 112)}
    painter = EmbeddingMaps(vertices)
    both = frozenset({Output.VERTICES, Output.VERTEX_COLOURS})
    assert painter.fields(frozenset({Output.VERTEX_COLOURS})) == ("coarse_segm", "embedding")
    maps = MapBuffer(painter.layout(both, num_pixels(regions), 3), torch.device("cpu"))
    output = HeadOutput(
        torch.cat((raw["coarse_segm"], raw["embedding"]), dim=1),
        {"coarse_segm": slice(0, 2), "embedding": slice(2, 18)},
    )
    painter.paint(output, Chunk(regions, meshes, 0, 0, 700), maps)
    start = 0
    for (_, _, width, height), mesh in zip(regions, meshes, strict=True):
        stop = start + width * height
        number = maps[Output.VERTICES][start:stop].to(torch.int64)
        expected = colour_vertices(vertices[mesh])[number - 1] * (number > 0)[:, None]
        assert torch.equal(maps[Output.VERTEX_COLOURS][start:stop], expected)
        start = stop
