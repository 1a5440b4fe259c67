import io
import pickle
import struct
import time
from collections import Counter
from collections.abc import Mapping

import pytest

from model_store.errors import CheckpointRejected
from model_store.unpickling import MAX_OPCODES, PASSED_OVER, Budget, Global, Unpickler


def load(content: bytes, known_globals: Mapping[str, Global] | None = None) -> object:
    budget = Budget(10 * len(content))
    return Unpickler(io.BytesIO(content), len(content), known_globals or {}, budget).load()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back_as_they_were(protocol: int):
    value = {
        "none": None,
        "flags": [True, False],
        "integers": (0, 255, 65_535, -1, 2**31 - 1, -(2**31), 2**40, -(2**62), 2**64 - 3, 2**600),
        "floats": (0.0, -1.5e300),
        "text": ["", "ü", "x" * 300],
        "nested": {"1": {"a": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))}},
        "again": [],
    }
    value["again"] = [value["text"], value["text"]]
    loaded = load(pickle.dumps(value, protocol))
    assert loaded == value
    assert loaded["again"][0] is loaded["text"]


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_bytes_come_back_as_bytearrays(protocol: int):
    assert load(pickle.dumps([b"ab", b"c" * 300], protocol)) == [b"ab", b"c" * 300]


def test_short_strings_of_python_2_are_text_and_long_ones_bytes():
    assert load(b"\x80\x02U\x02a\xe9.") == "aé"
    assert load(b"\x80\x02T\x02\x00\x00\x00a\xe9.") == b"a\xe9"


@pytest.mark.parametrize(
    ("content", "opcode"),
    [
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02\x83\x01\x00.", "EXT2"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
        (b"\x80\x02}Q.", "BINPERSID"),
        (b"\x80\x02P1\n.", "PERSID"),
        (b"\x80\x02)2.", "DUP"),
        (b"\x80\x02(No.", "OBJ"),
        (b"\x80\x02(ios\nsystem\n.", "INST"),
        (b"\x80\x04)}\x92.", "NEWOBJ_EX"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
    ],
)
def test_an_opcode_that_checkpoints_do_not_need_is_refused_by_name(content: bytes, opcode: str):
    with pytest.raises(CheckpointRejected, match=f"refuses the opcode {opcode}$"):
        load(content)


@pytest.mark.parametrize("start", [b"", b"\x80", b"K\x01.", b"{}", b"\x00", b"<html>"])
def test_what_does_not_begin_like_a_pickle_is_refused(start: bytes):
    with pytest.raises((CheckpointRejected, EOFError)):
        load(start)


def test_a_global_that_is_not_listed_is_refused_by_name_before_it_is_called():
    for content in (b"\x80\x02cposix\nsystem\n.", b"\x80\x04\x8c\x05posix\x8c\x06system\x93."):
        with pytest.raises(CheckpointRejected, match=r"refuses the global posix\.system$"):
            load(content)


def test_a_global_s_name_cannot_forge_a_line_of_a_log():
    with pytest.raises(CheckpointRejected) as error:
        load(b"\x80\x04\x8c\x02\x1b\r\x8c\x03a\nb\x93.")
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02]K\x01b.",  # a state for a list
        b"\x80\x02cmodule\nname\n}b.",  # a state for a function
        b"\x80\x02cmodule\nname\nN}U\x08__code__K\x01s\x86b.",  # attributes for a function
        b"\x80\x02cmodule\nname\n)R}b.",  # a state for what it returned
        b"\x80\x02K\x01)R.",  # a call of a number
        b"\x80\x02cmodule\nname\n]R.",  # a call with a list
        b"\x80\x02cmodule\nbare\n)R.",  # a call of what is only a name
        b"\x80\x02)K\x01a.",  # an append to a tuple
        b"\x80\x02]K\x01K\x02s.",  # an item of a list
        b"\x80\x02](\x90.",  # items for a set that is a list
        b"\x80\x02K\x01)\x81.",  # an object of a number
        b"\x80\x04K\x01K\x02\x93.",  # a global that numbers name
        b"\x80\x02\x8b\x00\x01\x00\x00" + bytes(256) + b".",  # an integer beyond all reason
    ],
)
def test_a_pickle_that_does_what_no_checkpoint_does_is_refused(content: bytes):
    known = {"module.name": Global("name", lambda arguments: 1), "module.bare": Global("bare")}
    with pytest.raises(CheckpointRejected):
        load(content, known)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02K",
        b"\x80\x02h\x07.",
        b"\x80\x02t.",
        b"\x80\x02\x85.",
        b"\x80\x02a.",
        b"\x80\x02q\x01.",
        b"\x80\x02X\x01\x00\x00\x00\xff.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02\xff.",
        b"\x80\x02cos",
    ],
)
def test_a_damaged_pickle_is_an_error_of_a_known_type(content: bytes):
    with pytest.raises((EOFError, LookupError, ValueError)):
        load(content)


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x8d", b"\x96"])
def test_a_length_beyond_the_file_is_refused_without_an_allocation(opcode: bytes):
    with pytest.raises(EOFError):
        load(b"\x80\x05" + opcode + struct.pack("<Q", 2**50) + b"abc.")


