"""Files that nobody wrote by accident: whatever is in them, they are read or refused, cheaply."""

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from load_tests import hostile_checkpoints
from load_tests.hostile_checkpoints import read_here, read_in_children
from load_tests.hostile_files import Forger
from model_store import checkpoint, pickled_arrays, torch_archive
from model_store.checkpoint import read_checkpoint
from model_store.errors import CheckpointRejected
from model_store.safetensors_file import map_arrays, write_arrays
from model_store.unpickling import Budget, Unpickler

# Many times what the largest of these files has.
MAX_BYTES = 64 * 2**20
many = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

GLOBALS = (
    *("os system", "builtins eval", "builtins getattr", "posix system", "subprocess Popen"),
    *("numpy.core.multiarray _reconstruct", "numpy._core.multiarray scalar", "numpy ndarray"),
    *("numpy dtype", "collections OrderedDict", "_codecs encode", "torch FloatStorage"),
    *("torch._utils _rebuild_tensor_v2", "torch.storage _load_from_bytes", "numpy load"),
    *("numpy.testing._private.utils runstring", "pickle loads", "functools partial"),
)
LENGTHS = st.one_of(st.integers(0, 300), st.sampled_from((2**16, 2**31, 2**32 - 1)))
NUMBERS = st.sampled_from((0, 1, 2, 3, 255, 2**15, 2**31 - 1, -1, -(2**31)))
TEXTS = st.one_of(
    st.sampled_from((b"model", b"blobs", b"b", b"f4", b"O8", b"V1", b"<", b"latin1", b"storage")),
    st.binary(max_size=12),
)


def text_opcode(opcode, length_format):
    return st.builds(
        lambda text, length: opcode + struct.pack(length_format, length or len(text)) + text,
        TEXTS,
        st.one_of(st.just(0), st.just(0), st.just(0), st.integers(0, 255)),
    )


OPCODES = st.one_of(
    st.sampled_from([getattr(pickle, name) for name in pickle.__all__ if name.isupper()]).filter(
        lambda opcode: isinstance(opcode, bytes) and len(opcode) == 1
    ),
    st.sampled_from([b"(", b"t", b"}", b"]", b")", b"\x85", b"\x86", b"\x87", b"R", b"b", b"s"]),
    st.sampled_from(
        [b"u", b"e", b"a", b"N", b"\x88", b"\x93", b"\x94", b"Q", b"\x81", b"\x82\x01"]
    ),
    st.sampled_from(GLOBALS).map(lambda name: b"c" + name.replace(" ", "\n").encode() + b"\n"),
    NUMBERS.map(lambda number: b"J" + struct.pack("<i", number)),
    st.integers(0, 255).map(lambda index: b"h" + bytes([index])),
    st.integers(0, 255).map(lambda index: b"q" + bytes([index])),
    LENGTHS.map(lambda index: b"r" + struct.pack("<I", index)),
    LENGTHS.map(lambda length: b"X" + struct.pack("<I", length)),
    LENGTHS.map(lambda length: b"\x8e" + struct.pack("<Q", length << 20)),
    text_opcode(b"U", "<B"),
    text_opcode(b"X", "<I"),
    text_opcode(b"C", "<B"),
    text_opcode(b"\x8a", "<B"),
)
PROGRAMS = st.builds(
    lambda protocol, opcodes: bytes([0x80, protocol]) + b"".join(opcodes) + b".",
    st.integers(2, 5),
    st.lists(OPCODES, max_size=60),
)
# What a call of a NumPy function needs, so that programs get beyond their first line.
ARRAY = (
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    b"(K\x01K\x01\x85cnumpy\ndtype\nX\x02\0\0\0f4K\x00K\x01\x87R(K\x03X\x01\0\0\0<NNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89C\x04\0\0\x80?tb"
)
CHECKPOINT = b"\x80\x02}X\x05\0\0\0model}X\x01\0\0\0w" + ARRAY + b"ss."


