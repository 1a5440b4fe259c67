import builtins
import functools
import gzip
import io
import operator
import os
import pickle
import random
import struct
import subprocess
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.checkpoint import read_checkpoint, select_parameters
from model_store.errors import CheckpointRejected, CheckpointUnavailable

ARRAYS = {
    "stem.weight": np.linspace(-1, 1, 7 * 11, dtype=np.float32).reshape(7, 11),
    "stem.bias": np.array([0.25, -3], np.float32),
    "stem.num_batches_tracked": np.array(12),
}
BLOBS = {
    "conv1_w": np.linspace(0, 1, 100, dtype=np.float32).reshape(4, 25),
    "conv1_w_momentum": np.zeros(1, np.float32),
    "res_conv1_bn_s": np.array([1, 2, 3, 4], np.float32),
    "AnnIndex_w": np.zeros((2, 2), np.float32),
}
STEM = "backbone.bottom_up.stem.conv1."


def python_2_string(content: bytes) -> bytes:
    if len(content) < 256:
        return b"U" + bytes([len(content)]) + content
    return b"T" + struct.pack("<I", len(content)) + content


def python_2_array(array: np.ndarray) -> bytes:
    shape = b"(" + b"".join(b"M" + struct.pack("<H", length) for length in array.shape) + b"t"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
        + python_2_string(b"b")
        + b"\x87R(K\x01"
        + shape
        + b"cnumpy\ndtype\n"
        + python_2_string(array.dtype.str[1:].encode())
        + b"K\x00K\x01\x87R(K\x03"
        + python_2_string(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + python_2_string(array.tobytes())
        + b"tb"
    )


def python_2_pickle(key: str, arrays: dict[str, np.ndarray]) -> bytes:
    """What Python 2's cPickle writes: every string is of bytes."""
    items = b"".join(
        python_2_string(name.encode()) + python_2_array(array) for name, array in arrays.items()
    )
    cfg = python_2_string(b"cfg") + python_2_string(b"MODEL:\n  TYPE: densepose\n" * 20)
    return b"\x80\x02}(" + python_2_string(key.encode()) + b"}(" + items + b"u" + cfg + b"u."


def torch_file(arrays: dict[str, np.ndarray], key: str | None = "model") -> bytes:
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    file = io.BytesIO()
    torch.save({key: state, "iteration": 5} if key else state, file)
    return file.getvalue()


def write(folder: Path, content: bytes, name: str = "weights.pkl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def assert_are(arrays: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(arrays) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array.astype(np.float32), strict=True)


def damage(content: bytes, chance: random.Random) -> bytes:
    """The content with a few bytes changed, lost or repeated."""
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        position, start = chance.randrange(len(damaged)), chance.randrange(len(damaged))
        match chance.randrange(4):
            case 0:
                damaged[position] = chance.randrange(256)
            case 1:
                damaged[position] ^= 1 << chance.randrange(8)
            case 2:
                del damaged[position : position + chance.randint(1, 8)]
            case 3:
                damaged[position:position] = damaged[start : start + chance.randint(1, 20)]
    return bytes(damaged)


FORMS = {
    **{
        f"protocol-{protocol}": pickle.dumps({"model": ARRAYS, "__author__": "us"}, protocol)
        for protocol in range(6)
    },
    "bare": pickle.dumps(ARRAYS, 4),
    "python-2": python_2_pickle("model", ARRAYS),
    "torch": torch_file(ARRAYS),
    "bare-torch": torch_file(ARRAYS, key=None),
}
CAFFE2_FORMS = {
    "python-2": python_2_pickle("blobs", BLOBS),
    "protocol-2": pickle.dumps({"blobs": BLOBS, "cfg": "MODEL: {}"}, 2),
    "protocol-4": pickle.dumps({"blobs": BLOBS}, 4),
}


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS)
def test_the_same_arrays_are_read_from_every_form(tmp_path: Path, content: bytes):
    assert_are(read_checkpoint(write(tmp_path, content)), ARRAYS)


@pytest.mark.parametrize("content", CAFFE2_FORMS.values(), ids=CAFFE2_FORMS)
def test_a_caffe2_file_is_read_under_detectron2_s_names(tmp_path: Path, content: bytes):
    assert_are(
        read_checkpoint(write(tmp_path, content)),
        {
            STEM + "weight": BLOBS["conv1_w"],
            STEM + "norm.weight": BLOBS["res_conv1_bn_s"],
            STEM + "norm.running_mean": np.zeros(4),
            STEM + "norm.running_var": np.ones(4),
            "AnnIndex_w": BLOBS["AnnIndex_w"],
        },
    )


def test_the_stand_in_for_python_2_is_what_python_reads_as_such():
    loaded = pickle.loads(FORMS["python-2"], encoding="latin1")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(loaded["model"][name], array, strict=True)


def test_the_content_decides_and_not_the_name(tmp_path: Path):
    assert_are(read_checkpoint(write(tmp_path, FORMS["torch"], "weights.pkl")), ARRAYS)
    assert_are(read_checkpoint(write(tmp_path, FORMS["protocol-4"], "weights.pth")), ARRAYS)


