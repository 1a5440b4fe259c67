"""Whose request is worked on, known wherever its task goes: parties share evenly what is scarce."""

from contextvars import ContextVar

# All requests without a key together: behind a balancer nobody knows whose they are.
NOBODY = ""

# The name of the request's key.
PARTY: ContextVar[str] = ContextVar("party", default=NOBODY)
