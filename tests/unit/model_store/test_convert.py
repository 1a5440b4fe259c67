import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_store import convert as module
from model_store.convert import convert, read_apart
from model_store.errors import CheckpointRejected, CheckpointUnavailable
from model_store.safetensors_file import map_arrays

METADATA = {"source_sha256": "0123", "odd": "a=b"}


def write_checkpoint(path: Path, **arrays: np.ndarray) -> Path:
    path.write_bytes(pickle.dumps({"model": arrays}, 4))
    return path


def convert_to(target: Path, source: Path, while_waiting: Callable[[], object] = list) -> None:
    with target.open("wb") as file:
        convert(source, file, METADATA, while_waiting)


def test_the_converted_file_has_the_checkpoint_s_arrays(tmp_path: Path):
    half = np.arange(6, dtype=np.float16).reshape(2, 3)
    arrays = {"a": half.T, "__metadata__": half}
    source = write_checkpoint(tmp_path / "source.pkl", **arrays)
    convert_to(tmp_path / "target", source)
    converted, metadata = map_arrays(tmp_path / "target")
    assert list(converted) == ["a"]
    np.testing.assert_array_equal(converted["a"], half.T.astype(np.float32), strict=True)
    assert metadata == METADATA


def test_arrays_can_be_had_without_a_place_on_the_disk(tmp_path: Path):
    source = write_checkpoint(tmp_path / "source.pkl", a=np.arange(5.0), b=np.zeros((0, 2)))
    tmp_path.chmod(0o500)
    arrays = read_apart(source, list)
    np.testing.assert_array_equal(arrays["a"], np.arange(5, dtype=np.float32), strict=True)
    arrays["a"] += 1
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("protocol", range(6))
def test_every_form_is_read_where_no_file_can_be_opened_any_more(tmp_path: Path, protocol: int):
    source = tmp_path / "source"
    values = {"a": np.arange(300.0), "b": torch.ones(2).bfloat16(), "ü": np.float16(1)}
    source.write_bytes(pickle.dumps(values, protocol))
    assert read_apart(source, list).keys() == values.keys()
    for is_new in (False, True):
        torch.save({"a": torch.ones(3)}, source, _use_new_zipfile_serialization=is_new)
        assert list(read_apart(source, list)) == ["a"]
    packed = tmp_path / "packed"
    # The new one, as other programs write archives: names in another encoding, and deflated.
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert list(read_apart(packed, list)) == ["a"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x02cposix\nsystem\n.", r"source\.pkl refuses the global posix\.system"),
        (b"\x80\x04", r"source\.pkl is damaged or cut short"),
        (b"<html>", r"source\.pkl is not a pickle"),
    ],
)
def test_what_is_no_checkpoint_is_refused_as_the_reader_refuses_it(
    tmp_path: Path, content: bytes, reason: str
):
    (tmp_path / "source.pkl").write_bytes(content)
    with pytest.raises(CheckpointRejected, match=reason):
        read_apart(tmp_path / "source.pkl", list)


def test_no_more_memory_is_taken_than_the_file_justifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    array = np.zeros(30_000_000, np.uint8)  # 120 MB of float32
    source = write_checkpoint(tmp_path / "source.pkl", array=array)
    convert_to(tmp_path / "target", source)
    monkeypatch.setattr(module, "BYTES_PER_BYTE", 0)
    monkeypatch.setattr(module, "BASE_BYTES", 200_000_000)
    with pytest.raises(CheckpointRejected, match="takes more memory than its size justifies"):
        convert_to(tmp_path / "target", source)


