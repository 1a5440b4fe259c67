"""The maps of embedding models in one kernel: each pixel's closest vertex, found as it is read.

No distance leaves the registers: a program holds its pixels' embeddings, walks over the vertices of
their mesh, and keeps the least distance and its vertex.

Shape letters: V vertices of all meshes, D = 16 dimensions of an embedding, R instances.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from service.datatypes import Output
from service.inference.devices import to_device
from service.inference.map_buffer import Chunk, MapBuffer
from service.inference.region_kernel import (
    find_cells,
    first_of_largest,
    regions_on_device,
    sample_columns,
)
from service.inference.regions import as_table
from service.network.densepose_head import HeadOutput

# Of a program's pixels: a square has the fewest neighbours, and most often all or no body.
TILE_HEIGHT, TILE_WIDTH = 8, 8
VERTICES = 64


@dataclass(frozen=True, slots=True)
class VertexTable:
    """The vertices of all meshes, one after the other, on the device.

    `span_of` has the first one and the number of them for each mesh.
    """

    vertices_VD: Tensor
    squares_V: Tensor
    colours_V3: Tensor
    span_of: Mapping[str, tuple[int, int]]


def join_vertices(vertices: Mapping[str, Tensor], colours: Mapping[str, Tensor]) -> VertexTable:
    """The table of meshes whose vertices have these embeddings [V, D] and colours [V, 3]."""
    spans, end = {}, 0
    for mesh, vertices_VD in vertices.items():
        spans[mesh] = (end, len(vertices_VD))
        end += len(vertices_VD)
    vertices_VD = torch.cat(list(vertices.values())).contiguous()
    return VertexTable(
        vertices_VD,
        (vertices_VD * vertices_VD).sum(1),
        torch.cat([colours[mesh] for mesh in vertices]).contiguous(),
        spans,
    )


def paint_vertices(raw: HeadOutput, chunk: Chunk, maps: MapBuffer, table: VertexTable) -> None:
    """Fill the chunk's part of all maps of one number or colour per pixel, as embedding_maps.py."""
    table_NC = as_table(raw.values_RCSS)
    coarse, embedding = raw.channels["coarse_segm"], raw.channels.get("embedding")
    device = table_NC.device
    spans = [table.span_of[mesh] for mesh in chunk.meshes if mesh is not None]
    num_tiles = max(
        triton.cdiv(width, TILE_WIDTH) * triton.cdiv(height, TILE_HEIGHT)
        for _, _, width, height in chunk.regions
    )
    wanted = (Output.COARSE, Output.MASK, Output.VERTICES, Output.VERTEX_COLOURS)
    _paint_tile[(num_tiles, len(chunk.regions))](
        table_NC,
        regions_on_device(chunk, device),
        to_device(torch.tensor(spans, dtype=torch.int32), device),
        table.vertices_VD,
        table.squares_V,
        table.colours_V3,
        *(maps[output] if output in maps else None for output in wanted),  # noqa: SIM401
        SIDE=raw.values_RCSS.shape[2],
        CHANNELS=table_NC.shape[1],
        COARSE=coarse.start,
        NUM_COARSE=coarse.stop - coarse.start,
        COARSE_BLOCK=triton.next_power_of_2(coarse.stop - coarse.start),
        EMBEDDING=None if embedding is None else embedding.start,
        D=table.vertices_VD.shape[1],
        HEIGHT=TILE_HEIGHT,
        WIDTH=TILE_WIDTH,
        BLOCK=VERTICES,
        num_warps=4,
        enable_fp_fusion=False,
    )


