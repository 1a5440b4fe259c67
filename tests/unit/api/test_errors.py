from collections.abc import Iterator

import pytest

from model_store.errors import ModelStoreError
from service.api.errors import PROBLEM_OF, retry_after_s
from service.errors import ServiceError


def subclasses(error: type[Exception]) -> Iterator[type[Exception]]:
    for subclass in error.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


ERRORS = sorted({*subclasses(ServiceError), *subclasses(ModelStoreError)}, key=str)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_of_ours_has_a_status_and_a_code(error):
    assert error in PROBLEM_OF, f"{error.__name__} has no row in service/api/errors.py"


def test_a_code_has_one_status():
    statuses = {}
    for problem in PROBLEM_OF.values():
        assert statuses.setdefault(problem.code, problem.status) == problem.status


@pytest.mark.parametrize(
    ("estimate_s", "seconds"), [(0, 1), (0.2, 1), (1.1, 2), (29.5, 30), (4000, 30)]
)
def test_an_estimate_of_when_to_try_again_is_whole_seconds_within_reason(estimate_s, seconds):
    assert retry_after_s(estimate_s) == seconds


def test_whoever_may_try_again_is_told_when():
    for problem in PROBLEM_OF.values():
        assert (problem.retry_after_s is not None) == (problem.status in {429, 503})
