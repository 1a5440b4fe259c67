import pytest
import torch

from service.errors import DeviceFailed, OutOfMemory
from service.residency.device_errors import MAX_REASON, as_service_error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate"
            " memory: you tried to allocate 4 bytes. Error code 12"
        ),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_known_by_whatever_name(error: Exception) -> None:
    assert isinstance(as_service_error(error), OutOfMemory)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "CUDA driver error: device lost",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasSgemm`",
    ],
)
def test_a_lost_device_is_known_and_the_reason_is_one_line(text: str) -> None:
    error = as_service_error(RuntimeError(f"{text}\nCompile with `TORCH_USE_CUDA_DSA`"))
    assert isinstance(error, DeviceFailed)
    assert error.reason == text
    long = as_service_error(torch.AcceleratorError("x" * 1000))
    assert isinstance(long, DeviceFailed)
    assert len(long.reason) == MAX_REASON


@pytest.mark.parametrize(
    "error",
    [
        ValueError("CUDA error"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
        IndexError("out of range"),
    ],
)
def test_a_defect_is_neither(error: Exception) -> None:
    assert as_service_error(error) is None


def test_the_cpu_s_own_error_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert isinstance(as_service_error(caught.value), OutOfMemory)
