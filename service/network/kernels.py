"""Whether our own kernels for CUDA can run here."""

import functools
import importlib.util
import logging
import os
import shutil

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
