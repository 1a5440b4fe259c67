"""The maps of models with continuous surface embeddings, for all instances together.

Shape letters: R instances, S = side of the head's output, P = pixels of all regions, T = pixels of
one tile, D = 16 dimensions of an embedding, V vertices of a mesh.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from service.datatypes import Output
from service.inference.map_buffer import Chunk, MapBuffer, MapLayout
from service.inference.regions import as_table, tiles
from service.inference.vertex_colours import colour_vertices
from service.network.predictors import HeadOutput

COARSE_LOGITS = "coarse_logits"
# All fourteen models agree in these.
EMBEDDING_SHAPE = (16, 112, 112)
COARSE_SHAPE = (2, 112, 112)
PER_PIXEL = (Output.COARSE, Output.MASK, Output.VERTICES, Output.VERTEX_COLOURS)
# Distances held at once: on the CPU they fit the caches, on CUDA they are enough to be busy.
MAX_DISTANCES = {"cpu": 2**21, "cuda": 2**24}


def closest_vertices(pixels_TD: Tensor, vertices_VD: Tensor) -> Tensor:
    """The index [T] of the vertex at the least squared distance, the lowest one where they tie.

    The distances are rounded as in densepose/modeling/cse/utils.py, so the answer is the same.
    """
    num_pixels, num_vertices = len(pixels_TD), len(vertices_VD)
    squares_T1 = (pixels_TD * pixels_TD).sum(1, keepdim=True)
    squares_1V = (vertices_VD * vertices_VD).sum(1, keepdim=True).T
    closest_T = torch.zeros(num_pixels, dtype=torch.int64, device=pixels_TD.device)
    step = max(1, MAX_DISTANCES[pixels_TD.device.type] // num_vertices)
    for start in range(0, num_pixels, step):
        here = slice(start, start + step)
        distances_tV = torch.mm(-2 * pixels_TD[here], vertices_VD.T)
        distances_tV += squares_T1[here] + squares_1V
        closest_T[here] = distances_tV.argmin(dim=1)
    return closest_T


class EmbeddingMaps:
    """What the head must give, the layout of the maps, and their painting.

    `vertices` has the vertex embeddings [V, D] of each mesh.
    """

    def __init__(self, vertices: Mapping[str, Tensor]) -> None:
        self._vertices = vertices
        self._colours = {mesh: colour_vertices(vertices[mesh]) for mesh in vertices}

    def fields(self, outputs: frozenset[Output]) -> tuple[str, ...]:
        """What the head must give for these outputs, and no more."""
        if outputs & {Output.VERTICES, Output.VERTEX_COLOURS, Output.EMBEDDING}:
            return ("coarse_segm", "embedding")
        return ("coarse_segm",)

    def layout(self, outputs: frozenset[Output], pixels: int, instances: int) -> MapLayout:
        """Shape and type of every map of a batch."""
        layout: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            Output.COARSE: ((pixels,), torch.uint8),
            Output.MASK: ((pixels,), torch.uint8),
            Output.VERTICES: ((pixels,), torch.uint16),
            Output.VERTEX_COLOURS: ((pixels, 3), torch.uint8),
            Output.EMBEDDING: ((instances, *EMBEDDING_SHAPE), torch.float16),
        }
        chosen: dict[str, tuple[tuple[int, ...], torch.dtype]] = {o: layout[o] for o in outputs}
        if Output.EMBEDDING in outputs:
            chosen[COARSE_LOGITS] = ((instances, *COARSE_SHAPE), torch.float16)
        return chosen

    def paint(self, raw: HeadOutput, chunk: Chunk, maps: MapBuffer) -> None:
        """Fill the chunk's part of the maps from the head's outputs."""
        if Output.EMBEDDING in maps:
            maps[Output.EMBEDDING][chunk.instances] = raw["embedding"].to(torch.float16)
            maps[COARSE_LOGITS][chunk.instances] = raw["coarse_segm"].to(torch.float16)
        if not any(output in maps for output in PER_PIXEL):
            return
        num_coarse, side = raw["coarse_segm"].shape[1:3]
        table_NC = as_table(raw.values_RCSS)
        meshes = sorted({mesh for mesh in chunk.meshes if mesh is not None})
        mesh_of_R = torch.tensor(
            [meshes.index(mesh) for mesh in chunk.meshes if mesh is not None],
            device=table_NC.device,
        )
        for tile in tiles(chunk.regions, side, chunk.max_tile_pixels, table_NC.device):
            here = chunk.place(tile.pixels)
            cells_TC = tile.sample(table_NC)
            coarse_T = cells_TC[:, :num_coarse].argmax(dim=1)
            if Output.COARSE in maps:
                maps[Output.COARSE][here] = coarse_T.to(torch.uint8)
            if Output.MASK in maps:
                maps[Output.MASK][here] = ((coarse_T > 0) * 255).to(torch.uint8)
            if Output.VERTICES in maps or Output.VERTEX_COLOURS in maps:
                mesh_T = mesh_of_R[tile.region_T].masked_fill(coarse_T == 0, -1)
                found_T = self._search(
                    cells_TC[:, num_coarse:], mesh_T, [self._vertices[mesh] for mesh in meshes]
                )
                if Output.VERTICES in maps:
                    maps[Output.VERTICES][here] = found_T
                if Output.VERTEX_COLOURS in maps:
                    maps[Output.VERTEX_COLOURS][here] = 0
                    for index, mesh in enumerate(meshes):
                        body = torch.nonzero(mesh_T == index)[:, 0]
                        colours_B3 = self._colours[mesh][found_T[body].long() - 1]
                        maps[Output.VERTEX_COLOURS][here][body] = colours_B3

    @staticmethod
    def _search(embeddings_TD: Tensor, mesh_T: Tensor, meshes: Sequence[Tensor]) -> Tensor:
        """The closest vertex + 1 on each pixel's mesh, int32 [T]; 0 where the mesh is -1."""
        found_T = torch.zeros(len(mesh_T), dtype=torch.int32, device=mesh_T.device)
        for index, vertices_VD in enumerate(meshes):
            body = torch.nonzero(mesh_T == index)[:, 0]
            closest = closest_vertices(embeddings_TD[body], vertices_VD)
            found_T[body] = (closest + 1).to(torch.int32)
        return found_T
