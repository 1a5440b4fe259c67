import socket

import dns.message
import dns.query
import dns.rdatatype

from load_tests.name_server import running_name_server

TIMEOUT_S = 10.0


def ask(server, kind="A"):
    host, port = server.address.split(":")
    query = dns.message.make_query("service", kind)
    return dns.query.udp(query, host, TIMEOUT_S, int(port))


def addresses(answer):
    return [record.address for each in answer.answer for record in each]


def test_the_name_has_the_addresses_that_it_is_given_at_the_moment():
    with running_name_server() as server:
        assert ask(server).answer == []
        server.addresses = ("127.0.0.2", "127.0.0.3")
        assert sorted(addresses(ask(server))) == ["127.0.0.2", "127.0.0.3"]
        server.addresses = ("127.0.0.3",)
        assert addresses(ask(server)) == ["127.0.0.3"]


def test_there_are_no_addresses_of_other_kinds():
    with running_name_server() as server:
        server.addresses = ("127.0.0.2",)
        assert ask(server, "AAAA").answer == []


def test_what_is_no_question_is_left_alone():
    with running_name_server() as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        host, port = server.address.split(":")
        client.sendto(b"nonsense", (host, int(port)))
        server.addresses = ("127.0.0.2",)
        assert addresses(ask(server)) == ["127.0.0.2"]
