"""The OpenAPI document held against the application, by requests made up from it."""

import base64

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


def read_document(*modes: GenerationMode):
    # A client that allows a millisecond gets a 504, which is no defect.
    no_defect = NotAServerErrorConfig(expected_statuses=["2xx", "4xx", "504"])
    project = ProjectConfig(
        generation=GenerationConfig(modes=list(modes)),
        checks=ChecksConfig(not_a_server_error=no_defect),
    )
    config = SchemathesisConfig(seed=SEED, projects=ProjectsConfig(default=project))
    return schemathesis.openapi.from_asgi("/openapi.json", build_service().app, config=config)


everything = read_document(*GenerationMode)
sense = read_document(GenerationMode.POSITIVE).include(path="/v1/densepose")
bounded = settings(
    max_examples=MAX_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@everything.parametrize()
@bounded
def test_the_application_does_what_its_document_says(case):
    case.call_and_validate(excluded_checks=[*LEFT_OUT])


@sense.parametrize()
@bounded
def test_a_request_that_makes_sense_is_answered_as_the_document_says(case):
    for name in HARD_TO_MAKE_UP:
        case.query.pop(name, None)
        if isinstance(case.body, dict):
            case.body.pop(name, None)
    case.call_and_validate(excluded_checks=[*LEFT_OUT])
