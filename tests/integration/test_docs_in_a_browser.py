"""The page /docs in a real browser: whatever it shows first is executed, and answered with 200.

Needs the extra `browser` (`pip install '.[browser]'`) and Debian's package `chromium`.
"""

import shutil
from importlib import resources

import pytest

from load_tests.server import running_server

CHROMIUM = shutil.which("chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium"),
]
PICTURE = str(resources.files("service") / "figures.jpg")
# In a container there are no namespaces to build the sandbox from; the page is our own.
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
TIMEOUT_MS = 120_000
CONTENT_TYPES = ("image/*", "application/octet-stream", "multipart/form-data", "application/json")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    settings = {"DEFAULT_MODEL": "demo", "OFFLINE": "true", "MODEL_STORE": str(folder / "store")}
    with running_server(settings, folder / "log") as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{server.url}/docs")
    yield page
    page.close()
    assert not complaints


def open_operation(operation):
    operation.locator(".opblock-summary-control").click()
    operation.locator(".try-out__btn").click()


def execute(page, operation):
    with page.expect_response(lambda response: response.request.resource_type == "fetch") as caught:
        operation.locator(".execute").click()
    # What the page makes of it is part of what is shown.
    operation.locator(".live-responses-table").wait_for()
    return caught.value


def open_question(page, content_type):
    operation = page.locator("#operations-images-answer")
    open_operation(operation)
    choice = operation.get_by_label("Request content type")
    assert choice.locator("option").all_inner_texts() == [*CONTENT_TYPES]
    choice.select_option(content_type)
    return operation


def choose_picture(operation):
    operation.locator("input[type=file]").first.set_input_files(PICTURE)


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_a_question_is_answered_as_the_page_shows_it(page, content_type):
    operation = open_question(page, content_type)
    if content_type != "application/json":
        choose_picture(operation)
    response = execute(page, operation)
    assert response.status == 200, response.text()
    assert response.request.header_value("content-type").startswith(content_type)
    assert response.header_value("x-model-id") == "demo"


def test_a_form_that_was_reset_is_answered_too(page):
    operation = open_question(page, "multipart/form-data")
    operation.get_by_role("button", name="Reset").click()
    choose_picture(operation)
    response = execute(page, operation)
    assert response.status == 200, response.text()


def test_a_wish_in_the_form_is_heard_beside_the_defaults_of_the_query(page):
    operation = open_question(page, "multipart/form-data")
    choose_picture(operation)
    form = operation.locator(".opblock-section-request-body")
    form.get_by_placeholder("max_instances").fill("1")
    form.get_by_placeholder("outputs").fill("none")
    response = execute(page, operation)
    assert response.status == 200, response.text()
    answer = operation.locator(".live-responses-table .highlight-code").first.inner_text()
    assert answer.count('"score"') == 1


def test_every_get_is_answered_as_the_page_shows_it(page, server):
    operations = page.locator(".opblock-get")
    operations.first.wait_for()
    answered = []
    for operation in operations.all():
        open_operation(operation)
        response = execute(page, operation)
        assert response.status == 200, response.text()
        answered.append(response.url.removeprefix(server.url))
    paths = page.request.get(f"{server.url}/openapi.json").json()["paths"]
    assert sorted(answered) == sorted(
        path.replace("{name}", "demo") for path, methods in paths.items() if "get" in methods
    )
