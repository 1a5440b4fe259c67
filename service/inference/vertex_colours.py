"""A colour for every vertex of a mesh, by which the same place on the body is the same colour.

Shape letters: V vertices of a mesh, D dimensions of an embedding.
"""

import torch
from torch import Tensor


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
