"""The sockets that a server listens on."""

import errno
import socket

from service.errors import InvalidSetting

BACKLOG = 2048
# Of an address that a name has and this machine has not: localhost without IPv6.
NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def listen(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of the host; that of `::` takes IPv4 too.

    Raises:
        InvalidSetting: the host or the port cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise _not_here(host) from None
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                sockets.append(_bind(family, address))
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise InvalidSetting(_reason(error, host, port)) from None
        if not sockets:
            raise _not_here(host)
    except InvalidSetting:
        for one in sockets:
            one.close()
        raise
    return sockets


def _bind(family: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # The port of a server that has just ended is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            takes_ipv4 = address[0] == "::"
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not takes_ipv4)
        listener.bind(address)
        # At once: of two that only bound the port, neither would know of the other.
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _reason(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"DENSEPOSE_PORT is in use by another process (it is {port} on {host})"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"DENSEPOSE_PORT is not open to this user: take one from 1024 on (it is {port})"
    return f"DENSEPOSE_HOST and DENSEPOSE_PORT cannot be listened on: {error.strerror}"


def _not_here(host: str) -> InvalidSetting:
    return InvalidSetting(f"DENSEPOSE_HOST is no address of this machine (it is {host!a:.80})")
