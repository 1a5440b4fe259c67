"""Who may come in, and how often: keys, their limits, and what no request may be."""

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.body import declared_length, too_large
from service.api.errors import answer_expected_error, answer_framework_error
from service.api.health import OPERATION_PATHS
from service.api.origins import PAGE_PATHS, Origins
from service.api.record import REFUSAL_KEY, record_of
from service.batching.ticket import PARTY
from service.errors import Forbidden, Overloaded, ServiceError, Unauthorized
from service.keys import ADMIN, Key, Rate, find_key, sent_digest

# Probes and scrapes have no keys. The documentation says nothing of this server, and a browser
# that opens a page has no way to send a key with it.
OPEN_PATHS = OPERATION_PATHS | PAGE_PATHS
# No path of ours has any, but a pattern's `$` also matches before a line feed at the end.
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Checked by their routes, which take the admin key alone.
ADMIN_PATHS = re.compile(r"/v1/models/.+/(load|unload)")


@dataclass
class _Use:
    """How much of its limits a key has used."""

    num_requests: int = 0
    tokens: float = math.inf
    refilled_s: float = 0.0


class Access:
    """The keys that are known, and what their holders may do. Owned by the event loop."""

    def __init__(
        self,
        keys: Callable[[], tuple[Key, ...]] | None = None,
        admin_key_sha256: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keys` are those of the moment; where it is None, nobody needs one."""
        self._keys = keys
        self._admin = (
            None if admin_key_sha256 is None else Key(ADMIN, bytes.fromhex(admin_key_sha256))
        )
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def admit(self, scope: Scope) -> AbstractContextManager[object]:
        """Lets a request in, for the length of a block; notes whose it is.

        Raises:
            Unauthorized: it needs a key, and has none or an unknown one.
            Overloaded: its key's limits are reached.
        """
        path = scope["path"]
        is_of_admin = scope["method"] == "POST" and ADMIN_PATHS.fullmatch(path)
        if self._keys is None or is_of_admin or path in OPEN_PATHS:
            return nullcontext()
        key = self._find(Headers(scope=scope))
        if key is None:
            raise Unauthorized("Send a key as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
        record_of(scope).key_name = key.name
        # From here on, whatever is done for the request is done for its key.
        PARTY.set(key.name)
        return self._within_limits(key)

    def check_admin(self, request: Request) -> None:
        """Lets a request pass that has the admin key.

        Raises:
            Forbidden: no admin key is set, so none can be right; or this is another key.
            Unauthorized: the request has no key, or an unknown one.
        """
        if self._admin is None:
            raise Forbidden("No admin key is set on this server: nobody may do this over HTTP.")
        key = self._find(request.headers)
        if key is None:
            raise Unauthorized(
                "Send the admin key as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
            )
        record_of(request.scope).key_name = key.name
        if key is not self._admin:
            raise Forbidden("This key may not do this: send the admin key.")

    def _find(self, headers: Headers) -> Key | None:
        digest = sent_digest(headers)
        if digest is None:
            return None
        keys = () if self._keys is None else self._keys()
        return find_key(keys if self._admin is None else (*keys, self._admin), digest)

    @contextmanager
    def _within_limits(self, key: Key) -> Iterator[None]:
        if key.rate is None and key.max_concurrency is None:
            yield
            return
        use = self._uses.setdefault(key.name, _Use(refilled_s=self._clock()))
        if key.max_concurrency is not None and use.num_requests >= key.max_concurrency:
            raise _at_limit(f"This key may have {key.max_concurrency} requests at a time.", 1.0)
        if key.rate is not None:
            self._take_token(use, key.rate)
        use.num_requests += 1
        try:
            yield
        finally:
            use.num_requests -= 1

    def _take_token(self, use: _Use, rate: Rate) -> None:
        """A token bucket that holds as many as come in the rate's time."""
        now_s, per_s = self._clock(), rate.num_requests / rate.seconds
        use.tokens = min(use.tokens + (now_s - use.refilled_s) * per_s, float(rate.num_requests))
        use.refilled_s = now_s
        if use.tokens < 1:
            raise _at_limit(
                f"This key may ask {rate.num_requests} times in {rate.seconds} s.",
                (1 - use.tokens) / per_s,
            )
        use.tokens -= 1


def _at_limit(message: str, retry_after_s: float) -> Overloaded:
    return Overloaded(message, reason="key_limit", retry_after_s=retry_after_s)


class Doorkeeper:
    """Answers what may not come in, before anything of its body is read."""

    def __init__(
        self, app: ASGIApp, *, origins: Origins, access: Access, max_body_bytes: int
    ) -> None:
        self.app = app
        self.origins = origins
        self.access = access
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            if REFUSAL_KEY in scope:
                raise scope[REFUSAL_KEY]
            self.origins.check(scope)
            if (preflight := self.origins.preflight(scope)) is not None:
                await preflight(scope, receive, send)
                return
            with self.access.admit(scope):
                self._check_length(scope)
                if CONTROL_CHARACTER.search(scope["path"]):
                    raise HTTPException(HTTPStatus.NOT_FOUND)
                await self.app(scope, receive, send)
        except HTTPException as error:
            response = await answer_framework_error(Request(scope), error)
            await response(scope, receive, send)
        except ServiceError as error:
            response = await answer_expected_error(Request(scope), error)
            await response(scope, receive, send)

    def _check_length(self, scope: Scope) -> None:
        length = declared_length(Headers(scope=scope))
        if length is not None and length > self.max_body_bytes:
            raise too_large(self.max_body_bytes)
