import io
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest

from model_store.errors import CheckpointRejected
from model_store.pickled_arrays import PickledArray, find_numpy_globals, view_bytes
from model_store.unpickling import Budget, Unpickler

NUMBERS_234 = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
PROTOCOLS = range(6)


def load(content: bytes, max_bytes: int | None = None) -> object:
    budget = Budget(2 * len(content) if max_bytes is None else max_bytes)
    return Unpickler(io.BytesIO(content), len(content), find_numpy_globals(budget), budget).load()


def load_array(content: bytes, max_bytes: int | None = None) -> np.ndarray:
    loaded = load(content, max_bytes)
    assert isinstance(loaded, PickledArray)
    return loaded.read()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        NUMBERS_234,
        np.asfortranarray(NUMBERS_234),
        NUMBERS_234.transpose(2, 0, 1),
        NUMBERS_234[:, ::2],
        np.float32(7),
        np.array(7, np.float32),
        np.zeros(0, np.float32),
        np.zeros((3, 0, 2), np.float32),
        np.full(1, 0.5, np.float32),
        np.linspace(-1, 1, 1000, dtype=np.float32),
    ],
    ids=["C", "F", "axes", "strided", "scalar", "0-d", "empty", "empty-3d", "one", "long"],
)
def test_an_array_comes_back_as_it_was(array: np.ndarray, protocol: int):
    loaded = load_array(pickle.dumps(array, protocol))
    np.testing.assert_array_equal(loaded, array, strict=True)
    assert loaded.flags.writeable
    assert loaded.flags.c_contiguous


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "code", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]
)
def test_numbers_of_every_kind_become_float32(code: str, protocol: int):
    array = np.array([0, 1, 1, 0], code)
    loaded = load_array(pickle.dumps(array, protocol))
    np.testing.assert_array_equal(loaded, array.astype(np.float32), strict=True)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_module_names_of_numpy_1_and_2_mean_the_same(protocol: int):
    new = pickle.dumps(NUMBERS_234, protocol)
    assert b"numpy._core." in new
    old = new
    for module in (b"numpy._core.multiarray", b"numpy._core.numeric"):
        short = module.replace(b"_core", b"core")
        old = old.replace(bytes([len(module)]) + module, bytes([len(short)]) + short)
        old = old.replace(module, short)
    assert b"numpy._core." not in old
    np.testing.assert_array_equal(load_array(old), NUMBERS_234, strict=True)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_array_that_stands_twice_is_made_once(protocol: int):
    first, second = load(pickle.dumps([NUMBERS_234, NUMBERS_234], protocol))
    assert first is second


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_ordered_dictionary_is_a_dictionary(protocol: int):
    ordered = OrderedDict(a=1, b=OrderedDict(c=2))
    ordered._metadata = {"version": 1}
    assert load(pickle.dumps(ordered, protocol)) == {"a": 1, "b": {"c": 2}}


def test_an_ordered_dictionary_of_python_2_is_a_dictionary():
    content = b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01e](U\x01bK\x02ee\x85R."
    assert load(content) == {"a": 1, "b": 2}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.array([{}, []], dtype=object),
        np.zeros(2, [("a", "<f4"), ("b", "O")]),
        np.zeros(2, "<c8"),
        np.zeros(2, "S4"),
        np.zeros(2, "U4"),
        np.zeros(2, "V4"),
        np.zeros(2, "<M8[s]"),
    ],
    ids=["object", "structured", "complex", "bytes", "text", "void", "date"],
)
def test_an_array_of_anything_but_real_numbers_is_refused(array: np.ndarray, protocol: int):
    assert isinstance(load(pickle.dumps(array, protocol)), PickledArray)
    with pytest.raises(CheckpointRejected, match="refuses the dtype"):
        load_array(pickle.dumps(array, protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_big_endian_array_is_turned_round(protocol: int):
    loaded = load_array(pickle.dumps(NUMBERS_234.astype(">f4"), protocol))
    np.testing.assert_array_equal(loaded, NUMBERS_234, strict=True)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_subclass_of_the_array_is_refused(protocol: int):
    with pytest.raises(CheckpointRejected, match=r"refuses the global numpy\.ma\.core\."):
        load(pickle.dumps(np.ma.masked_array(NUMBERS_234), protocol))


def with_shape(shape: bytes, num_bytes: int = 96) -> bytes:
    """A pickle of a float32 array: a marked tuple's items, and so many bytes."""
    return (
        b"\x80\x03cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01(" + shape + b"t"
        b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x89\x88\x87R"
        b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89B" + struct.pack("<I", num_bytes) + bytes(num_bytes) + b"tb."
    )


HUGE = b"\x8a\x08" + struct.pack("<q", 2**62)


def test_a_true_shape_is_taken():
    assert load_array(with_shape(b"K\x04K\x06")).shape == (4, 6)


@pytest.mark.parametrize(
    "shape",
    [
        b"K\x04K\x07",
        b"K\x04K\x05",
        b"K\x00",
        HUGE,
        HUGE * 4,
        HUGE + b"K\x00",
        HUGE * 3 + b"K\x00",
        b"J\xff\xff\xff\xffJ\xe8\xff\xff\xff",
        b"G\x40\x38\x00\x00\x00\x00\x00\x00",
        b"\x88K\x18",
        b"K\x01" * 40 + b"K\x18",
        b"N",
        b"(K\x18t",
    ],
    ids=[
        "larger",
        "smaller",
        "empty",
        "huge",
        "product-overflows",
        "huge-and-empty",
        "overflowing-and-empty",
        "negative",
        "float",
        "bool",
        "40-d",
        "none",
        "tuple",
    ],
)
def test_a_lying_shape_is_refused(shape: bytes):
    with pytest.raises(CheckpointRejected, match=r"has (an array|arrays)"):
        load_array(with_shape(shape))


def test_an_array_without_its_state_has_no_data():
    with pytest.raises(CheckpointRejected, match="has no data"):
        load_array(
            b"\x80\x03cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R."
        )


NOTHING = bytearray(b"\x01\x02\x03\x04" * 6)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((1,), (1,), 6),
        ((7,), (1,), 0),
        ((6,), (1,), 1),
        ((2,), (6,), 0),
        ((3, 2), (2, 2), 0),
        ((2, 2), (5, 1), 0),
        ((2,), (-1,), 3),
        ((2,), (1,), -1),
        ((0,), (1,), 7),
        ((2,), (2**62,), 0),
        ((2**62,), (1,), 0),
        ((2**62, 2**62), (0, 1), 0),
        ((2,), (1, 1), 0),
        ((2,), (1.0,), 0),
        ((2,), (1,), True),
        ((2,), (1,), None),
        ((-2,), (1,), 4),
    ],
)
@pytest.mark.parametrize("num_bytes", [24, 0])
def test_no_array_reaches_beyond_its_bytes(shape, strides, offset, num_bytes: int):
    with pytest.raises(CheckpointRejected, match="has an array"):
        view_bytes(NOTHING[:num_bytes], np.dtype("<f4"), shape, strides, offset)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((6,), (1,), 0),
        ((2, 3), (1, 2), 0),
        ((2, 2), (4, 1), 0),
        ((1,), (9**9,), 5),
        ((), (), 5),
        ((3, 0), (7, 7), 6),
        ((5, 2), (0, 1), 4),
        ((2, 2), (1, 1), 3),
    ],
)
def test_an_array_within_its_bytes_is_made(shape, strides, offset):
    numbers = np.frombuffer(NOTHING, np.float32)
    expected = np.lib.stride_tricks.as_strided(
        numbers[offset:], shape, [4 * stride for stride in strides]
    )
    view = view_bytes(NOTHING, np.dtype("<f4"), shape, strides, offset)
    np.testing.assert_array_equal(view, expected)


