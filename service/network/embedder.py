"""Where the vertices of each mesh lie among the embeddings: Neverova et al., arXiv 2011.12438.

Shape letters: V vertices of a mesh, F = 256 features of a vertex, D = 16 dimensions.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

# No vertex embedding is divided by less. densepose/modeling/cse/utils.py: normalize_embeddings
MIN_NORM = 1e-6


class VertexEmbedder(nn.Module):
    """The embeddings of one mesh's vertices, by way of their features."""

    features: Tensor

    def __init__(self, num_vertices: int, feature_dim: int, embed_size: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(num_vertices, feature_dim))
        self.embeddings = nn.Parameter(torch.zeros(feature_dim, embed_size))

    def forward(self) -> Tensor:
        """[V, D], each of length 1."""
        embeddings_VD: Tensor = self.features @ self.embeddings
        norm_V1: Tensor = embeddings_VD.norm(dim=1, keepdim=True)
        return embeddings_VD / norm_V1.clamp(min=MIN_NORM)


class Embedder(nn.Module):
    """One vertex embedder per mesh, found by the mesh's name."""

    def __init__(self, meshes: Mapping[str, int], feature_dim: int, embed_size: int) -> None:
        super().__init__()
        for mesh, num_vertices in meshes.items():
            embedder = VertexEmbedder(num_vertices, feature_dim, embed_size)
            self.add_module(f"embedder_{mesh}", embedder)

    def forward(self) -> dict[str, Tensor]:
        """The vertex embeddings [V, D] of each mesh."""
        return {name.removeprefix("embedder_"): child() for name, child in self.named_children()}