def test_half_precision_is_widened(tmp_path: Path):
    half = {"a": np.array([0.1, 65504], np.float16)}
    assert_are(read_checkpoint(write(tmp_path, pickle.dumps({"model": half}, 4))), half)


def test_torch_takes_the_arrays_without_a_copy_or_a_warning(tmp_path: Path):
    for array in read_checkpoint(write(tmp_path, FORMS["protocol-4"])).values():
        assert torch.from_numpy(array).data_ptr() == array.ctypes.data


class Reduced:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


HOSTILE = {
    "system": (lambda canary: Reduced(os.system, f"touch {canary}"), r"posix\.system"),
    "eval": (lambda canary: Reduced(eval, f"open({str(canary)!r}, 'w')"), r"\w+\.eval"),
    "exec": (lambda canary: Reduced(exec, f"open({str(canary)!r}, 'w')"), r"\w+\.exec"),
    "open": (lambda canary: Reduced(open, str(canary), "w"), r"_?io\.open"),
    "getattr": (lambda canary: Reduced(getattr, str(canary), "upper"), r"\w+\.getattr"),
    "import": (lambda canary: Reduced(builtins.__import__, "os"), r"\w+\.__import__"),
    "popen": (
        lambda canary: Reduced(subprocess.Popen, ["touch", str(canary)]),
        r"(subprocess|commands)\.Popen",
    ),
    "partial": (
        lambda canary: Reduced(functools.partial, os.system, f"touch {canary}"),
        r"functools\.partial",
    ),
    "nested": (
        lambda canary: Reduced(operator.itemgetter, Reduced(os.system, f"touch {canary}")),
        r"\w+\.itemgetter|posix\.system",
    ),
    "in-an-array-s-place": (
        lambda canary: {"model": {"a": Reduced(os.mkdir, str(canary))}},
        r"posix\.mkdir",
    ),
    "numpy-load": (lambda canary: Reduced(np.load, str(canary)), r"numpy\S*\.load"),
    "torch-load": (lambda canary: Reduced(torch.load, str(canary)), r"torch\S*\.load"),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_in_a_hostile_pickle_is_run(tmp_path: Path, name: str, protocol: int):
    make, refused = HOSTILE[name]
    content = pickle.dumps(make(tmp_path / "canary"), protocol)
    path = write(tmp_path, content)
    with pytest.raises(CheckpointRejected, match=rf"weights\.pkl refuses the global ({refused})"):
        read_checkpoint(path)
    assert list(tmp_path.iterdir()) == [path]


def test_the_hostile_pickles_would_do_harm_elsewhere(tmp_path: Path):
    pickle.loads(pickle.dumps(HOSTILE["in-an-array-s-place"][0](tmp_path / "canary"), 4))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short"),
        (b"<html>Sign in to continue</html>", "not a pickle.* but a web page"),
        (b"PK\x03\x04 and then nothing", "damaged"),
        (b'{"model": {}}', "not a pickle"),
        (pickle.dumps({"model": {}}, 4), "no arrays"),
        (pickle.dumps({"model": {"a": 1}}, 4), "no arrays"),
        (pickle.dumps([ARRAYS], 4), "no arrays"),
        (pickle.dumps(5, 2), "no arrays"),
        (b"\x89HDF\r\n\x1a\n", "not a pickle and not an archive of torch, but an HDF5 file"),
        (gzip.compress(b"1"), "but compressed with gzip: unpack it"),
        (struct.pack("<Q", 40) + b'{"a": 1}', "but a safetensors file"),
        (bytes(257) + b"ustar" + bytes(300), "but a tar archive"),
        (b"\x93NUMPY\x01", "but a NumPy file"),
    ],
)
def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path, content: bytes, message: str):
    with pytest.raises(CheckpointRejected, match=rf"weights\.pkl .*{message}"):
        read_checkpoint(write(tmp_path, content))


def test_a_script_of_torch_is_not_taken_for_its_weights(tmp_path: Path):
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/data.pkl", "a/constants.pkl"):
            archive.writestr(name, pickle.dumps({}, 2))
    with pytest.raises(CheckpointRejected, match=r"script\.pt is an archive, but not one"):
        read_checkpoint(path)


@pytest.mark.parametrize("prefix", ["module.", "module.module."])
def test_a_prefix_of_training_on_several_devices_is_taken_off(tmp_path: Path, prefix: str):
    wrapped = {prefix + name: array for name, array in ARRAYS.items()}
    assert_are(read_checkpoint(write(tmp_path, torch_file(wrapped))), ARRAYS)
    half = {"module.a": ARRAYS["stem.bias"], "module_b": ARRAYS["stem.bias"]}
    assert_are(read_checkpoint(write(tmp_path, torch_file(half))), half)


