from pathlib import Path

import numpy as np
import pytest
import torch

from service.errors import DeviceFailed, OutOfMemory
from service.residency import device as module
from service.residency.device import MAX_REASON, ModelDevice, as_service_error, memory_budget

CPU = torch.device("cpu")
GIBIBYTE = 2**30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 16 GiB to spare, outside of a container."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 9 kB\nMemAvailable:   {16 * 2**20} kB\nBuffers: 3 kB\n")
    monkeypatch.setattr(module, "MEMINFO", meminfo)
    monkeypatch.setattr(module, "GROUP_FILES", [(tmp_path / "max", tmp_path / "current")])
    return tmp_path


def test_on_the_cpu_models_may_take_half_of_what_the_machine_has_to_spare(machine: Path) -> None:
    budget = memory_budget(CPU, None)
    assert budget.device_bytes == 8 * GIBIBYTE
    # Copies in the same memory would be of no use.
    assert budget.host_bytes == 0
    assert budget.total_bytes > 0


def test_a_container_s_limit_counts_where_it_is_nearer(machine: Path) -> None:
    (machine / "max").write_text(f"{6 * GIBIBYTE}\n")
    (machine / "current").write_text(f"{2 * GIBIBYTE}\n")
    assert memory_budget(CPU, None).device_bytes == 2 * GIBIBYTE
    (machine / "max").write_text("max\n")
    assert memory_budget(CPU, None).device_bytes == 8 * GIBIBYTE


def test_without_the_system_s_files_the_budget_is_what_it_says_is_free(machine: Path) -> None:
    (machine / "meminfo").unlink()
    assert 0 < memory_budget(CPU, None).device_bytes < 2**50


def test_the_operator_s_choice_counts(machine: Path) -> None:
    assert memory_budget(CPU, 12345).device_bytes == 12345


def test_what_was_freed_can_be_given_back() -> None:
    ModelDevice("cpu", "fp32", None).give_back_memory()


@pytest.mark.gpu
def test_on_cuda_room_is_left_to_work_in_and_the_host_keeps_copies() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    device = torch.device("cuda")
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    budget = memory_budget(device, None)
    assert free_bytes / 2 <= budget.device_bytes <= free_bytes - 2 * GIBIBYTE
    assert budget.host_bytes > 0
    assert budget.total_bytes == total_bytes


@pytest.mark.gpu
def test_pinned_copies_are_equal_and_reach_the_device_without_waiting() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    arrays = {
        "scalar": np.array(3.0, np.float32),
        "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    }
    pinned = ModelDevice.copy(arrays)
    for name, array in arrays.items():
        assert np.array_equal(pinned[name], array)
        assert pinned[name].shape == array.shape
        assert torch.from_numpy(pinned[name]).is_pinned()


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
