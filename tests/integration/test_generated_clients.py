"""Clients that programs made from the checked-in OpenAPI document, asking a real server.

They send all defaults, in the query and in the body. They need `pip install '.[generated]'`, and in
the checkout `npm install --no-save openapi-typescript@7 openapi-fetch typescript@5 @types/node`.
"""

import base64
import importlib
import io
import json
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from load_tests.server import running_server

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
DOCUMENT = HERE / "openapi.json"
PICTURE = Path(str(resources.files("service") / "figures.jpg"))
PYTHON_GENERATOR = shutil.which("openapi-python-client", path=Path(sys.executable).parent)
NODE_MODULES = HERE.parents[1] / "node_modules"
NODE_NEEDS = [NODE_MODULES / name for name in ("openapi-typescript", "openapi-fetch", "typescript")]

OF_GETS = {
    path: operations["get"]
    for path, operations in json.loads(DOCUMENT.read_text())["paths"].items()
    if "get" in operations
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked")
    settings = {"DEFAULT_MODEL": "demo", "OFFLINE": "true", "MODEL_STORE": str(folder / "store")}
    with running_server(settings, folder / "log") as server:
        yield server


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    if PYTHON_GENERATOR is None:
        pytest.skip("needs the extra `generated`")
    folder = tmp_path_factory.mktemp("generated")
    options = ("--path", DOCUMENT, "--output-path", folder / "made_client", "--meta", "none")
    subprocess.run([PYTHON_GENERATOR, "generate", *options], check=True, stdout=subprocess.DEVNULL)
    sys.path.insert(0, str(folder))
    yield lambda name: importlib.import_module(f"made_client.{name}")
    sys.path.remove(str(folder))


@pytest.fixture
def python_client(generated, server):
    with generated("client").Client(base_url=server.url) as client:
        yield client


def questions(generated):
    models, file_of = generated("models"), generated("types").File

    def picture():
        payload = io.BytesIO(PICTURE.read_bytes())
        return file_of(payload=payload, file_name="figures.jpg", mime_type="image/jpeg")

    return {
        "raw": lambda **_: picture(),
        "form": lambda **wishes: models.AnswerFilesBody(image=picture(), **wishes),
        "json": lambda **wishes: models.AnswerJsonBody(
            image=base64.b64encode(PICTURE.read_bytes()).decode(), **wishes
        ),
    }


@pytest.mark.parametrize(
    ("form", "in_query", "in_body"),
    [
        *((form, {}, {}) for form in ("raw", "form", "json")),
        *((form, {"max_instances": 1}, {}) for form in ("raw", "form", "json")),
        *((form, {}, {"max_instances": 1}) for form in ("form", "json")),
    ],
)
def test_a_python_client_with_all_defaults_is_answered(
    generated, python_client, form, in_query, in_body
):
    body = questions(generated)[form](**in_body)
    response = generated("api.images.answer").sync_detailed(
        client=python_client, body=body, **in_query
    )
    assert response.status_code == 200, response.content
    assert (len(response.parsed.instances) == 1) == bool(in_query or in_body)


def test_every_get_of_a_python_client_is_answered(generated, python_client):
    for path, operation in OF_GETS.items():
        (tag,) = operation["tags"]
        module = generated(f"api.{tag}.{operation['operationId']}")
        names = {parameter["name"]: "demo" for parameter in operation.get("parameters", ())}
        response = module.sync_detailed(client=python_client, **names)
        assert response.status_code == 200, path
        assert response.parsed is not None, path


def test_a_typescript_client_with_all_defaults_is_answered(server, tmp_path):
    if not all(map(Path.exists, NODE_NEEDS)) or shutil.which("node") is None:
        pytest.skip("needs Node.js with openapi-typescript, openapi-fetch and typescript")
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    shutil.copy(HERE / "generated_client.mts", tmp_path)

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    programs = tmp_path / "node_modules" / ".bin"
    run(programs / "openapi-typescript", DOCUMENT, "--output", "api.d.ts")
    options = ("--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022")
    run(programs / "tsc", *options, "generated_client.mts")
    said = json.loads(run("node", "generated_client.mjs", server.url, PICTURE))
    for name, num_instances in said["instances"].items():
        assert (num_instances == 1) == ("wish" in name), said
    assert said["statuses"] == dict.fromkeys(OF_GETS, 200)
