"""What is deployed: the image, the containers, and what they may not do."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from load_tests.server import running_server
from service.settings import PREFIX, Settings, unknown_variables

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "docker" / "Dockerfile"
BIN = Path(sys.executable).parent
SERVICES = YAML(typ="safe").load(COMPOSE)["services"]
REPLICAS = {name: each for name, each in SERVICES.items() if "build" in each}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def default_of(text):
    """What a value is where the environment does not say."""
    return re.sub(r"\$\{\w+:-([^}]*)}", r"\1", str(text))


def instructions(name):
    """The arguments of an instruction of the Dockerfile, each time that it stands there."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    return re.findall(rf"^{name} +(.*)$", text, re.MULTILINE)


def test_the_compose_file_follows_its_published_schema():
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE]
    judged = subprocess.run(command, capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout


def test_hadolint_finds_nothing_to_say_about_the_dockerfile():
    judged = subprocess.run(
        [BIN / "hadolint", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert (judged.returncode, judged.stdout) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_rights_that_it_does_not_need_and_ends_nowhere(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid"} & service.keys()
    assert service["restart"] == "unless-stopped"
    assert {"cpus", "memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()
    assert "max-size" in service["logging"]["options"]


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_can_be_reached_from_beyond_this_machine_unless_the_operator_says_so(name):
    for port in SERVICES[name].get("ports", []):
        assert default_of(port).startswith("127.0.0.1:")
    if name != "balancer":
        assert "$" not in str(SERVICES[name].get("ports"))
    assert not ("ports" in SERVICES[name] and "build" in SERVICES[name])


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in REPLICAS])
def test_what_others_made_is_of_a_named_version_and_has_a_health_check(name):
    tag = SERVICES[name]["image"].partition(":")[2]
    assert re.match(r"v?\d+\.\d+", tag)
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_every_file_that_is_mounted_is_there():
    mounted = [
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]
    assert mounted
    assert [path for path in mounted if not (ROOT / path).exists()] == []


def test_what_is_mounted_from_here_cannot_be_written():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            assert not volume.startswith("./") or volume.endswith(":ro")


def test_replicas_have_one_name_and_one_store_and_no_door():
    for replica in REPLICAS.values():
        assert "models:/models" in replica["volumes"]
        assert replica["networks"]["replicas"]["aliases"] == ["service"]
    (volume,) = instructions("VOLUME")
    assert volume == "/models"
    assert "replicas" in SERVICES["balancer"]["networks"]
    assert "replicas" in SERVICES["prometheus"]["networks"]
    assert "replicas" not in SERVICES["grafana"]["networks"]


def test_it_starts_without_gpus_and_has_a_replica_for_each_of_eight():
    assert not {"gpus", "profiles"} & SERVICES["service"].keys()
    assert SERVICES["service"]["environment"]["DENSEPOSE_DEVICE"] == "cpu"
    for number in (1, 2, 4, 8):
        chosen = [
            each for each in REPLICAS.values() if f"gpus-{number}" in each.get("profiles", [])
        ]
        devices = [each["gpus"][0]["device_ids"] for each in chosen]
        assert devices == [[str(index)] for index in range(number)]
        assert {each["environment"]["DENSEPOSE_DEVICE"] for each in chosen} == {"cuda"}


def test_the_settings_are_settings():
    for replica in REPLICAS.values():
        environment = {name: default_of(v) for name, v in replica["environment"].items()}
        assert unknown_variables(environment) == []
        own = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environment.items()
            if name.startswith(PREFIX)
        }
        Settings(_env_file=None, **own)
    limit = default_of(SERVICES["service"]["environment"]["DENSEPOSE_MAX_BODY_BYTES"])
    assert limit == default_of(SERVICES["balancer"]["environment"]["DENSEPOSE_MAX_BODY_BYTES"])
    assert int(limit) == Settings.model_fields["max_body_bytes"].default


def test_build_tools_are_only_where_kernels_are_built():
    assert "COMPILER=" in instructions("ARG")
    assert "COMPILER" not in SERVICES["service"]["build"]["args"]
    assert SERVICES["service"]["tmpfs"] == ["/tmp"]
    for name in REPLICAS.keys() - {"service"}:
        # What Docker mounts there by itself may not be run.
        assert SERVICES[name]["build"]["args"]["COMPILER"]
        assert SERVICES[name]["tmpfs"] == ["/tmp:exec"]


def test_a_replica_is_given_the_time_to_end():
    for replica in REPLICAS.values():
        grace_s = int(replica["stop_grace_period"].removesuffix("s"))
        assert 1000 * grace_s > replica["environment"]["DENSEPOSE_SHUTDOWN_TIMEOUT_MS"]


def test_the_balancer_is_told_what_it_knows():
    configuration = (ROOT / "docker" / "haproxy.cfg").read_text()
    for name, value in SERVICES["balancer"]["environment"].items():
        assert set(re.findall(rf"\{{{name}-([^}}]*)}}", configuration)) == {default_of(value)}


def test_nobody_is_an_administrator_of_grafana():
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"


def test_the_image_says_what_it_is_and_runs_as_nobody_in_particular():
    assert 'image.version="${VERSION}"' in " ".join(instructions("LABEL"))
    assert f"VERSION={VERSION}" in instructions("ARG")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f'image.licenses="{project["license"]}"' in " ".join(instructions("LABEL"))
    images = {f"densepose-serving:{VERSION}", f"densepose-serving:{VERSION}-gpu"}
    assert {replica["image"] for replica in REPLICAS.values()} == images
    assert instructions("USER") == ["10001:10001"]
    assert instructions("ENTRYPOINT") == ['["densepose"]']
    assert instructions("CMD") == ['["serve"]']
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


def test_the_image_s_torch_is_one_that_is_supported():
    constraints = (ROOT / "constraints.txt").read_text()
    for name in ("torch", "torchvision"):
        (version,) = [
            each.split("=")[1]
            for each in instructions("ARG")
            if each.startswith(f"{name.upper()}=")
        ]
        (low, high) = re.search(
            rf"^{name}>=([\d.]+),<([\d.]+)$", constraints, re.MULTILINE
        ).groups()
        ordered = [tuple(map(int, each.split(".")[:2])) for each in (low, version, high)]
        assert ordered[0] <= ordered[1] < ordered[2]


def test_the_lock_has_what_the_service_needs_in_the_checked_versions_with_hashes():
    locked = locked_versions((ROOT / "requirements.lock").read_text())
    checked = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    checked = {canonicalize_name(name): version for name, version in checked.items()}
    assert {name: checked[name] for name in locked.keys() & checked.keys()} == {
        name: version for name, version in locked.items() if name in checked
    }
    arguments = dict(each.split("=", 1) for each in instructions("ARG") if "=" in each)
    assert locked["torch"] == arguments["TORCH"]
    assert locked["torchvision"] == arguments["TORCHVISION"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for text in (
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["tracing"],
        *project["build-system"]["requires"],
    ):
        requirement = Requirement(text)
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier


def test_with_another_index_pytorch_alone_comes_without_a_hash(tmp_path):
    lock = (ROOT / "requirements.lock").read_text()
    (tmp_path / "requirements.lock").write_text(lock)
    (command,) = re.findall(r"sed -i .*? requirements\.lock", DOCKERFILE.read_text())
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    left = locked_versions((tmp_path / "requirements.lock").read_text())
    gone = locked_versions(lock).keys() - left.keys()
    assert {"torch", "torchvision", "triton", "nvidia-cublas"} <= gone
    # What torch needs beside them is hashed still, and so is all that the service does.
    assert {"sympy", "filelock", "setuptools", "numpy", "uvicorn", "zlib-ng"} <= left.keys()
    assert all(name.startswith(("torch", "triton", "nvidia-", "cuda-")) for name in gone)


def locked_versions(text):
    """The version of each package; that each has a hash is asserted."""
    entries = re.sub(r"\\\n", " ", text).splitlines()
    versions = {}
    for entry in entries:
        if not entry.startswith("#"):
            name, version = entry.split()[0].split("==")
            assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), name
            versions[canonicalize_name(name)] = version
    return versions


def test_the_health_check_tells_a_living_service_from_a_dead_one(tmp_path):
    (check,) = re.findall(r'HEALTHCHECK .*?"-c", "([^"]*)"\]', DOCKERFILE.read_text(), re.DOTALL)
    # No proxy stands between a container and itself.
    proxies = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}

    def is_healthy(port):
        environment = {**os.environ, **proxies, "DENSEPOSE_PORT": str(port)}
        command = [sys.executable, "-c", check]
        return (
            subprocess.run(
                command, env=environment, stderr=subprocess.DEVNULL, check=False
            ).returncode
            == 0
        )

    command = ("-m", "load_tests.stand_in")
    with running_server({"DEFAULT_MODEL": "demo"}, tmp_path / "log", command) as server:
        assert is_healthy(server.port)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert not is_healthy(nobody.getsockname()[1])


def test_the_package_is_whole_with_no_more_than_what_the_build_is_given(tmp_path):
    """Made of what .dockerignore lets through, it has every file of ours."""
    allowed = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert set(allowed) == {path for line in instructions("COPY") for path in copied(line)}
    source = tmp_path / "source"
    source.mkdir()
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in allowed:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=unwanted)
        else:
            shutil.copy(ROOT / name, source / name)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('..'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    ours = {
        str(path.relative_to(ROOT))
        for package in ("service", "model_store")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert ours - packed == set()
    assert not any(name.startswith(("tests", "load_tests")) for name in packed)


def copied(line):
    """What a COPY of the build stage takes."""
    return [] if line.startswith("--from") else line.split()[:-1]
