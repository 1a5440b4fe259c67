"""The command line, as a process of its own."""

import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest

import model_store

DEMO_FILE = Path(model_store.__file__).with_name("demo.pkl")
PICTURES = Path(__file__).parents[1] / "parity" / "data" / "demo"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


COMMAND = [sys.executable, "-c", "import sys; from service.cli import main; sys.exit(main())"]


def environment_of(store: Path, **settings: str) -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DENSEPOSE_")}
    environment |= {"DENSEPOSE_MODEL_STORE": str(store)}
    return environment | {f"DENSEPOSE_{name}": value for name, value in settings.items()}


def run(store: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = environment_of(store, **settings)
    command = [*COMMAND, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def run_into(
    output: IO[bytes] | int, store: Path, *arguments: str, is_buffered: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run with standard output somewhere else."""
    environment = environment_of(store, DEFAULT_MODEL="demo", OFFLINE="true")
    environment.pop("PYTHONUNBUFFERED", None)
    if not is_buffered:
        environment["PYTHONUNBUFFERED"] = "1"
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_the_version_is_told(store: Path) -> None:
    assert re.fullmatch(r"densepose \d+\.\d+\.\d+\n", run(store, "--version").stdout)


@pytest.mark.parametrize("arguments", [(), ("fly",), ("models", "add", "mine"), ("bench",)])
def test_wrong_usage_is_exit_status_2(store: Path, arguments: tuple[str, ...]) -> None:
    assert run(store, *arguments).returncode == 2


@pytest.mark.parametrize(
    "arguments", [("--version",), ("fly",), ("models", "list"), ("models", "show", "demo")]
)
def test_what_needs_no_arithmetic_does_not_wait_for_pytorch(
    store: Path, arguments: tuple[str, ...]
) -> None:
    code = f"""
import sys
from service.cli import main
try:
    main({list(arguments)!r})
finally:
    sys.stdout = sys.stderr
    print("imported:", *{{"torch", "fastapi", "cv2"}} & set(sys.modules))
"""
    environment = {**os.environ, "DENSEPOSE_MODEL_STORE": str(store)}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "imported:\n" in ran.stderr


def test_pytorch_s_threads_do_not_spin(store: Path) -> None:
    environment = {**os.environ, "DENSEPOSE_MODEL_STORE": str(store), "OMP_DISPLAY_ENV": "TRUE"}
    environment.pop("OMP_WAIT_POLICY", None)
    code = "import sys; from service.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "bench", "--images", str(store / "nothing")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    if "OMP_WAIT_POLICY" not in ran.stderr:
        pytest.skip("this PyTorch's OpenMP does not tell")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in ran.stderr


def test_a_device_that_is_not_there_is_one_line_and_exit_status_2(store: Path) -> None:
    served = run(store, "serve", DEVICE="cuda:99", LOG_LEVEL="error")
    assert served.returncode == 2
    assert len(served.stderr.splitlines()) == 1
    assert "cuda:99" in served.stderr


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({"HOST": "192.0.2.1"}, "DENSEPOSE_HOST"),
        ({}, "DENSEPOSE_PORT"),
        ({"PORT": "1_0"}, "DENSEPOSE_PORT"),
    ],
)
def test_where_nobody_can_listen_is_one_line_and_exit_status_2(
    store: Path, settings: dict[str, str], variable: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        served = run(
            store, "serve", **{"PORT": port, "DEVICE": "cpu", "LOG_LEVEL": "error", **settings}
        )
    assert served.returncode == 2
    assert len(served.stderr.splitlines()) == 1
    assert served.stderr.startswith(f"densepose: {variable} ")


def test_a_number_on_the_command_line_is_decimal_digits(store: Path) -> None:
    for arguments in (
        ("bench", "--images", "x", "--batch", "1_0"),
        ("predict", "x", "--concurrency", "1_0"),
        ("models", "add", "mine", "x", "--like", "demo", "--short-side", "1_0"),
    ):
        ran = run(store, *arguments)
        assert (ran.returncode, "1_0" in ran.stderr.splitlines()[-1]) == (2, True)


def test_a_setting_that_cannot_be_used_is_one_line_and_exit_status_2(store: Path) -> None:
    served = run(store, "serve", MAX_BATCH="many")
    assert served.returncode == 2
    assert len(served.stderr.splitlines()) == 1
    assert "DENSEPOSE_MAX_BATCH" in served.stderr


def test_a_file_of_keys_that_is_not_there_is_one_line_and_exit_status_2(store: Path) -> None:
    served = run(store, "serve", API_KEYS_FILE=str(store / "keys"), LOG_LEVEL="error")
    assert served.returncode == 2
    assert len(served.stderr.splitlines()) == 1
    assert "DENSEPOSE_API_KEYS_FILE" in served.stderr


def test_a_server_without_keys_that_others_can_reach_warns_of_it(store: Path) -> None:
    # Of a device that is not there, so that nothing is served.
    served = run(store, "serve", HOST="0.0.0.0", DEVICE="cuda:99")
    assert served.returncode == 2
    assert "set DENSEPOSE_API_KEYS" in served.stderr
    closed = run(store, "serve", HOST="0.0.0.0", DEVICE="cuda:99", API_KEYS="a=" + "a" * 64)
    assert "set DENSEPOSE_API_KEYS" not in closed.stderr
    assert "a" * 64 not in closed.stderr


def test_own_weights_are_added_listed_measured_and_removed(store: Path, tmp_path: Path) -> None:
    sides = ("--short-side", "320", "--long-side", "533")
    added = run(store, "models", "add", "mine", str(DEMO_FILE), "--like", "demo", *sides)
    assert added.returncode == 0, added.stderr
    listed = run(store, "models", "list").stdout
    assert re.search(r"^mine .*stored", listed, re.MULTILINE)

    images = tmp_path / "images"
    images.mkdir()
    for picture in ("test3_2fig.png", "test4_3fig.png"):
        shutil.copy(PICTURES / picture, images)
    measured = run(store, "bench", "--model", "mine", "--images", str(images), "--batch", "2")
    assert measured.returncode == 0, measured.stderr
    for stage in ("decode", "preprocess", "network", "postprocess", "encode", "total"):
        assert re.search(rf"^{stage} +\d+\.\d +\d+\.\d$", measured.stdout, re.MULTILINE)
    assert re.search(r"^\d+\.\d\d images per second", measured.stdout, re.MULTILINE)

    assert run(store, "models", "remove", "mine").returncode == 0
    assert "mine" not in run(store, "models", "list").stdout


def test_a_hostile_file_is_refused_with_its_code_and_runs_nothing(
    store: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {canary}",)

    file = tmp_path / "model_final.pkl"
    file.write_bytes(pickle.dumps({"model": {"w": np.zeros(3), "x": Hostile()}}))
    added = run(store, "models", "add", "mine", str(file), "--like", "R_50_FPN_s1x")
    assert added.returncode == 1
    assert len(added.stderr.splitlines()) == 1
    assert "checkpoint_unavailable" in added.stderr
    assert "posix.system" in added.stderr
    assert not canary.exists()


def test_weights_of_another_architecture_are_refused(store: Path) -> None:
    added = run(store, "models", "add", "mine", str(DEMO_FILE), "--like", "R_50_FPN_DL_s1x")
    assert added.returncode == 1
    assert "architecture" in added.stderr


WRITING = [
    ["--help"],
    ["--version"],
    ["models", "--help"],
    ["models", "list"],
    ["models", "show", "demo"],
    ["models", "verify", "demo"],
    ["models", "pull", "demo"],
    ["models", "check", "demo"],
]


@pytest.mark.parametrize("arguments", WRITING, ids=" ".join)
def test_output_that_nobody_reads_ends_a_command_without_a_word(
    store: Path, closed_pipe: int, arguments: list[str]
) -> None:
    ran = run_into(closed_pipe, store, *arguments)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_a_measurement_that_nobody_reads_ends_without_a_word(
    store: Path, tmp_path: Path, closed_pipe: int
) -> None:
    shutil.copy(PICTURES / "test1_1fig.png", tmp_path)
    ran = run_into(closed_pipe, store, "bench", "--images", str(tmp_path), "--repetitions", "1")
    assert (ran.returncode, ran.stderr) == (141, "")


@pytest.mark.parametrize("arguments", WRITING[:6], ids=" ".join)
def test_output_that_cannot_be_written_is_one_line(store: Path, arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        ran = run_into(full, store, *arguments)
    assert ran.returncode == 1
    assert ran.stderr == "densepose: cannot_write: the output: No space left on device\n"


def test_output_that_is_not_buffered_fails_alike(store: Path, closed_pipe: int) -> None:
    ran = run_into(closed_pipe, store, "models", "list", is_buffered=False)
    assert (ran.returncode, ran.stderr) == (141, "")
    with Path("/dev/full").open("wb") as full:
        ran = run_into(full, store, "models", "list", is_buffered=False)
    assert ran.returncode == 1
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_from_the_start_lead_nowhere(store: Path, closed: str) -> None:
    ran = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *COMMAND, "models", "list"],
        env=environment_of(store),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ("demo" in ran.stdout) == (">&-" not in f" {closed}".replace("2>&-", ""))


@pytest.mark.parametrize(("stream", "status"), [("full", 1), ("closed", 141)])
def test_images_are_described_though_nobody_can_be_told(
    store: Path, tmp_path: Path, closed_pipe: int, stream: str, status: int
) -> None:
    picture = str(PICTURES / "test1_1fig.png")
    command = [*COMMAND, "predict", picture, "--out", str(tmp_path / "out")]
    environment = environment_of(store, DEFAULT_MODEL="demo", OFFLINE="true", DEVICE="cpu")
    with Path("/dev/full").open("wb") as full:
        output = full if stream == "full" else closed_pipe
        ran = subprocess.run(command, env=environment, stdout=output, stderr=output, check=False)
    assert ran.returncode == status
    assert (tmp_path / "out" / "test1_1fig.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["../mine", "--like", "demo"],
        ["demo", "--like", "demo"],
        ["mine", "--like", "demo", "--short-side", "3"],
        ["mine\x1b[31m\n", "--like", "demo"],
    ],
)
def test_an_own_model_that_cannot_be_is_one_line_with_its_code(
    store: Path, arguments: list[str]
) -> None:
    name, *options = arguments
    added = run(store, "models", "add", name, str(DEMO_FILE), *options)
    assert added.returncode == 1
    (line,) = added.stderr.splitlines()
    assert line.startswith("densepose: invalid_parameter: ")
    assert line.isprintable()


def test_a_file_that_is_none_is_refused_and_not_waited_for(store: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe\x1b[31m")
    added = run(store, "models", "add", "mine", str(tmp_path / "pipe\x1b[31m"), "--like", "demo")
    assert added.returncode == 1
    assert added.stderr == "densepose: checkpoint_unavailable: pipe\\x1b[31m is no file\n"
