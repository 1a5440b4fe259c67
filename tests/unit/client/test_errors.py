"""Every error that a server can answer with has a class."""

import pytest

from service import client
from service.api.errors import FRAMEWORK_PROBLEMS, PROBLEM_OF
from service.client import errors
from service.client.errors import ERROR_OF, DensePoseError, Refused
from service.client.exchange import refusal_in

# Only in the log: who left reads no answer.
UNSEEN = {"client_left"}
CODES = {problem.code for problem in PROBLEM_OF.values()} - UNSEEN
CODES |= {problem.code for problem, _ in FRAMEWORK_PROBLEMS.values()}


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_of_the_server_has_a_class_of_its_own(code):
    error = refusal_in(400, {}, f'{{"code": "{code}", "detail": "so it is"}}'.encode())
    assert type(error) is ERROR_OF[code]
    assert type(error) is not Refused
    assert error.code == code


def test_no_two_codes_share_a_class():
    assert len(set(ERROR_OF.values())) == len(ERROR_OF)


def test_every_class_can_be_imported_from_the_package():
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, DensePoseError)
    }
    assert classes <= set(client.__all__)
    assert all(hasattr(client, name) for name in client.__all__)
