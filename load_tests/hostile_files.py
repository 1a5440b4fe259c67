"""Forges checkpoints: honest ones that were changed where it hurts, and some that were made to."""

import io
import pickle
import pickletools
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

NUMBERS = (0, 1, 2, 3, 4, 6, 7, 8, 16, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1)
DTYPES = ("f2", "f4", "f8", "i1", "i8", "u1", "b1", "c8", "O8", "V4", "S3", "M8[s]")
STORAGES = ("Float", "Half", "Double", "BFloat16", "Byte", "Bool", "Long", "ComplexFloat", "QInt8")
# What would do harm if it were called, and what the reader knows.
GLOBALS = (
    *("posix system", "os mkdir", "builtins eval", "builtins exec", "builtins getattr"),
    *("builtins __import__", "subprocess Popen", "functools partial", "pickle loads", "numpy load"),
    *("operator attrgetter", "types FunctionType", "model_store.unpickling Global", "io open"),
    *("numpy ndarray", "numpy dtype", "numpy._core.multiarray _reconstruct", "_codecs encode"),
    *("numpy.core.multiarray scalar", "numpy._core.numeric _frombuffer", "collections OrderedDict"),
    *("collections Counter", "collections defaultdict", "builtins set", "builtins bytes"),
    *("torch FloatStorage", "torch HalfStorage", "torch Size", "torch.storage _load_from_bytes"),
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch load"),
    *("torch._tensor _rebuild_from_type_v2", "torch.serialization load", "copyreg _reconstructor"),
)
MAX_REPETITIONS = 60_000