def read_or_refuse(path: Path, content: bytes) -> bool:
    """Whether it was read; fails where that costs too much, or ends in any other way."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        read_checkpoint(path)
    except CheckpointRejected:
        return False
    else:
        return True
    finally:
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
        tracemalloc.stop()


def test_the_checkpoint_that_is_damaged_below_is_one(tmp_path: Path):
    assert read_or_refuse(tmp_path / "file", CHECKPOINT)


@many
@example(program=b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".")
@example(program=b"\x80\x02" + b")\x85" * 2000 + b"}" + b"s.")
@given(program=PROGRAMS)
def test_a_pickle_of_any_opcodes_is_read_or_refused(tmp_path: Path, program: bytes):
    read_or_refuse(tmp_path / "file", program)


@many
@given(opcodes=st.lists(OPCODES, min_size=1, max_size=3), data=st.data())
def test_a_checkpoint_with_other_opcodes_in_it_is_read_or_refused(tmp_path: Path, opcodes, data):
    place = data.draw(st.integers(2, len(CHECKPOINT) - 1))
    length = data.draw(st.integers(0, 8))
    content = CHECKPOINT[:place] + b"".join(opcodes) + CHECKPOINT[place + length :]
    read_or_refuse(tmp_path / "file", content)


@many
@given(program=PROGRAMS)
def test_an_archive_with_a_pickle_of_any_opcodes_is_read_or_refused(tmp_path: Path, program: bytes):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", bytes(16))
    read_or_refuse(tmp_path / "file", file.getvalue())


def test_no_global_but_of_numbers_is_known_in_a_pickle():
    for name in GLOBALS:
        if name == "torch FloatStorage":  # a name that stands for nothing
            continue
        content = b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n."
        with pytest.raises(CheckpointRejected, match="refuses the global"):
            Unpickler(io.BytesIO(content), len(content), {}, Budget(len(content))).load()


def bomb(num_bytes: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", CHECKPOINT)
        archive.writestr("archive/data/0", bytes(num_bytes))
    return file.getvalue()


def lie_about_size(content: bytes) -> bytes:
    """An archive whose directory claims that its last entry is stored, and as large as can be."""
    place = content.rindex(b"PK\x01\x02")
    entry = bytearray(content)
    struct.pack_into("<H", entry, place + 10, zipfile.ZIP_STORED)
    struct.pack_into("<II", entry, place + 20, 2**32 - 2, 2**32 - 2)
    return bytes(entry)


def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path: Path):
    assert not read_or_refuse(tmp_path / "file", bomb(100 * 2**20))


def test_an_archive_that_lies_about_what_it_holds_is_refused(tmp_path: Path):
    assert not read_or_refuse(tmp_path / "file", lie_about_size(bomb(1000)))


def test_forged_checkpoints_are_read_or_refused_within_their_bytes_and_two_seconds(tmp_path: Path):
    findings = read_here(Forger(0, tmp_path / "canary"), 1000, tmp_path)
    assert findings.defects == []
    assert findings.outcomes["read"] > 50
    assert findings.outcomes["refused"] > 500
    assert findings.num_views > 200


def test_forged_checkpoints_are_read_or_refused_in_a_process_of_their_own_too(tmp_path: Path):
    findings = read_in_children(Forger(2, tmp_path / "canary"), 8, tmp_path)
    assert findings.defects == []
    assert findings.outcomes.total() == 8


def without_bounds(data, dtype, shape, strides=None, offset=0):
    """As it was, for tensors: NumPy trusts strides."""
    try:
        steps = None if strides is None else [stride * dtype.itemsize for stride in strides]
        return np.ndarray(shape, dtype, data, offset * dtype.itemsize, steps)
    except (OverflowError, TypeError, ValueError):
        raise CheckpointRejected("has an array") from None


@pytest.mark.parametrize(
    ("module", "name", "fault", "found"),
    [
        (pickled_arrays, "view_bytes", without_bounds, "reaches beyond its bytes"),
        (torch_archive, "_unwrap_parameter", lambda _: Path("/dev/null").read_text(), "open"),
        (hostile_checkpoints, "MAX_CPU_S", 1e-9, "s of the CPU"),
        (checkpoint, "_DAMAGE", (), "defect"),
    ],
)
def test_a_reader_with_a_fault_would_be_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module, name, fault, found: str
):
    monkeypatch.setattr(module, name, fault)
    findings = read_here(Forger(0, tmp_path / "canary"), 300, tmp_path)
    assert any(found in defect for defect in findings.defects)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from((2**63, 2**64, -(2**63), 1e308)))
    | st.sampled_from(("F32", "BF16", "__metadata__", "\0", "")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("dtype", "shape", "data_offsets", "x")), inner, max_size=3
        )
    ),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.one_of(st.just("F32"), st.just("F32"), VALUES),
        "shape": st.one_of(st.lists(st.one_of(NUMBERS, VALUES), max_size=40), VALUES),
        "data_offsets": st.one_of(
            st.lists(st.one_of(NUMBERS, VALUES), min_size=2, max_size=2), VALUES
        ),
    }
)
HEADERS = st.dictionaries(
    st.sampled_from(("__metadata__", "w", "", "\0")), st.one_of(ENTRIES, st.just({}), VALUES)
)


LIES = (
    {"shape": [16], "data_offsets": [-64, 0]},
    {"shape": [16], "data_offsets": [-(2**40), 64]},
    {"shape": [16], "data_offsets": [2**70, 64]},
    {"shape": [16], "data_offsets": [4, 68]},
    {"shape": [17], "data_offsets": [0, 64]},
    {"shape": [-16], "data_offsets": [0, 64]},
    {"shape": [2**62, 4], "data_offsets": [0, 64]},
    {"shape": [2**70], "data_offsets": [0, 64]},
    {"shape": [1] * 70, "data_offsets": [0, 4]},
    {"shape": [True, 16], "data_offsets": [0, 64]},
    {"shape": [16.0], "data_offsets": [0, 64]},
)


@pytest.mark.parametrize("lie", LIES)
def test_a_safetensors_header_that_points_out_of_the_file_is_refused(tmp_path: Path, lie):
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "F32"} | lie}).encode()
    path = tmp_path / "file"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    with pytest.raises(ValueError):  # noqa: PT011  # whatever says it
        map_arrays(path)


def map_or_refuse(path: Path, header: bytes, length: int | None = None) -> None:
    path.write_bytes(
        struct.pack("<Q", len(header) if length is None else length) + header + bytes(64)
    )
    try:
        arrays, metadata = map_arrays(path)
    except ValueError:
        return
    assert isinstance(metadata, dict)
    for array in arrays.values():
        assert array.dtype == np.float32
        # Whatever is read lies in the file.
        array.tobytes()


@many
@given(header=HEADERS)
def test_a_safetensors_header_of_any_values_is_mapped_or_refused(tmp_path: Path, header):
    map_or_refuse(tmp_path / "file", json.dumps(header).encode())


@pytest.mark.parametrize(
    "header", [b"[" * 100_000, b'{"__metadata__":' * 50_000, b"9" * 5000, b"\xff"]
)
@pytest.mark.parametrize("length", [None, 0, 1, 2**63, 2**64 - 1])
def test_a_safetensors_header_that_is_no_header_is_refused(tmp_path: Path, header, length):
    path = tmp_path / "file"
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header)
    with pytest.raises(ValueError):  # noqa: PT011  # whatever says it
        map_arrays(path)


@many
@given(data=st.data())
def test_a_safetensors_file_that_was_damaged_anywhere_is_mapped_or_refused(tmp_path: Path, data):
    path = tmp_path / "file"
    with path.open("wb") as file:
        write_arrays(file, {"w": np.arange(12, dtype=np.float32)}, {"a": "b"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.unlink()
    path.write_bytes(content)
    try:
        arrays, _ = map_arrays(path)
    except ValueError:
        return
    for array in arrays.values():
        array.tobytes()
