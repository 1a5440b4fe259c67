"""Every error that the contract documents, provoked; and what each of them looks like."""

import base64
import json
import struct
import threading
import zlib
from pathlib import Path

import pytest

from model_store.catalogue import load_catalogue
from model_store.errors import CheckpointRejected, CheckpointUnavailable
from service import errors
from tests.integration.conftest import HEIGHT, WIDTH, build_service, picture

CHECKOUT = Path(__file__).parents[2]
CSE = "cse_R_50_FPN_s1x"
FORM = "multipart/form-data; boundary=frontier"

# The contract's codes by status; those that the application alone cannot give, with the reason.
DOCUMENTED = {
    "malformed_request": 400,
    "unauthorized": 401,
    "forbidden_origin": 403,
    "unknown_model": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "slow_upload": 408,
    "body_too_large": 413,
    "image_too_large": 413,
    "unsupported_media_type": 415,
    "undecodable_image": 422,
    "invalid_parameter": 422,
    "unsupported_output": 422,
    "answer_too_large": 422,
    "unknown_host": 421,
    "overloaded": 429,
    "headers_too_large": 431,
    "internal_error": 500,
    "checkpoint_unavailable": 502,
    "loading": 503,
    "draining": 503,
    "unhealthy": 503,
    "deadline_exceeded": 504,
    "out_of_memory": 507,
}
ELSEWHERE = {
    "forbidden": "of the admin paths: test_admin.py",
}


@pytest.fixture(scope="module")
def shared():
    """A service for those who only look at what it answers."""
    service = build_service()
    yield service
    service.decoders.shutdown()
    service.encoders.shutdown()


def problem_of(response):
    """The error's JSON, after the checks that hold for every error."""
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "code", "request_id"}
    assert problem["status"] == response.status_code
    assert problem["request_id"] == response.headers["x-request-id"]
    assert ("retry-after" in response.headers) == (response.status_code in {429, 503})
    detail = problem["detail"]
    assert detail
    for leak in ("Traceback", str(CHECKOUT), "site-packages", ".py", "DENSEPOSE_", "0x"):
        assert leak not in response.text
    return problem


