"""Run the opcodes of a pickle, and build plain values and what a given table allows: nothing else.

The standard unpickler is no base for this. Before a subclass is asked anything, it allocates what
a length in the file claims, sets attributes of whatever lies on its stack, and looks up extension
codes. Here an opcode that is not listed is refused, and so is a global that is not in the table.
"""

import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from model_store.errors import CheckpointRejected

Arguments: TypeAlias = tuple[object, ...]

# A checkpoint of the zoo has up to 20,000. An object takes an opcode, so this bounds the time, and
# the memory that objects take beside their bytes.
MAX_OPCODES = 1_000_000
# Of a global's module, and of its own name.
MAX_NAME_BYTES = 200
# An integer of Python has no limit, but a checkpoint's counters do.
MAX_INTEGER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a pickle may mention; `construct`, where given, is what calling it does."""

    name: str
    construct: Callable[[Arguments], object] | None = None


@runtime_checkable
class Buildable(Protocol):
    """A value whose state follows after it was made."""

    def build(self, state: object) -> None:
        """Take the state, or raise CheckpointRejected."""


def printable(text: str) -> str:
    """The text, fit for a message: cut, and free of control characters."""
    return ascii(text[:MAX_NAME_BYTES])[1:-1]


class Unpickler:
    """Reads one pickle of protocol 2 to 5 from the next `num_bytes` of a file.

    `load_persistent` resolves the ids of values that are stored elsewhere; without it such an id
    is refused.
    """

    def __init__(
        self,
        file: BufferedIOBase,
        num_bytes: int,
        known_globals: Mapping[str, Global],
        load_persistent: Callable[[object], object] | None = None,
    ) -> None:
        self._file = file
        self._num_bytes_left = num_bytes
        self._known_globals = known_globals
        self._load_persistent = load_persistent
        self._stack: list[object] = []
        self._outer_stacks: list[list[object]] = []
        self._memo: dict[int, object] = {}

    def load(self) -> object:
        """The pickled value; bytes come as bytearrays.

        Raises:
            CheckpointRejected: the pickle holds something that is not allowed.
            EOFError: it is cut short.
            LookupError, ValueError: it is damaged.
        """
        if self._read(1) != pickle.PROTO or self._read(1)[0] not in range(2, 6):
            raise CheckpointRejected("is not a pickle of protocol 2 to 5")
        for _ in range(MAX_OPCODES):
            opcode = bytes(self._read(1))
            if opcode == pickle.STOP:
                return self._pop(1)[0]
            if opcode not in self._OPERATIONS:
                names = [name for name in pickle.__all__ if getattr(pickle, name) == opcode]
                if names:
                    raise CheckpointRejected(f"refuses the opcode {names[0]}")
                raise ValueError(f"it has the unknown opcode {opcode!r}")
            self._OPERATIONS[opcode](self)
        raise CheckpointRejected(f"has more than {MAX_OPCODES} opcodes")

    def _read(self, num_bytes: int) -> bytearray:
        # Before the allocation: a length is only what the file claims.
        if num_bytes > self._num_bytes_left:
            raise EOFError("it ends too early")
        self._num_bytes_left -= num_bytes
        # Of a bytearray an array can be a writable view, so weights stay where they were read.
        content = bytearray(num_bytes)
        if self._file.readinto(content) != num_bytes:
            raise EOFError("it ends too early")
        return content

    def _read_number(self, number_format: str) -> Any:
        (number,) = struct.unpack(number_format, self._read(struct.calcsize(number_format)))
        return number

    def _read_bytes(self, length_format: str) -> bytearray:
        return self._read(self._read_number(length_format))

    def _read_integer(self) -> int:
        content = self._read_bytes("<B")
        if len(content) > MAX_INTEGER_BYTES:
            raise CheckpointRejected(f"has an integer of {len(content)} bytes")
        return int.from_bytes(content, "little", signed=True)

    def _read_line(self) -> str:
        line = self._file.readline(min(MAX_NAME_BYTES, self._num_bytes_left))
        self._num_bytes_left -= len(line)
        if not line.endswith(b"\n"):
            raise EOFError("it ends within a name")
        return line[:-1].decode("utf-8")

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _push_mark(self) -> None:
        self._outer_stacks.append(self._stack)
        self._stack = []

    def _pop(self, num_values: int) -> list[Any]:
        if num_values > len(self._stack):
            raise IndexError("its stack is empty")
        values = self._stack[-num_values:]
        del self._stack[-num_values:]
        return values

    def _pop_to_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._outer_stacks.pop()
        return values

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise CheckpointRejected("appends to something that is not a list")
        target.extend(values)

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise CheckpointRejected("sets an item of something that is not a dictionary")
        keys = items[::2]
        # The hash of a deeply nested tuple would overflow the interpreter's stack.
        if not all(isinstance(key, str | int) for key in keys):
            raise CheckpointRejected("has a dictionary whose keys are not names or integers")
        target.update(zip(keys, items[1::2], strict=True))

    def _memoize(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _find_global(self, module: object, name: object) -> Global:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise CheckpointRejected("has a global whose name is not text")
        path = f"{module}.{name}"
        if path not in self._known_globals:
            raise CheckpointRejected(f"refuses the global {printable(path)}")
        return self._known_globals[path]

    def _call(self, function: object, arguments: object) -> object:
        if not (isinstance(function, Global) and function.construct):
            raise CheckpointRejected("calls something that is not a function")
        if not isinstance(arguments, tuple):
            raise CheckpointRejected(f"calls {function.name} with something other than a tuple")
        return function.construct(arguments)

    def _build(self, state: object) -> None:
        target = self._stack[-1]
        if isinstance(target, Buildable):
            target.build(state)
        # The attributes of an ordered dictionary, such as a state dict's _metadata: passed over.
        elif not (isinstance(target, dict) and isinstance(state, dict)):
            raise CheckpointRejected("gives a state to something that takes none")

    def _find_persistent(self, persistent_id: object) -> object:
        if not self._load_persistent:
            raise CheckpointRejected("refuses the opcode BINPERSID")
        return self._load_persistent(persistent_id)

    # What a checkpoint needs of CPython's Lib/pickletools.py, where each opcode is described.
    _OPERATIONS: ClassVar[Mapping[bytes, Callable[["Unpickler"], object]]] = {
        pickle.PROTO: lambda self: self._read(1),
        pickle.FRAME: lambda self: self._read(8),
        pickle.NONE: lambda self: self._push(None),
        pickle.NEWTRUE: lambda self: self._push(True),
        pickle.NEWFALSE: lambda self: self._push(False),
        pickle.BININT: lambda self: self._push(self._read_number("<i")),
        pickle.BININT1: lambda self: self._push(self._read_number("<B")),
        pickle.BININT2: lambda self: self._push(self._read_number("<H")),
        pickle.LONG1: lambda self: self._push(self._read_integer()),
        pickle.BINFLOAT: lambda self: self._push(self._read_number(">d")),
        pickle.SHORT_BINUNICODE: lambda self: self._push(self._read_bytes("<B").decode()),
        pickle.BINUNICODE: lambda self: self._push(self._read_bytes("<I").decode()),
        pickle.BINUNICODE8: lambda self: self._push(self._read_bytes("<Q").decode()),
        # Strings of Python 2: a short one may be a name, a long one is an array's bytes or prose.
        pickle.SHORT_BINSTRING: lambda self: self._push(self._read_bytes("<B").decode("latin-1")),
        pickle.BINSTRING: lambda self: self._push(self._read_bytes("<I")),
        pickle.SHORT_BINBYTES: lambda self: self._push(self._read_bytes("<B")),
        pickle.BINBYTES: lambda self: self._push(self._read_bytes("<I")),
        pickle.BINBYTES8: lambda self: self._push(self._read_bytes("<Q")),
        pickle.BYTEARRAY8: lambda self: self._push(self._read_bytes("<Q")),
        pickle.EMPTY_LIST: lambda self: self._push([]),
        pickle.EMPTY_DICT: lambda self: self._push({}),
        pickle.EMPTY_TUPLE: lambda self: self._push(()),
        pickle.MARK: lambda self: self._push_mark(),
        pickle.TUPLE: lambda self: self._push(tuple(self._pop_to_mark())),
        pickle.TUPLE1: lambda self: self._push(tuple(self._pop(1))),
        pickle.TUPLE2: lambda self: self._push(tuple(self._pop(2))),
        pickle.TUPLE3: lambda self: self._push(tuple(self._pop(3))),
        pickle.APPEND: lambda self: self._extend(self._pop(1)),
        pickle.APPENDS: lambda self: self._extend(self._pop_to_mark()),
        pickle.SETITEM: lambda self: self._update(self._pop(2)),
        pickle.SETITEMS: lambda self: self._update(self._pop_to_mark()),
        pickle.MEMOIZE: lambda self: self._memoize(len(self._memo)),
        pickle.BINPUT: lambda self: self._memoize(self._read_number("<B")),
        pickle.LONG_BINPUT: lambda self: self._memoize(self._read_number("<I")),
        pickle.BINGET: lambda self: self._push(self._memo[self._read_number("<B")]),
        pickle.LONG_BINGET: lambda self: self._push(self._memo[self._read_number("<I")]),
        pickle.GLOBAL: lambda self: self._push(
            self._find_global(self._read_line(), self._read_line())
        ),
        pickle.STACK_GLOBAL: lambda self: self._push(self._find_global(*self._pop(2))),
        pickle.REDUCE: lambda self: self._push(self._call(*self._pop(2))),
        pickle.BUILD: lambda self: self._build(*self._pop(1)),
        pickle.BINPERSID: lambda self: self._push(self._find_persistent(*self._pop(1))),
    }
