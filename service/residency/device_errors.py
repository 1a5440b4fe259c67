"""What PyTorch says when a device has no memory left, or is lost, as errors of ours."""

import torch

from service.errors import DeviceFailed, OutOfMemory

# Parts of messages. c10/core/impl/alloc_cpu.cpp, c10/cuda/CUDACachingAllocator.cpp, and the names
# of the libraries' status codes.
OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "STATUS_ALLOC_FAILED",
)
# After these a CUDA context is of no use any more. "Sticky" errors, CUDA C++ Programming Guide,
# chapter Error Checking; those of the libraries follow from one of them.
FATAL = (
    "CUDA error",
    "CUDA driver error",
    "STATUS_INTERNAL_ERROR",
    "STATUS_EXECUTION_FAILED",
    "STATUS_MAPPING_ERROR",
    "STATUS_NOT_INITIALIZED",
)
MAX_REASON = 200


def as_service_error(error: BaseException) -> OutOfMemory | DeviceFailed | None:
    """What the error means to the service; None where it is not about the device."""
    text = str(error)
    is_runtime_error = isinstance(error, RuntimeError)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        is_runtime_error and any(words in text for words in OUT_OF_MEMORY)
    ):
        return OutOfMemory(
            "The image does not fit the device's memory: send or ask for a smaller one."
        )
    if isinstance(error, torch.AcceleratorError) or (
        is_runtime_error and any(words in text for words in FATAL)
    ):
        return DeviceFailed(
            "The device has failed: try another replica.",
            reason=text.partition("\n")[0][:MAX_REASON],
        )
    return None
