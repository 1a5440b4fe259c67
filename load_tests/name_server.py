"""Names as Docker resolves them: one name, and an address for each container behind it."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dns.exception
import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset

HOST = "127.0.0.1"
TIME_TO_LIVE_S = 1


class NameServer(socketserver.UDPServer):
    """Answers with `addresses`, whatever the name; they may be replaced at any time."""

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Question)
        self.addresses: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """Where it is asked, as host:port."""
        host, port = self.server_address[:2]
        return f"{host!s}:{port}"


class _Question(socketserver.BaseRequestHandler):
    """One question, one answer; what is no question gets none."""

    def handle(self) -> None:
        data, socket = self.request
        try:
            query = dns.message.from_wire(data)
        except dns.exception.DNSException:
            return
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        assert isinstance(self.server, NameServer)
        for question in query.question:
            if question.rdtype == dns.rdatatype.A and self.server.addresses:
                answer.answer.append(
                    dns.rrset.from_text(
                        question.name, TIME_TO_LIVE_S, "IN", "A", *self.server.addresses
                    )
                )
        socket.sendto(answer.to_wire(), self.client_address)


@contextmanager
def running_name_server() -> Iterator[NameServer]:
    """A name server on a free port of this machine."""
    with NameServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
