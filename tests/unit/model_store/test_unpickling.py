import io
import pickle
import struct

import pytest

from model_store.errors import CheckpointRejected
from model_store.unpickling import MAX_OPCODES, Global, Unpickler


def load(content: bytes, **known_globals: Global) -> object:
    return Unpickler(io.BytesIO(content), len(content), known_globals).load()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_come_back_as_they_were(protocol: int):
    value = {
        "none": None,
        "flags": [True, False],
        "integers": (0, 255, 65_535, -1, 2**31 - 1, -(2**31), 2**40, -(2**62)),
        "floats": (0.0, -1.5e300),
        "text": ["", "ü", "x" * 300],
        "nested": {1: {"a": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))}},
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
        (b"\x80\x02(ios\nsystem\n.", "INST"),
        (b"\x80\x02)\x81.", "NEWOBJ"),
        (b"\x80\x04)}\x92.", "NEWOBJ_EX"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x02I1\n.", "INT"),
        (b"\x80\x02S'a'\n.", "STRING"),
    ],
)
def test_an_opcode_that_checkpoints_do_not_need_is_refused_by_name(content: bytes, opcode: str):
    with pytest.raises(CheckpointRejected, match=f"refuses the opcode {opcode}$"):
        load(content)


@pytest.mark.parametrize("start", [b"", b"\x80", b"\x80\x01", b"\x80\x06", b"(dp0\n.", b"<html>"])
def test_what_is_not_a_pickle_of_protocol_2_to_5_is_refused(start: bytes):
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
        b"\x80\x02})K\x02s.",  # an item under a tuple
        b"\x80\x04K\x01K\x02\x93.",  # a global that numbers name
        b"\x80\x02\x8a\x09123456789.",  # an integer beyond 64 bits
    ],
)
def test_a_pickle_that_does_what_no_checkpoint_does_is_refused(content: bytes):
    known = {"module.name": Global("name", lambda arguments: 1), "module.bare": Global("bare")}
    with pytest.raises(CheckpointRejected):
        Unpickler(io.BytesIO(content), len(content), known).load()


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


def test_nesting_of_any_depth_is_loaded_and_freed():
    nested = load(b"\x80\x02)" + b"\x85" * 200_000 + b".")
    assert isinstance(nested, tuple)


def test_the_number_of_opcodes_is_bounded():
    with pytest.raises(CheckpointRejected, match="opcodes"):
        load(b"\x80\x02" + b"N" * MAX_OPCODES + b".")
