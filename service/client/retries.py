"""When a call is tried again, and when that ends."""

import random
import time

from service.client.errors import DensePoseError, OutOfTime, Refused, ServerUnreachable

# The pause before the n-th repetition is random, up to 2^n of the first, and up to the last.
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.25, 10.0
# Who says so has done nothing yet; another moment, or another replica, may do better.
TRANSIENT_CODES = frozenset({"overloaded", "loading", "draining", "unhealthy"})
# Of whoever stands between: a load balancer without a server, or whose server just went.
TRANSIENT_STATUSES = frozenset({429, 502, 503, 504})


class Attempts:
    """The attempts of one call, within its time."""

    def __init__(self, *, timeout_s: float, max_retries: int, is_safe: bool) -> None:
        """A call that is not safe is repeated only where the server has not begun with it."""
        self.deadline_s = time.monotonic() + timeout_s
        self._num_left = max_retries
        self._is_safe = is_safe
        self._backoff_s = FIRST_BACKOFF_S
        self._last_error: DensePoseError | None = None

    def left_s(self) -> float:
        """The seconds that the next attempt has.

        Raises:
            OutOfTime: none.
        """
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise OutOfTime("The time for this call is over.") from self._last_error
        return left_s

    def pause_s(self, error: DensePoseError) -> float:
        """How long to wait before the next attempt; at least as long as the server asks.

        Raises:
            DensePoseError: this very error, if there is no other attempt.
        """
        self._num_left -= 1
        if self._num_left < 0 or not self._may_repeat(error):
            raise error
        self._last_error = error
        asked_s = (error.retry_after_s or 0.0) if isinstance(error, Refused) else 0.0
        # Those who were told the same number should not come back in the same moment.
        pause_s = asked_s + random.uniform(0, self._backoff_s)  # noqa: S311  # not a secret
        self._backoff_s = min(2 * self._backoff_s, LAST_BACKOFF_S)
        if time.monotonic() + pause_s >= self.deadline_s:
            raise error
        return pause_s

    def _may_repeat(self, error: DensePoseError) -> bool:
        if isinstance(error, ServerUnreachable):
            return self._is_safe or not error.was_sent
        if not isinstance(error, Refused):
            return False
        if error.code is None:
            return self._is_safe and error.status in TRANSIENT_STATUSES
        return error.code in TRANSIENT_CODES
