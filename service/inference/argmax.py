"""The index of the greatest of a few dozen to some ten thousand scores, for very many pixels.

`Tensor.argmax` compares one number at a time on the CPU where the numbers of a pixel lie side by
side. Max pooling is the one operator that compares many pixels at a time and returns indices: it
takes the pixels for channels and the scores for the rows of a picture.

Shape letters: P pixels, K scores of each.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Pixels whose scores are laid out together: they fit the first cache.
BLOCK_PIXELS = 256


def argmax_of_rows(scores_PK: Tensor) -> Tensor:
    """`scores_PK.argmax(dim=1)`, for scores without NaN: the first of equals."""
    num_pixels, num_scores = scores_PK.shape
    num_blocks = num_pixels // BLOCK_PIXELS
    if scores_PK.is_cuda or not num_blocks:
        return scores_PK.argmax(dim=1)
    whole, rest = scores_PK.tensor_split([num_blocks * BLOCK_PIXELS])
    blocks = whole.reshape(num_blocks, BLOCK_PIXELS, num_scores).transpose(1, 2).contiguous()
    found_P = _argmax_of_heights(blocks[:, :, None]).flatten()
    return torch.cat((found_P, rest.argmax(dim=1))) if len(rest) else found_P


def argmax_of_columns(scores_KP: Tensor) -> Tensor:
    """`scores_KP.argmax(dim=0)`, for scores without NaN: the first of equals."""
    num_scores, num_pixels = scores_KP.shape
    if scores_KP.is_cuda or not num_pixels:
        return scores_KP.argmax(dim=0)
    # Pooling is parallel over the pixels that it returns: a column of the picture for each thread.
    threads = torch.get_num_threads()
    width = threads if num_pixels % threads == 0 else 1
    picture = scores_KP.contiguous().view(1, num_scores, width, num_pixels // width)
    return _argmax_of_heights(picture).flatten() // width


def _argmax_of_heights(scores_NHWC: Tensor) -> Tensor:
    """What max pooling of whole columns calls the place of the maximum, [N, 1, W, C]."""
    scores_NCHW = scores_NHWC.permute(0, 3, 1, 2)
    window = (scores_NHWC.shape[1], 1)
    _, places_NC1W = F.max_pool2d(scores_NCHW, window, return_indices=True)
    return places_NC1W.permute(0, 2, 3, 1)
