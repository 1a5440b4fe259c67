import os
import subprocess
import sys

import pytest

from service.metrics import Metrics
from service.pipeline import pipeline
from service.threads import COUNTS, num_cores, prepare_threads


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """Eight cores, and nothing that this machine's operator has set."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name in ("OMP_WAIT_POLICY", *COUNTS):
        # So that what a test sets is taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def machine(tmp_path):
    """The root of a machine, with these files in it."""

    def make(groups, **files):
        for name, text in {"proc/self/cgroup": groups, **files}.items():
            if text is not None:
                path = tmp_path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        return tmp_path

    return make


def version_2(folder, text):
    return {f"sys/fs/cgroup{folder}/cpu.max": text}


def version_1(folder, quota, period=100_000):
    folder = f"sys/fs/cgroup/cpu,cpuacct{folder}"
    return {
        f"{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"{folder}/cpu.cfs_period_us": f"{period}\n",
    }


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("1000 100000\n", 1),
        ("25000 10000\n", 3),
        ("6400000 100000\n", 8),
        ("max 100000\n", 8),
        ("100000 0\n", 8),
        ("", 8),
    ],
)
def test_a_container_s_limit_is_what_there_is(machine, text, cores):
    assert num_cores(machine("0::/\n", **version_2("", text))) == cores


def test_the_narrowest_of_nested_limits_holds(machine):
    limits = version_2("/pod", "300000 100000") | version_2("/pod/inner", "500000 100000")
    assert num_cores(machine("0::/pod/inner\n", **limits)) == 3
    limits = version_2("/pod", "max 100000") | version_2("/pod/inner", "100000 100000")
    assert num_cores(machine("0::/pod/inner\n", **limits)) == 1


def test_the_limit_of_another_group_is_none(machine):
    assert num_cores(machine("0::/pod\n", **version_2("/other", "100000 100000"))) == 8


def test_a_group_that_cannot_be_seen_from_here_is_none(machine):
    assert num_cores(machine("0::/../other\n", **version_2("", "200000 100000"))) == 2


def test_version_1_of_control_groups_is_read_too(machine):
    groups = "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/a:b\n0::/docker/x\n"
    assert num_cores(machine(groups, **version_1("/docker/x", 250_000))) == 3
    # As a container sees it: the file names a folder that is its own root.
    assert num_cores(machine(groups, **version_1("", 100_000))) == 1
    unlimited = version_1("/docker/x", -1) | version_1("", -1)
    assert num_cores(machine(groups, **unlimited)) == 8


def test_where_nothing_tells_of_limits_it_is_the_cores_that_a_process_may_run_on(machine):
    assert num_cores(machine(None)) == 8
    assert num_cores(machine(None, **version_2("", "200000 100000"))) == 2


def test_more_time_than_cores_gives_no_more_cores(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert num_cores(machine("0::/\n", **version_2("", "400000 100000"))) == 1


def test_in_a_container_the_libraries_count_its_cores(machine):
    prepare_threads(machine("0::/\n", **version_2("", "200000 100000")))
    assert {name: os.environ[name] for name in COUNTS} == dict.fromkeys(COUNTS, "2")


def test_without_a_limit_the_libraries_count_for_themselves(machine):
    prepare_threads(machine("0::/\n", **version_2("", "max 100000")))
    assert not os.environ.keys() & set(COUNTS)


def test_pictures_are_decoded_and_encoded_in_as_many_threads(machine, monkeypatch):
    root = machine("0::/\n", **version_2("", "300000 100000"))
    monkeypatch.setattr(pipeline, "num_cores", lambda: num_cores(root))
    pools = pipeline.Threads(Metrics({}))
    assert pools.decoders._num_threads == pools.encoders._num_threads == 3
    assert pools.pictures.places(is_large=False)._value == 3
    assert pools.pictures.places(is_large=True)._value == 1


def test_every_library_does_what_it_is_told():
    code = "import cv2, torch\nprint(cv2.getNumThreads(), torch.get_num_threads())\n"
    environment = {**os.environ, **dict.fromkeys(COUNTS, "1")}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1", "1"]


@pytest.mark.parametrize("command", ["serve", "bench --images x", "predict x", "models list"])
def test_no_library_is_there_before_it_is_told(command):
    code = f"""
import sys
from service import cli
seen = []
def prepare_threads():
    seen.extend({{"torch", "numpy", "cv2"}} & set(sys.modules))
    sys.exit(f"imported: {{seen}}")
cli.prepare_threads = prepare_threads
cli.main({command.split()!r})
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.stderr == "imported: []\n"


def test_waiting_threads_sleep(machine):
    prepare_threads(machine("0::/\n"))
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_what_an_operator_has_set_stays(machine, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    for name in COUNTS:
        monkeypatch.setenv(name, "5")
    prepare_threads(machine("0::/\n", **version_2("", "200000 100000")))
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert {os.environ[name] for name in COUNTS} == {"5"}
