import hashlib

import pytest
from starlette.datastructures import Headers

from service.keys import Key, Rate, find_key, parse_keys, sent_digest

A, B = "a" * 64, "B" * 64
ALICE = Key("alice", bytes.fromhex(A))
BOB = Key("bob", bytes.fromhex(B))


@pytest.mark.parametrize(
    "text",
    [
        f"alice={A},bob={B}",
        f"alice={A}\nbob={B}\n",
        f"# who may ask\n alice = {A} , # of the photo desk\r\n\r\nbob={B},",
    ],
)
def test_keys_are_separated_by_commas_or_lines(text):
    assert parse_keys(text) == (ALICE, BOB)


@pytest.mark.parametrize("text", ["", "\n", " , ", "# nobody"])
def test_there_may_be_no_key(text):
    assert parse_keys(text) == ()


@pytest.mark.parametrize(
    ("limits", "rate", "max_concurrency"),
    [
        (";rate=10/s", Rate(10, 1), None),
        ("; rate = 90/m ; concurrency = 4", Rate(90, 60), 4),
        (";concurrency=1;rate=5000/h", Rate(5000, 3600), 1),
    ],
)
def test_a_key_may_have_limits(limits, rate, max_concurrency):
    assert parse_keys(f"alice={A}{limits}") == (Key("alice", ALICE.digest, rate, max_concurrency),)


@pytest.mark.parametrize(
    "text",
    [
        "secret",
        "alice=secret",
        f"alice={A}0",
        f"alice={A[1:]}",
        f"={A}",
        f"a b={A}",
        f"{'a' * 65}={A}",
        f"admin={A}",
        f"alice={A}=secret",
        f"alice={A};secret",
        f"alice={A};rate=secret",
        f"alice={A};rate=0/s",
        f"alice={A};rate=1/d",
        f"alice={A};rate=1/s;rate=2/s",
        f"alice={A};concurrency=0",
        f"alice={A};concurrency=-1",
        f"alice={A},alice={B}",
        f"alice={A},bob={A}",
        f"alice={A},bob=secret",
    ],
)
def test_what_is_no_key_is_refused_and_not_shown(text):
    with pytest.raises(ValueError, match="key") as refusal:
        parse_keys(text)
    assert "secret" not in str(refusal.value)
    assert A not in str(refusal.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer open sesame"},
        {"authorization": "BEARER   open sesame "},
        {"X-API-Key": "open sesame"},
        {"Authorization": "Basic abc", "X-API-Key": "open sesame"},
    ],
)
def test_a_key_is_a_bearer_token_or_a_header_of_its_own(headers):
    assert sent_digest(Headers(headers)) == hashlib.sha256(b"open sesame").digest()


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer"}, {"Authorization": "Basic x"}, {"X-API-Key": ""}]
)
def test_a_request_without_a_key_has_none(headers):
    assert sent_digest(Headers(headers)) is None


def test_a_key_may_have_any_bytes():
    headers = Headers(raw=[(b"x-api-key", "schlüssel".encode())])
    assert sent_digest(headers) == hashlib.sha256("schlüssel".encode()).digest()


def test_a_key_is_found_by_its_digest_alone():
    assert find_key((ALICE, BOB), BOB.digest) is BOB
    assert find_key((ALICE, BOB), ALICE.digest) is ALICE
    assert find_key((ALICE, BOB), bytes(32)) is None
    assert find_key((), ALICE.digest) is None


def test_every_key_is_compared_also_behind_the_right_one(monkeypatch):
    compared = []

    def compare(first, second):
        compared.append(first)
        return first == second

    monkeypatch.setattr("service.keys.hmac.compare_digest", compare)
    assert find_key((ALICE, BOB), ALICE.digest) is ALICE
    assert compared == [ALICE.digest, BOB.digest]
