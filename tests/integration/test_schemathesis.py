"""The OpenAPI document held against the application, by requests made up from it."""

import base64
import hashlib

import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.config import (
    ChecksConfig,
    GenerationConfig,
    NotAServerErrorConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)
from schemathesis.specs.openapi.checks import positive_data_acceptance

from service.api.access import Access
from service.keys import parse_keys
from tests.integration.conftest import build_service, picture

SEED = 1
MAX_EXAMPLES = 150

PICTURES = tuple(
    picture(size, file_format)
    for size in ((1, 1), (8, 10), (64, 3))
    for file_format in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A picture with some of its bytes changed, and perhaps its end cut off."""
    data = bytearray(draw(st.sampled_from(PICTURES)))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))])


IMAGES = st.one_of(st.sampled_from(PICTURES), damaged(), st.binary(max_size=200))
for media_type in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, IMAGES)
schemathesis.openapi.format("binary", IMAGES)
schemathesis.openapi.format("byte", IMAGES.map(lambda data: base64.b64encode(data).decode()))

LEFT_OUT = {
    positive_data_acceptance: "whether a request makes sense depends on its image and model too",
}
# Made up, their values are hardly ever names of a model or boxes in the image.
HARD_TO_MAKE_UP = (
    *("model", "boxes", "classes", "mesh", "outputs"),
    *("points", "parts", "people", "background", "atlas"),
)


KEY, ADMIN_KEY = "correct horse", "battery staple"
DIGEST, ADMIN_DIGEST = (hashlib.sha256(key.encode()).hexdigest() for key in (KEY, ADMIN_KEY))
MAX_WALKS, MAX_STEPS = 30, 8


def read_document(*modes: GenerationMode, app=None):
    # A client that allows a millisecond gets a 504, which is no defect.
    no_defect = NotAServerErrorConfig(expected_statuses=["2xx", "4xx", "504"])
    project = ProjectConfig(
        generation=GenerationConfig(modes=list(modes)),
        checks=ChecksConfig(not_a_server_error=no_defect),
    )
    config = SchemathesisConfig(seed=SEED, projects=ProjectsConfig(default=project))
    app = app or build_service().app
    return schemathesis.openapi.from_asgi("/openapi.json", app, config=config)


everything = read_document(*GenerationMode)
sense = read_document(GenerationMode.POSITIVE).include(path="/v1/densepose")
locked_service = build_service(access=Access(lambda: parse_keys(f"alice={DIGEST}"), ADMIN_DIGEST))
locked = read_document(*GenerationMode, app=locked_service.app)
walked = read_document(GenerationMode.POSITIVE, app=locked_service.app)
bounded = settings(
    max_examples=MAX_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def leave_out(case, names):
    for name in names:
        for fields in (case.query, case.body):
            if isinstance(fields, dict):
                fields.pop(name, None)


@everything.parametrize()
@bounded
def test_the_application_does_what_its_document_says(case):
    case.call_and_validate(excluded_checks=[*LEFT_OUT])


@sense.parametrize()
@bounded
def test_a_request_that_makes_sense_is_answered_as_the_document_says(case):
    leave_out(case, HARD_TO_MAKE_UP)
    case.call_and_validate(excluded_checks=[*LEFT_OUT])


@locked.parametrize()
@bounded
def test_without_a_key_the_application_does_what_its_document_says_too(case):
    case.call_and_validate(excluded_checks=[*LEFT_OUT])


class Walk(walked.as_state_machine()):
    """From models to what they can do, with the admin's key and then without."""

    def get_call_kwargs(self, case):
        key = KEY if len(self.recorder.cases) % 4 == 0 else ADMIN_KEY
        return {"headers": {"X-API-Key": key}}

    def before_call(self, case):
        # The model is that of the answer before, mostly.
        leave_out(case, [name for name in HARD_TO_MAKE_UP if name != "model"])

    def validate_response(self, response, case, additional_checks=(), **kwargs):
        case.validate_response(response, excluded_checks=[*LEFT_OUT])


def test_one_request_after_the_other_is_answered_as_the_document_says():
    Walk.run(
        settings=settings(
            max_examples=MAX_WALKS,
            stateful_step_count=MAX_STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
    )
    assert locked_service.device.models.loads
    assert locked_service.device.asked