# What stands in for a reader with a fault: the process's own limits are what is left.
RUNAWAY = """
import sys
from model_store import convert
convert.read_open_checkpoint = lambda *_: {deed}
sys.exit(convert.main())
"""
SLEEP = "__import__('time').sleep(1000)"
DEEDS = {
    # In one call of C, which no signal handler of Python's would end.
    "computes": ("sum(range(10**15))", CheckpointRejected, "takes more time to read"),
    "crashes": (
        "__import__('ctypes').string_at(0)",
        CheckpointRejected,
        "crashed what reads it",
    ),
    "opens a file": ("open('/etc/passwd')", OSError, "Too many open files"),
    "is killed": (
        "__import__('os').kill(__import__('os').getpid(), 9)",
        CheckpointUnavailable,
        "ended by SIGKILL",
    ),
}


@pytest.fixture
def runaway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Has the next conversion do something else."""

    def make(deed: str) -> Path:
        program, popen = RUNAWAY.format(deed=deed), subprocess.Popen

        def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
            python, flag, _, _, *arguments = command
            return popen([python, flag, "-c", program, *arguments], **options)

        monkeypatch.setattr(subprocess, "Popen", start)
        return write_checkpoint(tmp_path / "source.pkl", a=np.zeros(2))

    return make


@pytest.mark.parametrize("name", DEEDS)
def test_a_process_that_runs_away_is_ended(runaway: Callable[[str], Path], name: str):
    deed, error, message = DEEDS[name]
    before_s = cpu_of_children_s()
    with runaway(deed).open("rb") as source, pytest.raises(error, match=message):
        convert(Path(source.name), source, {}, list)
    assert cpu_of_children_s() - before_s < 2


def cpu_of_children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_a_process_that_sleeps_is_ended_too(
    runaway: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "BASE_WALL_S", 0.5)
    source = runaway(SLEEP)
    with pytest.raises(CheckpointUnavailable, match="could not be read in 1 s"):
        read_apart(source, list)


def test_whoever_waits_can_end_it(runaway: Callable[[str], Path]):
    class Enough(Exception):
        pass

    def give_up() -> None:
        raise Enough

    with pytest.raises(Enough):
        read_apart(runaway(SLEEP), give_up)


def test_it_ends_with_its_parent(tmp_path: Path):
    source = write_checkpoint(tmp_path / "source.pkl", a=np.zeros(2))
    program = (
        "import subprocess, sys, pathlib\n"
        "from model_store import convert\n"
        "popen = subprocess.Popen\n"
        f"deed = {RUNAWAY.format(deed=SLEEP)!r}\n"
        "subprocess.Popen = lambda command, **options: "
        "popen([*command[:2], '-c', deed, *command[4:]], **options)\n"
        f"convert.read_apart(pathlib.Path({str(source)!r}), lambda: print(flush=True))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    parent.stdout.readline()
    (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    # It has set its limits.
    wait_until(lambda: re.search(r"Max open files +0 ", Path(f"/proc/{child}/limits").read_text()))
    os.kill(int(child), signal.SIGSTOP)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not is_alive(int(child)))


def wait_until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_whose_parent_is_gone_does_not_begin(tmp_path: Path):
    source = write_checkpoint(tmp_path / "source.pkl", a=np.zeros(2))
    with source.open("rb") as file, (tmp_path / "target").open("wb") as target:
        descriptors = [file.fileno(), target.fileno()]
        arguments = [*map(str, descriptors), "1", str(2**32), "9", "source.pkl"]
        command = [sys.executable, "-m", "model_store.convert", *arguments]
        assert subprocess.run(command, check=False, pass_fds=descriptors).returncode == 1
    assert (tmp_path / "target").stat().st_size == 0


def test_a_target_that_cannot_be_written_is_an_error_of_the_disk(tmp_path: Path):
    source = write_checkpoint(tmp_path / "source.pkl", a=np.zeros(2, np.float32))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            convert_to(tmp_path / "target", source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_source_that_is_not_there_is_unavailable_and_named_without_its_folder(tmp_path: Path):
    with pytest.raises(CheckpointUnavailable, match="cannot open nothing: No such file"):
        read_apart(tmp_path / "nothing", list)


def test_converting_needs_neither_torch_nor_the_network():
    code = "import sys, model_store.convert; print({'torch', 'httpx2'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"set()\n"