class Forger:
    """One file after the other, the same ones for a seed; the harmful ones would write `canary`."""

    def __init__(self, seed: int, canary: Path) -> None:
        self._chance = random.Random(seed)
        self._canary = str(canary)
        self._honest = [self._write(form) for form in range(_NUM_FORMS)]

    def forge(self) -> tuple[str, bytes]:
        """The kind of forgery, and the file."""
        (make,) = self._chance.choices(
            (
                self._change_bytes,
                self._change_opcodes,
                self._lie_about_tensor,
                self._lie_about_array,
                self._write_program,
                self._change_archive,
                self._call_harm,
                self._repeat,
            ),
            (20, 30, 20, 12, 12, 8, 5, 1),
        )
        return make.__name__.strip("_").replace("_", " "), make()

    def _number(self) -> int:
        number = self._chance.choice(NUMBERS)
        return -number if self._chance.random() < 0.2 else number

    def _write(self, form: int) -> bytes:
        """An honest checkpoint of one of the forms."""
        arrays = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float64(1)}
        tensors: dict[str, Any] = {
            "a.weight": torch.arange(12.0).reshape(3, 4).T,
            "module.b": torch.ones(3).bfloat16(),
            "c": torch.nn.Parameter(torch.zeros(2, 0)),
        }
        extra: dict[str, Any] = {"seed": 2**64, "set": {1}, "size": torch.Size([2]), "f": 0.5}
        file = io.BytesIO()
        if form < 6:
            return pickle.dumps({"model": arrays} | extra, form)
        if form < 12:
            return pickle.dumps({"model": OrderedDict(tensors)} | extra, form - 6)
        if form < 14:
            torch.save({"model": tensors} | extra, file, _use_new_zipfile_serialization=form == 12)
            return file.getvalue()
        return pickle.dumps({"blobs": {"conv1_w": np.ones((2, 2), "<f4")}, "cfg": "A: 1"}, 2)

    def _change_bytes(self) -> bytes:
        content = bytearray(self._chance.choice(self._honest))
        for _ in range(self._chance.randint(1, 3)):
            self._damage(content)
        return bytes(content)

    def _damage(self, content: bytearray) -> None:
        chance = self._chance
        place, start = chance.randrange(len(content)), chance.randrange(len(content))
        match chance.randrange(5):
            case 0:
                content[place] = chance.randrange(256)
            case 1:
                content[place] ^= 1 << chance.randrange(8)
            case 2:
                del content[place : place + chance.randint(1, 8)]
                content += b"." * (not content)
            case 3:
                content[place:place] = content[start : start + chance.randint(1, 40)]
            case 4:
                number = struct.pack("<q", self._number())[: chance.choice((1, 2, 4, 8))]
                content[place : place + len(number)] = number

    def _change_opcodes(self) -> bytes:
        """A pickle with opcodes taken out, put in, exchanged, or with another argument."""
        chance = self._chance
        content = chance.choice([one for one in self._honest if one[:2] != b"PK"])
        opcodes = split(content)
        for _ in range(chance.randint(1, 3)):
            place, other = chance.randrange(len(opcodes)), chance.randrange(len(opcodes))
            match chance.randrange(5):
                case 0:
                    del opcodes[place]
                case 1:
                    opcodes[place:place] = self._opcodes(chance.randint(1, 3))
                case 2:
                    opcodes[place], opcodes[other] = opcodes[other], opcodes[place]
                case 3:
                    opcodes[place:place] = opcodes[other : other + chance.randint(1, 12)]
                case 4:
                    opcodes[place : place + 1] = self._opcodes(1)
            opcodes = opcodes or [b"."]
        tail = content[sum(map(len, split(content))) :]
        program = b"".join(opcodes)
        return self._archive(program, bytes(48)) if chance.random() < 0.2 else program + tail

    def _opcodes(self, num_opcodes: int) -> list[bytes]:
        return [self._opcode() for _ in range(num_opcodes)]

    def _opcode(self) -> bytes:
        chance = self._chance
        index = bytes([chance.randrange(8)])
        return chance.choice(
            (
                chance.choice(_BARE),
                *chance.sample(_USUAL, 3),
                b"c" + chance.choice(GLOBALS).replace(" ", "\n").encode() + b"\n",
                integer(self._number()),
                b"h" + index,
                b"q" + index,
                text(chance.choice(("model", "w", "f4", "<", "latin1", "storage", "0"))),
                chance.choice((b"X", b"T", b"B", b"\x8b")) + struct.pack("<I", 2**31),
                b"C" + bytes([chance.choice((0, 1, 4, 24))]) + bytes(24),
            )
        )

    def _write_program(self) -> bytes:
        chance = self._chance
        program = b"\x80" + bytes([chance.randint(0, 5)])
        program += b"".join(self._opcodes(chance.randint(1, 60))) + b"."
        return self._archive(program, bytes(16)) if chance.random() < 0.3 else program

    def _tuple(self, values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(integer, values)) + b"t"

    def _lengths(self) -> tuple[int, ...]:
        chance = self._chance
        return tuple(
            chance.randint(0, 8) if chance.random() < 0.7 else self._number()
            for _ in range(chance.randint(0, 4))
        )

    def _lie_about_tensor(self) -> bytes:
        """Archives, old and new, and pickles with a tensor that may reach beyond its storage."""
        chance = self._chance
        kind, num_elements = chance.choice(STORAGES), chance.choice((0, 1, 6, 12))
        size = {"Double": 8, "Long": 8, "ComplexFloat": 8, "Float": 4}.get(kind, 2)
        size = 1 if kind in ("Byte", "Bool", "QInt8") else size
        shape, strides = self._lengths(), self._lengths()
        if chance.random() < 0.8:
            strides = (strides * 4 + (1,) * 4)[: len(shape)]
        offset = chance.choice((0, 0, 0, 1, 5, self._number()))
        claimed = num_elements if chance.random() < 0.9 else abs(self._number())
        data = bytes(num_elements * size)
        storage = b"ctorch\n" + kind.encode() + b"Storage\n"
        persistent = b"(" + text("storage") + storage + text("0") + text("cpu") + integer(claimed)
        is_old = chance.random() < 0.4
        persistent += b"Nt" if is_old else b"t"
        old = b"".join(pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, ORDER))
        data_old = pickle.dumps(["0"], 2) + struct.pack("<q", claimed) + data
        reference = persistent + b"Q"
        if is_pickled := chance.random() < 0.3:
            inner = old + b"\x80\x02" + persistent + b"Q." + data_old
            reference = b"ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(inner))
            reference += inner + b"\x85R"
        tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + integer(offset)
        tensor += self._tuple(shape) + self._tuple(strides) + b"\x89}tR"
        program = b"\x80\x02}" + text("model") + b"}" + text("w") + tensor + b"ss."
        if is_pickled:
            return program
        return old + program + data_old if is_old else self._archive(program, data)

    def _lie_about_array(self) -> bytes:
        """A pickle of a NumPy array whose shape, dtype, order and bytes need not fit."""
        chance = self._chance
        data = bytes(chance.choice((0, 4, 8, 24, 96)))
        dtype = b"cnumpy\ndtype\n" + text(chance.choice(DTYPES)) + b"\x89\x88\x87R"
        if chance.random() < 0.7:
            order = text(chance.choice("<<<>|=x"))
            dtype += b"(K\x03" + order + b"NNN" + integer(-1) * 2 + b"K\x00tb"
        written = b"B" + struct.pack("<I", len(data)) + data
        shape = self._tuple(self._lengths())
        if chance.random() < 0.5:
            array = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
            flag = chance.choice((b"\x88", b"\x89", b"K\x02"))
            array += b"(K\x01" + shape + dtype + flag + written + b"tb"
        else:
            array = b"cnumpy._core.numeric\n_frombuffer\n(" + written + dtype + shape
            order = chance.choice((text("C"), text("F"), text("K") + self._tuple(self._lengths())))
            array += order + b"tR"
        return b"\x80\x03}" + text("w") + array + b"s."

    def _change_archive(self) -> bytes:
        """A zip file whose entries and directory need not fit."""
        chance = self._chance
        with zipfile.ZipFile(io.BytesIO(self._honest[12])) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]
        for _ in range(chance.randint(0, 2)):
            entries.append(chance.choice(entries))
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in entries:
                changed = bytearray(content)
                if changed and chance.random() < 0.2:
                    self._damage(changed)
                if chance.random() < 0.05:
                    changed += bytes(chance.choice((1, 10**5, 10**7)))
                if name not in archive.namelist():
                    kind = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
                    archive.writestr(name, bytes(changed), kind)
        changed = bytearray(file.getvalue())
        directory = changed.rindex(b"PK\x01\x02")
        for _ in range(chance.randint(0, 3)):
            place = chance.randrange(directory, len(changed))
            number = struct.pack("<q", self._number())[: chance.choice((1, 2, 4))]
            changed[place : place + len(number)] = number
        return bytes(changed)

    def _call_harm(self) -> bytes:
        """A pickle that would do harm where it is unpickled."""
        function, argument = self._chance.choice(
            (
                ("posix mkdir", self._canary),
                ("builtins eval", f"open({self._canary!r}, 'w')"),
                ("posix system", f"touch {self._canary}"),
                ("pathlib Path", self._canary),
                ("torch._utils _rebuild_tensor_v2", self._canary),
            )
        )
        module, name = function.split()
        called = (
            f"c{module}\n{name}\n".encode() + text(argument) + b"\x85R",
            text(module) + text(name) + b"\x93" + text(argument) + b"\x85R",
            f"(i{module}\n{name}\n".encode(),
            b"(" + f"c{module}\n{name}\n".encode() + text(argument) + b"o",
            f"c{module}\n{name}\n".encode() + text(argument) + b"\x85\x81",
            b"ccollections\nOrderedDict\n)R}" + text("__class__") + b"N\x86b",
            b"cnumpy\ndtype\n}" + text("__call__") + f"c{module}\n{name}\n".encode() + b"\x86b",
        )
        program = b"\x80\x04}" + text("model") + b"}" + text("w") + self._chance.choice(called)
        return program + b"ss."

    def _repeat(self) -> bytes:
        """What takes long, or much memory, in a reader that does not count."""
        chance = self._chance
        number = chance.randint(1000, MAX_REPETITIONS)
        long, odict = text("x" * number), b"ccollections\nOrderedDict\n"
        nested = b")" + b"".join(
            b"q%ch%ch%c\x86" % (i, i, i) for i in range(chance.randint(9, 250))
        )
        pairs = b"(" + (text("k") + b"N\x86q\x00") + b"h\x00" * number + b"l\x85q\x01"
        array = b"B" + struct.pack("<I", number) + bytes(number) + b"q\x01"
        encode = b"c_codecs\nencode\nq\x02"
        program = chance.choice(
            (
                pairs + odict + b"q\x02" + b"h\x02h\x01R" * number,
                nested + b"q\xff}" + b"h\xffNs" * number,
                long + b"q\x01" + long + b"q\x02}" + b"h\x01Nsh\x02Ns" * number,
                long + b"q\x01" + text("torch") + b"q\x02" + b"h\x02h\x01\x93" * number,
                b"(" + b"N" * number + b"tq\x01ctorch\nSize\nq\x02" + b"h\x02h\x01R" * number,
                b")" + b"\x85" * number * 5,
                b"]q\x00" + b"h\x00h\x00a" * number,
                b"}(" + b"".join(b"I%d\nN" % (k * (2**61 - 1)) for k in range(number)) + b"u",
                b"".join(b"p%d\n" % (k * (2**61 - 1)) for k in range(number)),
                encode + long + text("latin1") + b"\x86q\x03" + b"h\x02h\x03R" * number,
                array + b"(" + b"h\x01" * number + b"l",
                b"\x8b"
                + struct.pack("<I", number)
                + b"\x7f" * number
                + b"q\x01"
                + b"h\x01" * number,
                b"V" + b"\\u0041" * number + b"\n",
                b"S'" + b"\\x41" * number + b"'\n",
                b"(" * number,
                b"r" + struct.pack("<I", 2**32 - 1) + b"j" + struct.pack("<I", 2**32 - 1),
                b"\x8e" + struct.pack("<Q", 2 ** chance.randint(20, 63)),
                b"\x95" + struct.pack("<Q", 2 ** chance.randint(20, 63)),
            )
        )
        program = b"\x80\x04" + program + b"."
        return self._archive(program, bytes(number)) if chance.random() < 0.3 else program

    def _archive(self, program: bytes, data: bytes) -> bytes:
        file = io.BytesIO()
        kind = self._chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with zipfile.ZipFile(file, "w", kind) as archive:
            archive.writestr("a/data.pkl", program)
            archive.writestr("a/data/0", data)
        return file.getvalue()


def split(content: bytes) -> list[bytes]:
    """The first pickle of a file, an opcode each."""
    places = [place or 0 for _, _, place in pickletools.genops(content)]
    return [
        content[place:end] for place, end in zip(places, [*places[1:], places[-1] + 1], strict=True)
    ]


def text(value: str) -> bytes:
    """The opcode of a text."""
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value: int) -> bytes:
    """The opcode of an integer."""
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


ORDER = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}
_NUM_FORMS = 15
_BARE = [
    code
    for name in pickle.__all__
    if name.isupper() and isinstance(code := getattr(pickle, name), bytes) and len(code) == 1
]
_USUAL = (
    b"(",
    b"t",
    b"}",
    b"]",
    b")",
    b"\x85",
    b"\x86",
    b"\x87",
    b"R",
    b"b",
    b"s",
    b"u",
    b"e",
    b"a",
)
