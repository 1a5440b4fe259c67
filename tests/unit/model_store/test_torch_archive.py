import io
import os
import pickle
import struct
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.errors import CheckpointRejected
from model_store.pickled_arrays import PickledArray
from model_store.torch_archive import read_archive, read_old_archive, read_pickle
from model_store.unpickling import PASSED_OVER


def save(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def read(content: bytes) -> object:
    return read_archive(io.BytesIO(content), len(content))


def read_array(tensor: torch.Tensor) -> np.ndarray:
    loaded = read(save(tensor))
    assert isinstance(loaded, PickledArray)
    return loaded.read()


def rewrite(content: bytes, name: str, replacement: bytes, compression: int = zipfile.ZIP_STORED):
    """The archive with another content of one entry."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(file, "w", compression) as new,
    ):
        for entry in old.namelist():
            new.writestr(entry, replacement if entry.endswith(name) else old.read(entry))
    return file.getvalue()


def pickle_of(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read("archive/data.pkl")


NUMBERS_345 = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)


@pytest.mark.parametrize(
    "tensor",
    [
        NUMBERS_345,
        NUMBERS_345.transpose(0, 2),
        NUMBERS_345[1:, :, ::2],
        NUMBERS_345[:, :1].expand(3, 4, 5),
        torch.tensor(3.5),
        torch.zeros(0),
        torch.zeros(2, 0, 3),
        torch.nn.Parameter(NUMBERS_345),
        NUMBERS_345.contiguous(memory_format=torch.contiguous_format)[None].to(
            memory_format=torch.channels_last
        ),
    ],
    ids=["C", "axes", "strided", "expanded", "0-d", "empty", "empty-3d", "parameter", "channels"],
)
def test_a_tensor_comes_back_as_it_was(tensor: torch.Tensor):
    loaded = read_array(tensor)
    np.testing.assert_array_equal(loaded, tensor.detach().numpy(), strict=True)
    assert loaded.flags.writeable
    assert loaded.flags.c_contiguous


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float16,
        torch.float64,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.uint8,
        torch.bool,
    ],
)
def test_numbers_of_every_kind_become_float32(dtype: torch.dtype):
    tensor = torch.tensor([0, 1, 1]).to(dtype)
    np.testing.assert_array_equal(read_array(tensor), np.array([0, 1, 1], np.float32), strict=True)


def test_a_training_s_checkpoint_comes_back_whole():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    loaded = read(
        save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "iteration": 7,
                "best": np.float64(0.5),
            }
        )
    )
    assert loaded["iteration"] == 7
    assert set(loaded["model"]) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(loaded["model"][name].read(), tensor.numpy())


def test_tensors_that_share_memory_are_read_once():
    loaded = read(save([NUMBERS_345, NUMBERS_345.flatten()]))
    assert np.shares_memory(loaded[0].read(), loaded[1].read())


def test_bfloat16_is_widened():
    tensor = torch.tensor([[0.1, -3e38], [torch.inf, 0.0]]).bfloat16()
    for one in (tensor, tensor.T, tensor[0, 0], torch.nn.Parameter(tensor)):
        np.testing.assert_array_equal(read_array(one), one.detach().float().numpy(), strict=True)


NOT_NUMBERS = {
    "sparse": torch.zeros(2, 2).to_sparse(),
    "meta": torch.zeros(2, device="meta"),
    "dtype": torch.float32,
    "float8": torch.float8_e4m3fn,
    "size": torch.Size([1, 2]),
    "device": torch.device("cuda", 1),
    "counter": Counter([60, 80]),
    "set": {1},
    "complex number": 1j,
    "uint16": torch.zeros(2, dtype=torch.uint16),
}


@pytest.mark.parametrize("value", NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_what_is_not_a_tensor_of_plain_numbers_is_passed_over(value: object):
    for content in (read(save([value, 5])), read_pickle(*pickled([value, 5]))):
        assert content == [PASSED_OVER, 5]


def test_complex_tensors_are_refused_by_name_where_they_are_used():
    with pytest.raises(CheckpointRejected, match="not of plain numbers"):
        read_array(torch.zeros(2, dtype=torch.complex64))


def pickled(value: object) -> tuple[io.BytesIO, int]:
    content = pickle.dumps(value, 4)
    return io.BytesIO(content), len(content)


TENSORS = [
    torch.arange(60, dtype=torch.float32).reshape(3, 4, 5).transpose(0, 2),
    torch.nn.Parameter(torch.ones(2)),
    torch.tensor([1.5, 2.0]).bfloat16(),
    torch.zeros(0),
    torch.tensor(7),
]


def test_tensors_are_read_from_files_of_every_form():
    shared = torch.arange(10.0)
    marked = torch.ones(2)
    marked.is_marked = True
    tensors = [*TENSORS, shared, shared[3:], marked]
    for content in (
        read(save(tensors)),
        read_old_archive(*save_old(tensors)),
        read_pickle(*pickled(tensors)),
        read_pickle(io.BytesIO(pickle.dumps(tensors, 0)), 10**5),
    ):
        for array, tensor in zip(content, tensors, strict=True):
            np.testing.assert_array_equal(
                array.read(), tensor.detach().float().numpy(), strict=True
            )


def save_old(value: object) -> tuple[io.BytesIO, int]:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=False)
    file.seek(0)
    return file, len(file.getvalue())


def test_an_old_file_that_was_cut_or_changed_anywhere_is_read_or_refused():
    file, num_bytes = save_old([torch.arange(5.0), {"a": torch.ones(3).half()}])
    content = file.getvalue()
    for place in range(num_bytes):
        with pytest.raises((CheckpointRejected, EOFError, LookupError, ValueError, struct.error)):
            read_old_archive(io.BytesIO(content[:place]), place)
    num_read = 0
    for place in range(num_bytes):
        changed = bytearray(content)
        changed[place] ^= 1
        try:
            match read_old_archive(io.BytesIO(changed), num_bytes):
                case [PickledArray() as first, {"a": PickledArray() as second}]:
                    sizes = [array.read().size for array in (first, second)]
                case _:
                    continue
        except (CheckpointRejected, EOFError, LookupError, ValueError, struct.error):
            continue
        assert sizes[0] <= 5
        assert sizes[1] <= 3
        num_read += 1
    assert 0 < num_read < num_bytes / 2


def test_a_pickled_storage_cannot_hold_another_one():
    file, _ = save_old(torch.zeros(1))
    for _ in range(3):
        pickle.load(file)
    inner = file.getvalue()[: file.tell()] + b"\x80\x02ctorch.storage\n_load_from_bytes\n."
    nested = b"\x80\x04ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(inner))
    content = nested + inner + b"\x85R."
    with pytest.raises(CheckpointRejected, match=r"refuses the global torch\.storage"):
        read_pickle(io.BytesIO(content), len(content))


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_the_pickle_is_not_run(tmp_path: Path):
    content = save({"model": {"a": NUMBERS_345}, "x": Canary(tmp_path / "canary")})
    with pytest.raises(CheckpointRejected, match=r"refuses the global posix\.mkdir"):
        read(content)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("true", "lie"),
    [
        (b"K\x3ctq", b"K\x3dtq"),  # elements of the storage
        (b"K\x03K\x04K\x05\x87", b"K\x03K\x04K\x06\x87"),  # shape
        (b"QK\x00", b"QK\x01"),  # offset
        (b"K\x14K\x05K\x01\x87", b"K\x15K\x05K\x01\x87"),  # strides
        (b"K\x14K\x05K\x01\x87", b"K\x14K\x05K\x01\x86"),  # one stride less
        (b"torch\nFloatStorage", b"torch\nDoubleStorage"),
        (b"torch\nFloatStorage", b"torch\nHalfStorage"),
        (b"torch\nFloatStorage", b"torch._utils\n_rebuild_tensor_v2"),
        (b"X\x07\x00\x00\x00storage", b"X\x06\x00\x00\x00module"),
    ],
)
def test_a_tensor_that_lies_about_its_storage_is_refused(true: bytes, lie: bytes):
    content = save(NUMBERS_345)
    pickled = pickle_of(content)
    assert true in pickled
    with pytest.raises(CheckpointRejected):
        read(rewrite(content, "data.pkl", pickled.replace(true, lie))).read()


def test_a_tiny_storage_cannot_be_expanded_into_a_huge_tensor():
    with pytest.raises(CheckpointRejected, match="larger than the file"):
        read_array(torch.zeros(1).expand(2**20, 2**20))


def test_an_archive_that_was_deflated_is_read():
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    content = save(tensor)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        storage = archive.read("archive/data/0")
    deflated = rewrite(content, "data/0", storage, zipfile.ZIP_DEFLATED)
    assert len(deflated) < len(content)
    np.testing.assert_array_equal(read(deflated).read(), tensor.numpy())


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_that_was_compressed_in_another_way_is_refused(compression: int):
    with pytest.raises(CheckpointRejected, match="compressed in another way"):
        read(rewrite(save(torch.zeros(2)), "data/0", bytes(8), compression))


def test_a_bomb_is_refused_before_it_is_unpacked():
    content = save(torch.zeros(10**6))
    bomb = rewrite(content, "data/0", bytes(4 * 10**6), zipfile.ZIP_DEFLATED)
    assert len(bomb) < len(content) // 100
    with pytest.raises(CheckpointRejected, match="more bytes than the file"):
        read(bomb)


def test_an_archive_whose_entries_overlap_is_refused():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(1, 2))
        archive.writestr("archive/data/0", bytes(10_000))
        for key in range(1, 10):
            entry = archive.getinfo("archive/data/0")
            copy = zipfile.ZipInfo(f"archive/data/{key}")
            copy.header_offset, copy.CRC = entry.header_offset, entry.CRC
            copy.compress_size = copy.file_size = entry.file_size
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy
        archive._didModify = True
    with pytest.raises(CheckpointRejected, match="more bytes than the file"):
        read(file.getvalue())


def test_an_archive_of_big_endian_numbers_is_refused():
    with pytest.raises(CheckpointRejected, match="big-endian"):
        read(rewrite(save(NUMBERS_345), "byteorder", b"big"))


@pytest.mark.parametrize("names", [[], ["readme.txt"], ["a/data.pkl", "b/data.pkl"], ["data.pkl"]])
def test_an_archive_of_something_else_is_refused(names: list[str]):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, pickle.dumps(1, 2))
    with pytest.raises(CheckpointRejected, match="not one that torch"):
        read(file.getvalue())


def test_a_damaged_storage_is_noticed_by_its_checksum():
    content = bytearray(save(NUMBERS_345))
    position = content.index(NUMBERS_345.numpy().tobytes())
    content[position + 3] ^= 1
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        read(bytes(content)).read()