def test_a_large_memo_index_costs_nothing():
    assert load(b"\x80\x02K\x05r\xff\xff\xff\xff.") == 5


@pytest.mark.parametrize("index", [b"p-1\n", b"p99999999999\n", b"g7\n", b"gx\n", b"Ix\n", b"F\n"])
def test_a_written_number_that_is_none_is_damage(index: bytes):
    with pytest.raises((LookupError, ValueError)):
        load(b"(K\x05" + index + b".")


def test_sets_and_what_else_nobody_needs_is_passed_over():
    value = {"a": [{1, 2}, frozenset([3]), 1j, Counter("ab")], "b": 1}
    for protocol in range(6):
        assert load(pickle.dumps(value, protocol)) == {"a": [PASSED_OVER] * 4, "b": 1}


@pytest.mark.parametrize("key", [b"K\x01", b")", b"N", b"G" + bytes(8), b"h\x00"])
def test_what_stands_under_a_key_that_is_no_name_is_passed_over(key: bytes):
    assert load(b"\x80\x02]q\x00}U\x01aK\x01s" + key + b"K\x02s.") == {"a": 1}


def test_an_opcode_takes_the_same_time_whatever_lies_on_the_stack():
    text = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6
    nested = b")" + b"".join(b"q%ch%ch%c\x86" % (i, i, i) for i in range(200))
    known = {"m.f": Global("f", lambda arguments: None), "a.a": Global("a")}
    for content in (
        b"\x80\x02" + text + b"q\x01" + text + b"q\x02}" + b"h\x01Nsh\x02Ns" * 80_000 + b".",
        b"\x80\x02" + nested + b"q\xff}" + b"h\xffNs" * 100_000 + b".",
        b"\x80\x02]q\x01("
        + b"N" * 100_000
        + b"tq\x02cm\nf\nq\x03"
        + b"h\x03h\x02R" * 100_000
        + b".",
        b"\x80\x02" + text + b"q\x01" + b"ctorch\nSize\nh\x01R" * 50_000 + b".",
        b"\x80\x02" + b"".join(b"I%d\n0" % (k * (2**61 - 1)) for k in range(100_000)) + b"N.",
    ):
        begun_s = time.process_time()
        load(content, known)
        assert time.process_time() - begun_s < 2


def test_nesting_of_any_depth_is_loaded_and_freed():
    nested = load(b"\x80\x02)" + b"\x85" * 200_000 + b".")
    assert isinstance(nested, tuple)


def test_the_number_of_opcodes_is_bounded():
    with pytest.raises(CheckpointRejected, match="opcodes"):
        load(b"\x80\x02" + b"N" * MAX_OPCODES + b".")
