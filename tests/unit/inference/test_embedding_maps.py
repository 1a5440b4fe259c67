import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from service.datatypes import Output
from service.inference.embedding_maps import (
    COARSE_LOGITS,
    EmbeddingMaps,
    closest_vertices,
    colour_vertices,
)
from service.inference.map_buffer import Chunk, MapBuffer
from service.inference.regions import num_pixels
from service.network.densepose_head import HeadOutput

CPU = torch.device("cpu")


def unit_vectors(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def full_matrix_search(pixels: Tensor, vertices: Tensor) -> Tensor:
    """The definition: the least entry of the whole matrix of squared distances, lowest index."""
    distances = torch.mm(-2 * pixels, vertices.T)
    distances += (pixels**2).sum(1, keepdim=True) + (vertices**2).sum(1, keepdim=True).T
    return distances.argmin(dim=1)


def test_the_search_finds_what_the_full_matrix_gives() -> None:
    torch.manual_seed(0)
    pixels, vertices = torch.randn(5000, 16), unit_vectors(27554, 16)
    assert torch.equal(closest_vertices(pixels, vertices), full_matrix_search(pixels, vertices))


@pytest.mark.slow
def test_the_search_is_exact_for_a_hundred_thousand_pixels() -> None:
    torch.manual_seed(1)
    pixels, vertices = torch.randn(100_000, 16), unit_vectors(27554, 16)
    # The full matrix in slices of rows, as it would take 11 GB.
    expected = torch.cat([full_matrix_search(part, vertices) for part in pixels.split(10_000)])
    assert torch.equal(closest_vertices(pixels, vertices), expected)


def test_equal_distances_go_to_the_lowest_index() -> None:
    vertices = unit_vectors(50, 16).repeat(20, 1)
    found = closest_vertices(torch.randn(300, 16), vertices)
    assert found.max() < 50


def test_no_pixels_find_nothing() -> None:
    assert closest_vertices(torch.zeros(0, 16), unit_vectors(10, 16)).shape == (0,)


def test_each_instance_is_matched_against_its_own_mesh() -> None:
    torch.manual_seed(0)
    vertices = {"cat_90": unit_vectors(90, 16), "dog_70": unit_vectors(70, 16)}
    meshes = ["dog_70", "cat_90", "dog_70"]
    regions = [(0, 0, 30, 40), (5, 5, 1, 1), (9, 0, 57, 23)]
    raw = HeadOutput(
        torch.randn(3, 18, 112, 112), {"coarse_segm": slice(0, 2), "embedding": slice(2, 18)}
    )
    embedding_maps = EmbeddingMaps(vertices)
    outputs = frozenset({Output.VERTICES, Output.MASK, Output.COARSE, Output.EMBEDDING})
    maps = MapBuffer(embedding_maps.layout(outputs, num_pixels(regions), 3), CPU)
    embedding_maps.paint(raw, Chunk(regions, meshes, 0, 0, 700), maps)
    start = 0
    for index, ((_, _, w, h), mesh) in enumerate(zip(regions, meshes, strict=True)):
        stop = start + w * h
        resized = {
            field: F.interpolate(raw[field][index : index + 1], size=(h, w), mode="bilinear")[0]
            for field in ("coarse_segm", "embedding")
        }
        body = (resized["coarse_segm"].argmax(0) > 0).flatten()
        expected = full_matrix_search(resized["embedding"].flatten(1).T, vertices[mesh]) + 1
        expected = expected * body
        assert torch.equal(maps[Output.VERTICES][start:stop].to(torch.int64), expected)
        assert torch.equal(maps[Output.MASK][start:stop] == 255, body)
        assert torch.equal(maps[Output.COARSE][start:stop] == 1, body)
        start = stop
    assert torch.equal(maps[Output.EMBEDDING], raw["embedding"].half())
    assert torch.equal(maps[COARSE_LOGITS], raw["coarse_segm"].half())


def test_masks_alone_need_no_embedding() -> None:
    embedding_maps = EmbeddingMaps({"smpl_27554": unit_vectors(9, 16)})
    outputs = frozenset({Output.MASK})
    assert embedding_maps.fields(outputs) == ("coarse_segm",)
    maps = MapBuffer(embedding_maps.layout(outputs, 12, 1), CPU)
    logits = torch.stack((torch.zeros(112, 112), torch.ones(112, 112)))[None]
    raw = HeadOutput(logits, {"coarse_segm": slice(0, 2)})
    embedding_maps.paint(raw, Chunk([(0, 0, 3, 4)], ["smpl_27554"], 0, 0, 100), maps)
    assert maps[Output.MASK].tolist() == [255] * 12


def spread_vectors(*shape: int) -> Tensor:
    torch.manual_seed(shape[0])
    spread = torch.linspace(1, 3, shape[1])
    return F.normalize(torch.randn(*shape) * spread, dim=-1)


def test_colours_are_the_principal_components_each_over_its_whole_range() -> None:
    vertices = spread_vectors(500, 16)
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
    vertices = {"cat_90": spread_vectors(90, 16), "dog_70": spread_vectors(70, 16)}
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
