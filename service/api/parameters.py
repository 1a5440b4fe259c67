"""What a client said beside the image, from everywhere it said it, to checked parameters."""

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service.api.schemas import Parameters
from service.errors import InvalidParameter

MAX_SHOWN_ERRORS = 3
# Known to the contract, but not to this version.
NOT_YET = frozenset({"render"})


def check_parameters(given: Iterable[tuple[str, Any]]) -> Parameters:
    """The parameters, from pairs of name and value; text where they come from a query or a form.

    Raises:
        InvalidParameter: one is unknown, given twice, or no value that it can take.
    """
    values: dict[str, Any] = {}
    for name, value in given:
        if name in NOT_YET:
            raise InvalidParameter(f"{name!a} is not supported yet: leave it out.")
        if name not in Parameters.model_fields:
            known = ", ".join(Parameters.model_fields)
            raise InvalidParameter(f"There is no parameter {name!a:.80}; there are {known}.")
        if name in values:
            raise InvalidParameter(f"{name!a} is given twice.")
        if value is None:
            raise InvalidParameter(f"{name!a} is null: leave it out, or give it a value.")
        values[name] = value
    try:
        return Parameters.model_validate(values)
    except ValidationError as error:
        # That None would do as well is no help: it is what an absent parameter has.
        details = [detail for detail in error.errors() if detail["type"] != "none_required"]
        shown = "; ".join(_describe(detail) for detail in details[:MAX_SHOWN_ERRORS])
        raise InvalidParameter(f"{shown}.") from None


def _describe(detail: ErrorDetails) -> str:
    name, *path = detail["loc"]
    where = "".join(f"[{step}]" for step in path if isinstance(step, int))
    return f"{name}{where}: {detail['msg'].removeprefix('Input ')}"
