"""Hosts as `Host`, origins and request targets name them. RFC 3986, 3.2."""

import ipaddress
import re
from dataclasses import dataclass

# A name, or an address of IPv6 in brackets; there may be a port.
AUTHORITY = re.compile(r"([a-z0-9._~%!$&'()*+,;=-]*|\[[0-9a-f:.]+\])(?::([0-9]{0,5}))?")


@dataclass(frozen=True, slots=True)
class Authority:
    """A host's name in lower case, without a dot at its end, and its port if one is named."""

    name: str
    port: int | None = None


def parse_authority(text: str) -> Authority | None:
    """What the text names; None where it is no host, as with a user's name or a path in it."""
    match = AUTHORITY.fullmatch(text.lower())
    if match is None:
        return None
    name, port = match[1].removesuffix("."), int(match[2]) if match[2] else None
    if not name.startswith("["):
        return Authority(name, port)
    try:
        return Authority(f"[{ipaddress.IPv6Address(name[1:-1])}]", port)
    except ValueError:
        return None


def is_loopback(name: str) -> bool:
    """Whether a host's name, or its address, is always that of the machine itself. RFC 6761."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
