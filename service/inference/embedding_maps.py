"""The maps of models with continuous surface embeddings, for all instances together.

Shape letters: R instances, S = side of the head's output, P = pixels of all regions, T = pixels of
one tile, B those that are body, D = 16 dimensions of an embedding, V vertices of a mesh.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from service.datatypes import COARSE_LOGITS, MAPS, AnyMap, Output
from service.inference.devices import traits_of
from service.inference.map_buffer import Chunk, MapBuffer, MapLayout, spread
from service.inference.regions import Tile, argmax_of_columns, argmax_of_rows, as_table, tiles
from service.network.densepose_head import HeadOutput
from service.network.kernels import has_kernels

PER_PIXEL = (Output.COARSE, Output.MASK, Output.VERTICES, Output.VERTEX_COLOURS)
# Pixels for each thread that are searched at once on the CPU: two vectors of floats, whose
# distances fit the caches.
PIXELS_PER_THREAD = 32


def closest_vertices(pixels_TD: Tensor, vertices_VD: Tensor) -> Tensor:
    """The index [T] of the vertex at the least squared distance, the lowest one where they tie.

    The distances are rounded as in densepose/modeling/cse/utils.py, so the answer is the same:
    what is searched here for its maximum is exactly their negative.
    """
    num_pixels, num_vertices = len(pixels_TD), len(vertices_VD)
    squares_1T = (pixels_TD * pixels_TD).sum(1, keepdim=True).T
    squares_V1 = (vertices_VD * vertices_VD).sum(1, keepdim=True)
    twice_VD = 2 * vertices_VD
    closest_T = torch.zeros(num_pixels, dtype=torch.int64, device=pixels_TD.device)
    max_distances = traits_of(pixels_TD.device).max_distances
    step = PIXELS_PER_THREAD * torch.get_num_threads()
    if max_distances is not None:
        step = max(1, max_distances // num_vertices)
    for start in range(0, num_pixels, step):
        here = slice(start, start + step)
        nearness_Vt = torch.mm(twice_VD, pixels_TD[here].T)
        nearness_Vt -= squares_V1 + squares_1T[:, here]
        closest_T[here] = argmax_of_columns(nearness_Vt)
    return closest_T


def colour_vertices(vertices_VD: Tensor) -> Tensor:
    """The first three principal components of the embeddings as R, G, B: uint8 [V, 3].

    Each is scaled to 0..255 on its own. Of its two directions, it has the one in which the
    dimension that weighs most counts positively.
    """
    centred_VD = vertices_VD.double() - vertices_VD.double().mean(dim=0)
    # On the CPU, so that it is the same on every device.
    _, axes_DD = torch.linalg.eigh((centred_VD.T @ centred_VD).cpu())
    axes_D3 = axes_DD[:, -3:].flip(1)
    heaviest_3 = axes_D3.gather(0, axes_D3.abs().argmax(dim=0, keepdim=True))
    components_V3 = centred_VD @ (axes_D3 * heaviest_3.sign()).to(centred_VD.device)
    low_3, high_3 = components_V3.amin(dim=0), components_V3.amax(dim=0)
    share_V3 = ((components_V3 - low_3) / (high_3 - low_3)).nan_to_num()
    colours_V3: Tensor = (255 * share_V3).round().to(torch.uint8)
    return colours_V3


class EmbeddingMaps:
    """What the head must give, the layout of the maps, and their painting.

    `vertices` has the vertex embeddings [V, D] of each mesh.
    """

    def __init__(self, vertices: Mapping[str, Tensor]) -> None:
        self._vertices = vertices
        self._colours = {mesh: colour_vertices(vertices[mesh]) for mesh in vertices}
        self._has_kernels = all(has_kernels(vertices_VD) for vertices_VD in vertices.values())
        if self._has_kernels:
            from service.inference.vertex_kernel import join_vertices  # noqa: PLC0415

            self._joined = join_vertices(vertices, self._colours)

    def fields(self, outputs: frozenset[AnyMap]) -> tuple[str, ...]:
        """What the head must give for these outputs, and no more."""
        needed = {"coarse_segm"}.union(*(MAPS[output].needs["cse"] for output in outputs))
        return tuple(sorted(needed))

    def layout(self, outputs: frozenset[AnyMap], pixels: int, instances: int) -> MapLayout:
        """Shape and type of every map of a batch."""
        layout: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        for output in outputs:
            kind = MAPS[output]
            shapes = {name: (instances, *own) for name, own in kind.of_instance.items()}
            for name, shape in (shapes or {output: (pixels, *kind.depth)}).items():
                layout[name] = shape, getattr(torch, kind.dtype)
        return layout

    def paint(self, raw: HeadOutput, chunk: Chunk, maps: MapBuffer) -> None:
        """Fill the chunk's part of the maps from the head's outputs."""
        if Output.EMBEDDING in maps:
            maps[Output.EMBEDDING][chunk.instances] = raw["embedding"].to(torch.float16)
            maps[COARSE_LOGITS][chunk.instances] = raw["coarse_segm"].to(torch.float16)
        if not any(output in maps for output in PER_PIXEL):
            return
        if self._has_kernels:
            from service.inference.vertex_kernel import paint_vertices  # noqa: PLC0415

            paint_vertices(raw, chunk, maps, self._joined)
            return
        table_NC = as_table(raw.values_RCSS)
        # Of its own, as embedding_bag would copy the slice for every tile.
        coarse_NC = table_NC[:, raw.channels["coarse_segm"]].contiguous()
        search = None
        if Output.VERTICES in maps or Output.VERTEX_COLOURS in maps:
            search = _Search(
                table_NC[:, raw.channels["embedding"]].contiguous(), chunk.meshes, self._vertices
            )
        side = raw.values_RCSS.shape[2]
        for tile in tiles(chunk.regions, side, chunk.max_tile_pixels, table_NC.device):
            here = chunk.place(tile.pixels)
            coarse_T = argmax_of_rows(tile.spots.sample(coarse_NC))
            if Output.COARSE in maps:
                maps[Output.COARSE][here] = coarse_T.to(torch.uint8)
            if Output.MASK in maps:
                maps[Output.MASK][here] = ((coarse_T > 0) * 255).to(torch.uint8)
            if search is not None:
                self._write_vertices(maps, here, search, tile, torch.nonzero(coarse_T)[:, 0])

    def _write_vertices(
        self, maps: MapBuffer, here: slice, search: "_Search", tile: Tile, body_B: Tensor
    ) -> None:
        found_B = torch.empty(len(body_B), dtype=torch.int32, device=body_B.device)
        colours_B3 = torch.empty(len(body_B), 3, dtype=torch.uint8, device=body_B.device)
        for mesh, chosen, closest in search.closest(tile, body_B):
            found_B[chosen] = (closest + 1).int()
            if Output.VERTEX_COLOURS in maps:
                colours_B3[chosen] = self._colours[mesh][closest]
        if Output.VERTICES in maps:
            spread(found_B.to(torch.uint16), body_B, maps[Output.VERTICES][here])
        if Output.VERTEX_COLOURS in maps:
            spread(colours_B3, body_B, maps[Output.VERTEX_COLOURS][here])


class _Search:
    """The embeddings of one chunk, and the meshes that its instances are matched against."""

    def __init__(
        self, table_ND: Tensor, mesh_of: Sequence[str | None], vertices: Mapping[str, Tensor]
    ) -> None:
        self._table_ND = table_ND
        self._meshes = sorted({mesh for mesh in mesh_of if mesh is not None})
        self._vertices = vertices
        self._mesh_of_R = torch.tensor(
            [self._meshes.index(mesh) for mesh in mesh_of if mesh is not None],
            device=table_ND.device,
        )

    def closest(self, tile: Tile, body_B: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """For each mesh, which of these pixels are matched against it, and the vertex of each."""
        embeddings_BD = tile.spots.at(body_B).sample(self._table_ND)
        mesh_B = self._mesh_of_R[tile.regions_of(body_B)]
        for index, mesh in enumerate(self._meshes):
            chosen = torch.nonzero(mesh_B == index)[:, 0]
            yield mesh, chosen, closest_vertices(embeddings_BD[chosen], self._vertices[mesh])
