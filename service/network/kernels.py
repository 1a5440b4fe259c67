"""Compiled operators: torchvision's, and whether our own kernels for CUDA can run here."""

import functools
import importlib.util
import logging
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def has_kernels(on: Tensor) -> bool:
    """True where this tensor lies on a device that our kernels can be built for.

    Each has an equal in plain PyTorch, which other devices run.
    """
    return on.is_cuda and can_build_kernels()


@functools.cache
def can_build_kernels() -> bool:
    """True where Triton is installed, and the C compiler that its launchers need."""
    if importlib.util.find_spec("triton") is None:
        reason = "Triton is not installed"
    elif not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        reason = "Triton needs a C compiler: install gcc, or name one in CC"
    else:
        return True
    logger.warning("slower without our own kernels", extra={"fields": {"reason": reason}})
    return False


def _load() -> None:
    """Loads torchvision's operators without the rest of it.

    `import torchvision` brings in all of its networks and PyTorch's compiler, which takes as long
    as PyTorch itself; nothing here needs either.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ImportError("torchvision is not installed")
    # `_C.so` or, for any version of PyTorch, `_C_stable.so`.
    for library in Path(spec.origin).parent.glob("_C*.so"):
        torch.ops.load_library(library)


_load()


def nms(boxes_B4: Tensor, scores_B: Tensor, max_iou: float) -> Tensor:
    """The indices, best first, of the boxes that no better one covers by more than `max_iou`."""
    kept: Tensor = torch.ops.torchvision.nms(boxes_B4, scores_B, max_iou)
    return kept


def roi_align(
    input_NCHW: Tensor,
    rois_R5: Tensor,
    resolution: int,
    *,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Bilinear means [R, C, resolution, resolution] in the bins of each box: arXiv 1703.06870.

    A box [5] has its image's index first. Where the sampling ratio is 0 it adapts to the box.
    """
    side = resolution
    pooled: Tensor = torch.ops.torchvision.roi_align(
        input_NCHW, rois_R5, spatial_scale, side, side, sampling_ratio or -1, aligned
    )
    return pooled