def bomb():
    """The header of a picture of 60,000 x 60,000 pixels, in a few bytes."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def in_json(**fields):
    return json.dumps({"image": base64.b64encode(picture()).decode()} | fields)


BAD_REQUESTS = [
    ("malformed_request", {"content": b""}),
    ("malformed_request", {"content": b"{", "content_type": "application/json"}),
    ("malformed_request", {"content": b"{}", "content_type": "application/json"}),
    ("malformed_request", {"content": in_json(image="!"), "content_type": "application/json"}),
    ("malformed_request", {"content": b"--frontier", "content_type": FORM}),
    ("malformed_request", {"content_type": "multipart/form-data"}),
    ("unknown_model", {"params": {"model": "R_50_FPN_s2x"}}),
    ("not_acceptable", {"accept": "application/pdf"}),
    ("not_acceptable", {"accept": "image/webp"}),
    ("not_acceptable", {"accept": "image/png", "params": {"outputs": "iuv,mask"}}),
    ("body_too_large", {"content": bytes(1_000_001)}),
    ("body_too_large", {"content": (bytes(100_000) for _ in range(1000))}),
    ("image_too_large", {"content": picture((2000, 501))}),
    ("image_too_large", {"content": bomb()}),
    ("unsupported_media_type", {"content_type": "text/plain"}),
    ("unsupported_media_type", {"content_type": "application/x-www-form-urlencoded"}),
    ("unsupported_media_type", {"content_encoding": "gzip"}),
    ("undecodable_image", {"content": b"\0"}),
    ("undecodable_image", {"content": b"not an image"}),
    ("undecodable_image", {"content": picture()[:-30]}),
    ("undecodable_image", {"content": picture(file_format="JPEG")[:-200]}),
    ("invalid_parameter", {"params": {"colour": "red"}}),
    ("invalid_parameter", {"params": [("model", "demo"), ("model", "other")]}),
    ("invalid_parameter", {"params": {"min_score": "nan"}}),
    ("invalid_parameter", {"params": {"max_instances": "101"}}),
    ("invalid_parameter", {"params": {"boxes": "[[0,0,1,1e999]]"}}),
    ("invalid_parameter", {"params": {"boxes": "[[50,50,60,60]]"}}),
    ("invalid_parameter", {"params": {"classes": "person"}}),
    ("invalid_parameter", {"params": {"mesh": "smpl_27554"}}),
    ("invalid_parameter", {"params": {"render": "picasso"}}),
    ("invalid_parameter", {"content": picture((20_000, 10))}),
    (
        "invalid_parameter",
        {
            "content": in_json(model="demo"),
            "content_type": "application/json",
            "params": {"model": "other"},
        },
    ),
    (
        "invalid_parameter",
        {
            "content": in_json().replace("}", ', "min_score": NaN}'),
            "content_type": "application/json",
        },
    ),
    ("unsupported_output", {"params": {"outputs": "vertices"}}),
    ("unsupported_output", {"params": {"outputs": "confidence"}}),
    ("unsupported_output", {"params": {"outputs": "iuv", "model": CSE}}),
    (
        "unsupported_output",
        {"params": {"outputs": "embedding", "model": CSE, "layout": "image"}},
    ),
]


@pytest.mark.parametrize(("code", "request_"), BAD_REQUESTS)
def test_a_bad_request_costs_the_device_nothing_and_the_next_one_is_answered(
    service, code, request_
):
    response = service.ask(**request_)
    problem = problem_of(response)
    assert (problem["status"], problem["code"]) == (DOCUMENTED[code], code)
    assert service.device.asked == []
    assert service.ask().status_code == 200


RAISED_BY_THE_DEVICE_SIDE = {
    errors.Overloaded: "overloaded",
    errors.AnswerTooLarge: "answer_too_large",
    errors.ModelLoading: "loading",
    errors.Draining: "draining",
    errors.Unhealthy: "unhealthy",
    errors.DeadlineExceeded: "deadline_exceeded",
    errors.OutOfMemory: "out_of_memory",
    CheckpointUnavailable: "checkpoint_unavailable",
    CheckpointRejected: "checkpoint_unavailable",
    RuntimeError: "internal_error",
}


@pytest.mark.parametrize(("error", "code"), RAISED_BY_THE_DEVICE_SIDE.items())
def test_an_error_of_the_device_side_has_its_status_and_code(service, error, code):
    service.device.error = error("what to do")
    response = service.ask()
    problem = problem_of(response)
    assert (problem["status"], problem["code"]) == (DOCUMENTED[code], code)
    assert ("what to do" in problem["detail"]) == (code != "internal_error")
    assert response.headers["x-model-id"] == "demo"
    service.device.error = None
    assert service.ask().status_code == 200


def test_every_documented_code_is_provoked_here_or_says_why_not():
    provoked = {code for code, _ in BAD_REQUESTS} | set(RAISED_BY_THE_DEVICE_SIDE.values())
    others = {"not_found", "method_not_allowed"}
    # test_connections.py, test_hostile_connections.py, test_keys.py, and test_origins.py
    others |= {"slow_upload", "headers_too_large", "unauthorized"}
    others |= {"forbidden_origin", "unknown_host"}
    assert provoked | others == set(DOCUMENTED)
    assert not set(ELSEWHERE) & set(DOCUMENTED)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/densepose/", "/v1/densepose/x", "/%00", "/é"])
def test_an_unknown_path_is_not_found(service, path):
    problem = problem_of(service.client.get(path))
    assert (problem["status"], problem["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "path", ["/metrics", "/livez", "/docs", "/v1/models", "/v1/models/demo", "/openapi.json"]
)
@pytest.mark.parametrize("control", ["%0a", "%0A", "%0d", "%0d%0a", "%00", "%09", "%7f", "%C2%85"])
def test_a_path_with_a_control_character_is_no_path_of_ours(shared, path, control):
    for strange in (path + control, control + path, path.replace("/", f"/{control}", 1)):
        problem = problem_of(shared.client.get(strange))
        assert (problem["status"], problem["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "path",
    [
        *("/livez", "/readyz", "/metrics", "/v1/models", "/v1/models/demo", "/v1/parts"),
        *("/v1/renders", "/docs", "/docs/swagger-ui.css", "/openapi.json", "/nowhere"),
        *("/v1/models/nobody", "/v1/densepose"),
    ],
)
def test_head_is_answered_as_get_without_the_body(shared, path):
    of_get, of_head = shared.client.get(path), shared.client.head(path)
    assert (of_head.status_code, of_head.content) == (of_get.status_code, b"")
    kept = ("content-type", "content-length", "allow", "vary")
    if path == "/metrics":
        # It counts these two.
        kept = ("content-type",)
    for name in kept:
        assert of_head.headers.get(name) == of_get.headers.get(name), name


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/densepose", "POST"),
        ("OPTIONS", "/v1/densepose", "POST"),
        ("PURGE", "/v1/densepose", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/demo", "GET"),
        ("POST", "/readyz", "GET"),
    ],
)
def test_a_method_that_a_path_does_not_take_is_answered_with_those_it_takes(
    service, method, path, allowed
):
    response = service.client.request(method, path)
    problem = problem_of(response)
    assert (problem["status"], problem["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == allowed


def test_an_unknown_model_is_answered_with_the_closest_ids(service):
    for response in (
        service.ask(params={"model": "R_50_FPN_s2x"}),
        service.client.get("/v1/models/R_50_FPN_s2x"),
    ):
        problem = problem_of(response)
        assert problem["code"] == "unknown_model"
        assert "R_50_FPN_s1x" in problem["detail"]


def test_a_defect_says_nothing_of_itself_but_is_logged_with_its_traceback(service, caplog):
    service.device.error = RuntimeError("secret in /srv/service/x.py")
    response = service.ask(x_request_id="defect-1")
    assert problem_of(response)["code"] == "internal_error"
    assert "secret" not in response.text
    (logged,) = [record for record in caplog.records if record.exc_info]
    assert "secret" in str(logged.exc_info[1])
    assert logged.fields["id"] == "defect-1"


def test_an_answer_that_is_too_large_whatever_is_found_is_refused_before_anything_runs(
    make_service,
):
    service = make_service(max_answer_bytes=3 * WIDTH * HEIGHT - 1)
    whole = f"[[0,0,{WIDTH},{HEIGHT}]]"
    for request_ in (
        {"params": {"layout": "image"}},
        {"accept": "image/png"},
        {"params": {"boxes": whole}},
    ):
        assert problem_of(service.ask(**request_))["code"] == "answer_too_large"
    assert service.device.asked == []


def test_an_answer_that_is_too_large_for_what_is_found_is_refused(make_service):
    service = make_service(max_answer_bytes=3 * (200 * 100 + 50 * 40) - 1)
    service.device.boxes = ((0.0, 0.0, 200.0, 100.0), (0.0, 0.0, 50.0, 40.0))
    image = picture((400, 300))
    assert problem_of(service.ask(image))["code"] == "answer_too_large"
    assert len(service.device.asked) == 1
    service.device.boxes = service.device.boxes[:1]
    # Nothing is counted for instances that there might have been.
    assert service.ask(image, params={"max_instances": 100}).status_code == 200
    assert service.inflight_bytes == 0


def test_what_is_written_is_counted_and_ends_at_the_limit(make_service):
    service = make_service(max_answer_bytes=60_000)
    service.device.boxes = ((0.0, 0.0, 80.0, 80.0),)
    image = picture((100, 100))
    # 51,200 bytes of floats are 68,268 letters of base64, which is known before the head runs.
    whole = {"boxes": "[[0,0,80,80]]", "outputs": "uv"}
    assert problem_of(service.ask(image, params=whole))["code"] == "answer_too_large"
    assert service.device.asked == []
    assert service.ask(image, params=whole, accept="application/zip").status_code == 200
    assert service.inflight_bytes == 0


def test_more_bytes_than_all_requests_may_hold_are_refused_for_now(make_service):
    service = make_service(max_inflight_bytes=1000)
    assert problem_of(service.ask(bytes(1001)))["code"] == "overloaded"
    assert problem_of(service.ask(iter([bytes(600)] * 2)))["code"] == "overloaded"
    # The resized picture is larger than the file.
    assert problem_of(service.ask())["code"] == "overloaded"


def test_a_request_that_is_out_of_time_costs_the_device_nothing(service):
    response = service.ask(picture((500, 500)), params={"timeout_ms": 1})
    assert problem_of(response)["code"] == "deadline_exceeded"
    assert service.device.asked == []


@pytest.mark.parametrize("size", [(8, 10), (200, 200)])
def test_a_request_ends_with_its_time_also_where_no_thread_is_free_for_it(make_service, size):
    service = make_service(timeout_ms=300)
    is_over = threading.Event()
    busy = [service.decoders.submit(is_over.wait, 30) for _ in range(4)]
    form = {"image": picture(size, "BMP")}
    try:
        response = service.client.post("/v1/densepose", files=form)
        assert problem_of(response)["code"] == "deadline_exceeded"
        assert not any(each.done() for each in busy)
    finally:
        is_over.set()


def test_only_the_served_models_exist(make_service):
    demo_alone = {"demo": load_catalogue()["demo"]}
    restricted = make_service(cards=demo_alone)
    assert restricted.ask().status_code == 200
    response = restricted.ask(params={"model": "R_50_FPN_s1x"})
    assert problem_of(response)["code"] == "unknown_model"
    assert [model["id"] for model in restricted.client.get("/v1/models").json()["models"]] == [
        "demo"
    ]