BESIDE = {
    "scheduler": {"milestones": Counter([60, 80]), 60: [0.1], (1, 2): None},
    "seed": 2**64 - 3,
    "meta": [torch.Size([1, 2]), torch.device("cuda:0"), torch.bfloat16, {1, 2}, frozenset("a")],
    "numbers": [1j, np.float64(1), np.array("a"), np.zeros(2, "<M8[s]"), np.zeros(2, "c8"), b"a"],
    "tensors": [torch.eye(2).to_sparse(), torch.ones(2, dtype=torch.complex64), torch.tensor(1)],
    "random": np.random.default_rng(0).bit_generator.state["state"],
    "structured": np.zeros(2, [("a", "<f4"), ("b", "S3")]),
    "default": defaultdict(list, a=[1]),
    2: bytearray(b"ab"),
}


def test_harmless_values_beside_the_model_do_not_matter(tmp_path: Path):
    tensors = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
    content = BESIDE | {"model": OrderedDict(tensors)}
    for is_new in (True, False):
        path = tmp_path / "weights.pth"
        torch.save(content, path, _use_new_zipfile_serialization=is_new)
        assert_are(read_checkpoint(path), ARRAYS)
    for protocol in range(6):
        assert_are(read_checkpoint(write(tmp_path, pickle.dumps(content, protocol))), ARRAYS)


def test_an_array_whose_data_never_come_is_refused(tmp_path: Path):
    unfinished = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    with pytest.raises(CheckpointRejected, match="no data for an array: a"):
        read_checkpoint(write(tmp_path, b"\x80\x02}U\x01a" + unfinished + b"s."))


def test_a_file_that_is_not_there_is_unavailable(tmp_path: Path):
    for path in (tmp_path / "nothing.pkl", tmp_path):
        with pytest.raises(CheckpointUnavailable) as error:
            read_checkpoint(path)
        assert str(tmp_path.parent) not in str(error.value)


@pytest.mark.parametrize("content", (FORMS | CAFFE2_FORMS).values(), ids=FORMS | CAFFE2_FORMS)
def test_a_file_that_was_cut_anywhere_is_refused(tmp_path: Path, content: bytes):
    for length in range(0, len(content), 11):
        with pytest.raises(CheckpointRejected):
            read_checkpoint(write(tmp_path, content[:length]))


@pytest.mark.parametrize("content", (FORMS | CAFFE2_FORMS).values(), ids=FORMS | CAFFE2_FORMS)
def test_a_file_that_was_damaged_anywhere_is_read_or_refused(tmp_path: Path, content: bytes):
    chance = random.Random(content)
    messages = []
    for _ in range(200):
        path = write(tmp_path, damage(content, chance))
        try:
            arrays = read_checkpoint(path)
        except CheckpointRejected as error:
            messages.append(str(error))
        else:
            assert all(array.dtype == np.float32 for array in arrays.values())
    assert len(messages) > 30
    assert all(text.startswith("weights.pkl ") and text.isprintable() for text in messages)


def test_an_archive_whose_pickle_is_wrong_but_whole_is_read_or_refused(tmp_path: Path):
    chance = random.Random(0)
    num_refused = 0
    with zipfile.ZipFile(io.BytesIO(FORMS["torch"])) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(200):
        path = tmp_path / "weights.pth"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                is_pickle = name.endswith("data.pkl")
                archive.writestr(name, damage(content, chance) if is_pickle else content)
        try:
            read_checkpoint(path)
        except CheckpointRejected:
            num_refused += 1
    assert num_refused > 100


SHAPES = {"stem.weight": (7, 11), "stem.bias": (2,)}
FLOATS = {name: array.astype(np.float32) for name, array in ARRAYS.items()}


def test_the_network_s_arrays_are_selected_and_the_others_named():
    selected, unused = select_parameters(FLOATS, SHAPES)
    assert_are(selected, {name: ARRAYS[name] for name in SHAPES})
    assert unused == ("stem.num_batches_tracked",)


def test_missing_and_misshapen_arrays_are_listed():
    shapes = {"stem.weight": (11, 7), "head.weight": (3,), "head.bias": (), "stem.bias": (2,)}
    with pytest.raises(CheckpointRejected) as error:
        select_parameters(FLOATS, shapes)
    message = str(error.value)
    assert "another architecture" in message
    assert "of the network's 4 arrays, 2 are missing (head.weight, head.bias)" in message
    assert "1 have another shape (stem.weight [7, 11] instead of [11, 7])" in message


def test_only_the_first_of_many_missing_arrays_are_listed():
    with pytest.raises(CheckpointRejected) as error:
        select_parameters({}, {f"layer.{index}": (1,) for index in range(300)})
    assert "300 are missing (layer.0, " in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_where_they_are_used(value: float):
    broken = FLOATS | {"stem.bias": np.array([0, value], np.float32)}
    with pytest.raises(CheckpointRejected, match=r"not finite \(stem\.bias\)"):
        select_parameters(broken, SHAPES)
    assert select_parameters(broken, {"stem.weight": (7, 11)})[1][0] == "stem.bias"