@triton.jit
def _closest(
    pixels_TD, vertices_ptr, squares_ptr, first, count, D: tl.constexpr, BLOCK: tl.constexpr
):
    """The vertex [T] at the least squared distance among `count`, the first one where they tie."""
    PIXELS: tl.constexpr = pixels_TD.shape[0]
    squares_T1 = tl.sum(pixels_TD * pixels_TD, axis=1)[:, None]
    minus_twice_TD = -2.0 * pixels_TD
    dimension_D1 = tl.arange(0, D)[:, None]
    best_TB = tl.full((PIXELS, BLOCK), float("inf"), tl.float32)
    vertex_TB = tl.zeros((PIXELS, BLOCK), tl.int32)
    for start in range(0, count, BLOCK):
        vertex_1B = start + tl.arange(0, BLOCK)[None, :]
        is_vertex_1B = vertex_1B < count
        vertices_DB = tl.load(
            vertices_ptr + (first + vertex_1B) * D + dimension_D1, mask=is_vertex_1B, other=0.0
        )
        squares_1B = tl.load(squares_ptr + first + vertex_1B, mask=is_vertex_1B, other=float("inf"))
        distances_TB = tl.dot(minus_twice_TD, vertices_DB, input_precision="ieee")
        distances_TB += squares_T1 + squares_1B
        is_closer_TB = distances_TB < best_TB
        best_TB = tl.where(is_closer_TB, distances_TB, best_TB)
        vertex_TB = tl.where(is_closer_TB, vertex_1B, vertex_TB)
    least_T1 = tl.min(best_TB, axis=1)[:, None]
    return tl.min(tl.where(best_TB == least_T1, vertex_TB, tl.maximum(count - 1, 0)), axis=1)


@triton.jit
def _paint_tile(
    table_ptr,
    regions_ptr,
    spans_ptr,
    vertices_ptr,
    squares_ptr,
    colours_ptr,
    coarse_map_ptr,
    mask_map_ptr,
    vertex_map_ptr,
    colour_map_ptr,
    SIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    COARSE: tl.constexpr,
    NUM_COARSE: tl.constexpr,
    COARSE_BLOCK: tl.constexpr,
    EMBEDDING: tl.constexpr,
    D: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    region = tl.program_id(1)
    width = tl.load(regions_ptr + region * 3).to(tl.int32)
    height = tl.load(regions_ptr + region * 3 + 1).to(tl.int32)
    tiles_across = tl.cdiv(width, WIDTH)
    pixel = tl.arange(0, HEIGHT * WIDTH)
    y = tl.program_id(0) // tiles_across * HEIGHT + pixel // WIDTH
    x = tl.program_id(0) % tiles_across * WIDTH + pixel % WIDTH
    is_in = (y < height) & (x < width)
    place = tl.load(regions_ptr + region * 3 + 2) + y * width + x
    cells, weights = find_cells(region, y, x, height, width, SIDE, CHANNELS)

    coarse = sample_columns(table_ptr, cells, weights, is_in, COARSE, NUM_COARSE, COARSE_BLOCK)
    best = first_of_largest(coarse, NUM_COARSE)
    is_body = is_in & (best > 0)
    if coarse_map_ptr is not None:
        tl.store(coarse_map_ptr + place, best.to(tl.uint8), mask=is_in)
    if mask_map_ptr is not None:
        tl.store(mask_map_ptr + place, tl.where(is_body, 255, 0).to(tl.uint8), mask=is_in)
    if EMBEDDING is not None:
        pixels_TD = sample_columns(table_ptr, cells, weights, is_body, EMBEDDING, D, D)
        first = tl.load(spans_ptr + region * 2)
        # Where there is no body, there is nothing to search.
        has_body = tl.max(is_body.to(tl.int32), axis=0)
        count = tl.load(spans_ptr + region * 2 + 1) * has_body
        vertex = _closest(pixels_TD, vertices_ptr, squares_ptr, first, count, D, BLOCK)
        if vertex_map_ptr is not None:
            found = tl.where(is_body, vertex + 1, 0)
            tl.store(vertex_map_ptr + place, found.to(tl.uint16), mask=is_in)
        if colour_map_ptr is not None:
            for channel in tl.static_range(3):
                row = (first + vertex) * 3 + channel
                colour = tl.load(colours_ptr + row, mask=is_body, other=0)
                tl.store(colour_map_ptr + place * 3 + channel, colour, mask=is_in)
