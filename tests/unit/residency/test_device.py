from pathlib import Path

import numpy as np
import pytest
import torch

from service.residency import device as module
from service.residency.device import ModelDevice, memory_budget

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
