"""Who may do what: keys in the headers of a request, known here by their digests alone."""

import hashlib
import hmac

from starlette.datastructures import Headers

from service.errors import Forbidden, Unauthorized


def check_key(headers: Headers, key_sha256: str | None) -> None:
    """Let a request pass whose key, a bearer token or `X-API-Key`, has this digest.

    Raises:
        Forbidden: no key is set, so none can be right.
        Unauthorized: the request has no key, or another one.
    """
    if key_sha256 is None:
        raise Forbidden("No admin key is set on this server: nobody may do this over HTTP.")
    scheme, _, token = headers.get("authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    digest = hashlib.sha256(key.encode("latin-1")).hexdigest()
    # In constant time, so that how long it takes tells nothing of the digest.
    if not hmac.compare_digest(digest, key_sha256):
        raise Unauthorized("Send the admin key as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