DTYPE = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x89\x88\x87R"
FROM_BUFFER = b"cnumpy._core.numeric\n_frombuffer\n"


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85C\x01b\x87R",
        b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x05\x85C\x01b\x87R",
        b"cnumpy._core.multiarray\n_reconstruct\n)R",
        b"cnumpy\nndarray\n)R",
        b"cnumpy\ndtype\n)R",
        b"cnumpy\ndtype\ncnumpy\nndarray\n\x85R",
        b"cnumpy._core.multiarray\nscalar\n" + DTYPE + b"C\x03abc\x86R",
        b"cnumpy._core.multiarray\nscalar\n" + DTYPE + b"N\x86R",
        FROM_BUFFER + b"(C\x04abcd" + DTYPE + b"K\x01\x85X\x01\x00\x00\x00AtR",
        FROM_BUFFER + b"(C\x04abcd" + DTYPE + b"K\x01\x85X\x01\x00\x00\x00KK\x01\x85tR",
        FROM_BUFFER + b"(NN)NtR",
        b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00utf-7\x86R",
        b"c__builtin__\nbytes\nK\x09\x85R",
        b"ccollections\nOrderedDict\n]]K\x01a\x85R",
        b"ccollections\nOrderedDict\n](]K\x01a\x85R",
        b"ccollections\nOrderedDict\n]()K\x01\x86e\x85R",
        b"ccollections\nOrderedDict\nK\x01\x85R",
    ],
)
def test_a_call_that_no_checkpoint_makes_is_refused(content: bytes):
    with pytest.raises((CheckpointRejected, LookupError)):
        load_array(b"\x80\x03" + content + b".")


@pytest.mark.parametrize(
    "state",
    [
        b"(K\x03X\x01\x00\x00\x00|X\x01\x00\x00\x00aNNK\x08K\x01K\x00t",
        b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ft",
        b"}",
        b"N",
    ],
)
def test_a_state_cannot_make_another_dtype_of_one(state: bytes):
    with pytest.raises(CheckpointRejected, match="dtype"):
        load_array(
            b"\x80\x03cnumpy._core.multiarray\nscalar\n" + DTYPE + state + b"bC\x04abcd\x86R."
        )


def test_bytes_that_are_named_again_and_again_are_not_copied_without_bound():
    data = b"B" + struct.pack("<I", 2000) + bytes(2000) + b"q\x63"
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00f2\x89\x88\x87Rq\x62"
    again = FROM_BUFFER + b"(h\x63h\x62M\xe8\x03\x85X\x01\x00\x00\x00CtR"
    content = b"\x80\x03(" + data + dtype + again * 100 + b"t."
    _, _, *arrays = load(content)
    with pytest.raises(CheckpointRejected, match="larger than the file"):
        [array.read() for array in arrays]


def test_text_that_is_encoded_again_and_again_is_not_copied_without_bound():
    text = b"X" + struct.pack("<I", 2000) + b"a" * 2000 + b"q\x63"
    again = b"c_codecs\nencode\nh\x63X\x06\x00\x00\x00latin1\x86R"
    with pytest.raises(CheckpointRejected, match="larger than the file"):
        load(b"\x80\x02" + text + again * 100 + b".")


def test_a_double_beyond_float32_becomes_infinite_and_not_a_warning():
    assert np.isinf(load_array(pickle.dumps(np.array([1e300]), 4))).all()
