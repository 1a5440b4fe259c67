"""Whose web pages may use the service, and under which names: Host, Origin, Fetch Metadata, CORS.

A browser sends what any page tells it to, to any server that it reaches, this machine's own too.
"""

from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import Scope

from service.api.docs_page import DOCS_PATHS
from service.api.health import OPERATION_PATHS
from service.errors import ForbiddenOrigin, UnknownHost
from service.hosts import is_loopback, parse_authority

ANY = "*"
DEFAULT_PORTS = {"http": 80, "https": 443}
# What a browser says of a request that no other origin's page has caused.
OWN_SITES = frozenset({"same-origin", "none"})
# Links to these may stand in pages of other origins: what opens in a tab of its own tells them
# nothing.
PAGE_PATHS = frozenset({"/", *DOCS_PATHS})
# What a page of another origin may send, and what it may see of the answer.
REQUEST_METHODS = ("GET", "HEAD", "POST")
REQUEST_HEADERS = (
    *("Accept", "Accept-Language", "Authorization", "Content-Language", "Content-Type"),
    *("X-API-Key", "X-Request-ID"),
    # Of the tracers that pages carry.
    *("Baggage", "Sentry-Trace", "Traceparent", "Tracestate"),
)
ANSWER_HEADERS = ("Retry-After", "Server-Timing", "X-Model-Id", "X-Request-ID")
# How long a browser need not ask again whether it may.
MAX_AGE_S = 600


class Origins:
    """The origins whose pages may use the service beside its own, and the names of its host."""

    def __init__(self, allowed: Iterable[str] = (), hosts: Iterable[str] = (ANY,)) -> None:
        """Both may have `*` for any; a host as `*.example.org` stands for all below it.

        A host that is this machine's own name for itself is always among the second.
        """
        self._allowed = frozenset(origin.lower() for origin in allowed)
        self._hosts = frozenset(hosts)

    def check(self, scope: Scope) -> None:
        """Lets a request pass that no page has sent which may not.

        Raises:
            UnknownHost: the service has no such name: a page's own, perhaps, led to it.
            ForbiddenOrigin: a page of another origin has sent it, and may not.
        """
        headers = Headers(scope=scope)
        # Machines that ask how the service does use whatever address they know.
        if scope["path"] not in OPERATION_PATHS and not self._is_known(headers.get("host")):
            raise UnknownHost(
                "The service does not go by the name in Host: ask for localhost, or have its "
                "operator allow the name."
            )
        if not (_is_visit(scope, headers) or self._may_ask(headers)):
            raise ForbiddenOrigin(
                "A page of another origin may not use this service: have its operator allow the "
                "page's origin."
            )

    def preflight(self, scope: Scope) -> Response | None:
        """The answer to a browser that asks what an allowed page may send; None: it does not."""
        headers = Headers(scope=scope)
        is_asking = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        if not is_asking or self._allowed_origin(headers) is None:
            return None
        return Response(
            headers={
                "Access-Control-Allow-Methods": ", ".join(REQUEST_METHODS),
                "Access-Control-Allow-Headers": ", ".join(REQUEST_HEADERS),
                "Access-Control-Max-Age": str(MAX_AGE_S),
            }
        )

    def describe(self, asked: Headers, answer: MutableHeaders) -> None:
        """Adds to an answer's headers which page may read it."""
        if not self._allowed:
            return
        answer.add_vary_header("Origin")
        origin = self._allowed_origin(asked)
        if origin is not None:
            answer["Access-Control-Allow-Origin"] = ANY if ANY in self._allowed else origin
            answer["Access-Control-Expose-Headers"] = ", ".join(ANSWER_HEADERS)

    def _is_known(self, host: str | None) -> bool:
        # Only HTTP/1.0 may leave it out, and no browser speaks that.
        if host is None or ANY in self._hosts:
            return True
        authority = parse_authority(host.strip())
        if authority is None:
            return False
        name = authority.name
        is_below = any(host[0] == ANY and name.endswith(host[1:]) for host in self._hosts)
        return name in self._hosts or is_below or is_loopback(name)

    def _may_ask(self, headers: Headers) -> bool:
        """Whether what the browser says of the page allows it; programs say nothing of the kind."""
        if ANY in self._allowed or self._allowed_origin(headers) is not None:
            return True
        origins, host = headers.getlist("origin"), headers.get("host", "")
        is_own = not origins or (len(origins) == 1 and _is_same_host(origins[0], host))
        return is_own and OWN_SITES.issuperset(headers.getlist("sec-fetch-site"))

    def _allowed_origin(self, headers: Headers) -> str | None:
        """The origin of the page that asks, where the operator lets it."""
        origins = headers.getlist("origin")
        if len(origins) != 1 or not self._allowed.intersection((ANY, origins[0].lower())):
            return None
        return origins[0]


def _is_visit(scope: Scope, headers: Headers) -> bool:
    """Whether somebody has a page of ours opened in a tab, or a window, of its own."""
    return (
        scope["method"] in {"GET", "HEAD"}
        and scope["path"] in PAGE_PATHS
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


def _is_same_host(origin: str, host: str) -> bool:
    """Whether the page came from where its request goes; the edge may speak another scheme."""
    scheme, _, place = origin.strip().lower().partition("://")
    here, there = parse_authority(place), parse_authority(host.strip())
    if scheme not in DEFAULT_PORTS or here is None or there is None or not here.name:
        return False
    # A port that is not named is the scheme's own; that of the page's scheme is all that is known.
    ports = {DEFAULT_PORTS[scheme] if each.port is None else each.port for each in (here, there)}
    return here.name == there.name and len(ports) == 1
