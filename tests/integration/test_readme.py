"""The README's examples, run as they stand against a real server."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from load_tests.server import Server, running_server

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "tests" / "parity" / "data" / "demo" / "test4_3fig.png"
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "server.log"
    with running_server({"DEFAULT_MODEL": "demo"}, log) as server:
        yield server


@pytest.mark.parametrize(
    ("language", "code"), BLOCKS, ids=[f"{kind}{n}" for n, (kind, _) in enumerate(BLOCKS)]
)
def test_an_example_of_the_readme_works(
    server: Server, tmp_path: Path, language: str, code: str
) -> None:
    if language == "bash" and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    assert ADDRESS in code
    with Image.open(PICTURE) as picture:
        picture.convert("RGB").save(tmp_path / "photo.jpg", quality=95)
    code = code.replace(ADDRESS, server.url)
    command = ["bash", "-euc", code] if language == "bash" else [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    if language == "python":
        assert re.search(r"[1-9]\d* people, parts \[", run.stdout)
    elif made := re.search(r"-o (\w+\.png)", code):
        with Image.open(tmp_path / made[1]) as drawn, Image.open(PICTURE) as picture:
            assert drawn.size == picture.size
    else:
        answer = json.loads((tmp_path / "answer.json").read_text())
        assert answer["model"] == "demo"
        assert len(answer["instances"]) > 0


def test_the_readme_has_examples() -> None:
    assert {language for language, _ in BLOCKS} == {"bash", "python"}
    assert len(BLOCKS) >= 5
