"""Keys in the headers of a request, known here by their digests alone, and how they are written."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
DIGEST = re.compile(r"[0-9a-fA-F]{64}")
RATE = re.compile(r"([0-9]{1,9})/([smh])")
CONCURRENCY = re.compile(r"[0-9]{1,6}")
SECONDS_OF = {"s": 1, "m": 60, "h": 3600}
# The holder of the admin key is called so in the log; no other key may be.
ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds; all of them may come at once."""

    num_requests: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Key:
    """Whose it is, its SHA-256, and how much of the service its holder may have."""

    name: str
    digest: bytes
    rate: Rate | None = None
    max_concurrency: int | None = None


def parse_keys(text: str) -> tuple[Key, ...]:
    """The keys of `name=<sha256 hex>[;rate=10/s][;concurrency=4]`, separated by commas or lines.

    What follows a `#` in a line is for people.

    Raises:
        ValueError: an entry is none, or a name or a digest stands twice; it says which by its
            number, and shows nothing of it.
    """
    lines = (line.partition("#")[0] for line in text.splitlines())
    entries = [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]
    keys = [_parse_key(entry, number) for number, entry in enumerate(entries, start=1)]
    if len({key.name for key in keys}) < len(keys):
        raise ValueError("two keys have one name")
    if len({key.digest for key in keys}) < len(keys):
        raise ValueError("one key stands under two names")
    return tuple(keys)


def _parse_key(entry: str, number: int) -> Key:
    (name, digest), *limits = (_split_pair(part) for part in entry.split(";"))
    of_limit = dict(limits)
    rate = RATE.fullmatch(of_limit.get("rate", "1/s"))
    concurrency = CONCURRENCY.fullmatch(of_limit.get("concurrency", "1"))
    if not (NAME.fullmatch(name) and DIGEST.fullmatch(digest)):
        raise ValueError(f"key {number} is not name=<SHA-256 in hexadecimal>")
    if name == ADMIN:
        raise ValueError(f"key {number} has the name of the admin key")
    is_known = of_limit.keys() <= {"rate", "concurrency"} and len(of_limit) == len(limits)
    if not (is_known and rate and concurrency and int(rate[1]) and int(concurrency[0])):
        raise ValueError(f"the limits of key {number} are not like rate=10/s or concurrency=4")
    return Key(
        name,
        bytes.fromhex(digest),
        Rate(int(rate[1]), SECONDS_OF[rate[2]]) if "rate" in of_limit else None,
        int(concurrency[0]) if "concurrency" in of_limit else None,
    )


def _split_pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip(), value.strip()


def sent_digest(headers: Mapping[str, str]) -> bytes | None:
    """The SHA-256 of the key that came as a bearer token or `X-API-Key`; None without one.

    The headers' names are compared without regard to case, and their bytes stand as Latin-1.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    return hashlib.sha256(key.encode("latin-1")).digest() if key else None


def find_key(keys: Iterable[Key], digest: bytes) -> Key | None:
    """The key of this digest.

    All are compared, each in constant time: how long it takes tells nothing of any of them.
    """
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found
