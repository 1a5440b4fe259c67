"""Run the opcodes of a pickle, and build plain values and what a given table allows: nothing else.

The standard unpickler is no base for this. Before a subclass is asked anything, it allocates what
a length in the file claims, sets attributes of whatever lies on its stack, copies the arguments of
every call, and hashes keys that a hundred bytes make exponentially large. Here an opcode that is
not listed is refused, and so is a global that is neither in the table nor of a kind that is passed
over. An opcode takes the same time whatever lies on the stack, or pays for what it copies.
"""

import codecs
import pickle
import re
import struct
import warnings
from collections.abc import Callable, Mapping
from io import BufferedIOBase
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from model_store.errors import CheckpointRejected

Arguments: TypeAlias = tuple[object, ...]

# A checkpoint of the zoo has up to 20,000. An object takes an opcode, so this bounds the time, and
# the memory that objects take beside their bytes.
MAX_OPCODES = 500_000
# Of a global's module, of its own name, and of a number that is written out.
MAX_NAME_BYTES = 200
# A dictionary compares keys that are equal, so they have to be short.
MAX_KEY_LENGTH = 1000
# An integer of Python has no limit; the largest of a checkpoint is a random generator's state.
MAX_INTEGER_BYTES = 255
_INDICES = range(2**32)
# How a pickle of a container begins, by protocol 2 and later, 1, and 0.
_BEGINNINGS = (b"\x80", b"}", b"]", b"(", b"c")
# What `torch.load(weights_only=True)` and detectron2's trainings have beside the arrays: nobody
# here needs it, so it is passed over, and nothing of these names is ever looked up.
_PASSED_OVER = re.compile(
    r"(__builtin__|builtins)\.(bytearray|complex|frozenset|list|set)|collections\.Counter"
    r"|torch\.(Size|Tensor|device|bool|b?(float|complex)\d\w*|q?u?int\d\w*|bits\d\w*)"
    r"|torch\.(per_(tensor|channel)_\w+|serialization\._get_layout|nn\.parameter\.(Parameter|Buffer))"
    r"|torch\.((cuda|sparse|cuda\.sparse)\.)?[A-Z]\w*(Tensor|Storage)"
    r"|torch\.storage\.(Typed|Untyped)Storage"
    r"|torch\._utils\._rebuild_(tensor_v3|qtensor|sparse_tensor|nested_tensor|wrapper_subclass)"
    r"|torch\._utils\._rebuild_(meta_tensor_no_storage|device_tensor_from_(numpy|cpu_tensor))"
)


class Global:
    """A name that a pickle may mention; `construct`, where given, is what calling it does."""

    __slots__ = ("construct", "name")

    def __init__(self, name: str, construct: Callable[[Arguments], object] | None = None) -> None:
        self.name = name
        self.construct = construct


class PassedOver:
    """In the place of harmless values that nobody needs, and of what makes them."""

    __slots__ = ()


PASSED_OVER: Final = PassedOver()


@runtime_checkable
class Buildable(Protocol):
    """A value whose state follows after it was made."""

    def build(self, state: object) -> None:
        """Take the state, or raise CheckpointRejected."""


class Budget:
    """What may be made of one file: a pickle can name the same bytes again and again."""

    def __init__(self, num_bytes: int, num_opcodes: int = MAX_OPCODES) -> None:
        self._num_bytes_left = num_bytes
        self._num_opcodes_left = num_opcodes

    def spend(self, num_bytes: int) -> None:
        """Count bytes that are about to be made.

        Raises:
            CheckpointRejected: they are too many.
        """
        self._num_bytes_left -= num_bytes
        if self._num_bytes_left < 0:
            raise CheckpointRejected("has arrays that are larger than the file")

    def count_opcodes(self, num_opcodes: int = 1) -> None:
        """Count opcodes that are about to be run, or what costs as much.

        Raises:
            CheckpointRejected: they are too many.
        """
        self._num_opcodes_left -= num_opcodes
        if self._num_opcodes_left < 0:
            raise CheckpointRejected(f"has more than {MAX_OPCODES} opcodes")


def printable(text: str) -> str:
    """The text, fit for a message: cut, and free of control characters."""
    return ascii(text[:MAX_NAME_BYTES])[1:-1]


class Unpickler:
    """Reads one pickle from the next bytes of a file, of which `num_bytes` are left.

    `load_persistent` resolves the ids of values that are stored elsewhere; without it such an id
    is refused.
    """

    def __init__(
        self,
        file: BufferedIOBase,
        num_bytes: int,
        known_globals: Mapping[str, Global],
        budget: Budget,
        load_persistent: Callable[[object], object] | None = None,
    ) -> None:
        self._file = file
        self._num_bytes_left = num_bytes
        self._known_globals = known_globals
        self._budget = budget
        self._load_persistent = load_persistent
        self._stack: list[object] = []
        self._outer_stacks: list[list[object]] = []
        self._memo: dict[int, object] = {}

    def load(self) -> object:
        """The pickled value; bytes come as bytearrays, and dictionaries have text as keys alone.

        Raises:
            CheckpointRejected: the pickle holds something that is not allowed.
            EOFError: it is cut short.
            LookupError, ValueError: it is damaged.
        """
        opcode = bytes(self._read(1))
        if opcode not in _BEGINNINGS:
            raise CheckpointRejected("is not a pickle")
        while opcode != pickle.STOP:
            self._budget.count_opcodes()
            if opcode not in _OPERATIONS:
                names = [name for name in pickle.__all__ if getattr(pickle, name) == opcode]
                if names:
                    raise CheckpointRejected(f"refuses the opcode {names[0]}")
                raise ValueError(f"it has the unknown opcode {opcode!r}")
            _OPERATIONS[opcode](self)
            opcode = bytes(self._read(1))
        return self._pop(1)[0]

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

    def _read_integer(self, length_format: str) -> int:
        content = self._read_bytes(length_format)
        if len(content) > MAX_INTEGER_BYTES:
            raise CheckpointRejected(f"has an integer of {len(content)} bytes")
        return int.from_bytes(content, "little", signed=True)

    def _read_line(self, max_bytes: int = MAX_NAME_BYTES) -> bytes:
        line = self._file.readline(min(max_bytes, self._num_bytes_left))
        self._num_bytes_left -= len(line)
        if not line.endswith(b"\n"):
            raise EOFError("it ends within a line")
        return line[:-1]

    def _read_written_integer(self) -> int:
        line = self._read_line()
        # How protocols 0 and 1 write False and True.
        return line == b"01" if line in (b"00", b"01") else int(line.removesuffix(b"L"))

    def _read_written_text(self) -> str:
        return self._read_line(self._num_bytes_left).decode("raw-unicode-escape")

    def _read_written_string(self) -> object:
        with warnings.catch_warnings():
            # Of an escape that Python does not know.
            warnings.simplefilter("ignore")
            content, _ = codecs.escape_decode(self._read_line(self._num_bytes_left)[1:-1])
        return content.decode("latin-1") if len(content) < MAX_NAME_BYTES else bytearray(content)

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

    def _pass_over(self, _values: list[Any]) -> None:
        self._push(PASSED_OVER)

    def _add(self, _values: list[Any]) -> None:
        if not isinstance(self._stack[-1], PassedOver):
            raise CheckpointRejected("adds to something that is not a set")

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise CheckpointRejected("sets an item of something that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Only what has a name can be a parameter, and any other key may take long to hash.
            if isinstance(key, str) and len(key) <= MAX_KEY_LENGTH:
                target[key] = value

    def _make_dictionary(self, items: list[Any]) -> None:
        self._push({})
        self._update(items)

    def _memoize(self, index: int) -> None:
        # Larger ones could be chosen to have one hash.
        if index not in _INDICES:
            raise ValueError("it has an impossible index")
        self._memo[index] = self._stack[-1]

    def _find_global(self, module: object, name: object) -> object:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise CheckpointRejected("has a global whose name is not text")
        path = f"{module[:MAX_NAME_BYTES]}.{name[:MAX_NAME_BYTES]}"
        if path in self._known_globals:
            return self._known_globals[path]
        if _PASSED_OVER.fullmatch(path):
            return PASSED_OVER
        raise CheckpointRejected(f"refuses the global {printable(path)}")

    def _call(self, function: object, arguments: object) -> object:
        if isinstance(function, PassedOver):
            return PASSED_OVER
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
        elif not isinstance(target, dict | PassedOver):
            raise CheckpointRejected("gives a state to something that takes none")

    def _find_persistent(self, persistent_id: object) -> object:
        if not self._load_persistent:
            raise CheckpointRejected("refuses the opcode BINPERSID")
        return self._load_persistent(persistent_id)


# What a checkpoint needs of CPython's Lib/pickletools.py, where each opcode is described.
_OPERATIONS: Mapping[bytes, Callable[[Unpickler], object]] = {
    pickle.PROTO: lambda self: self._read(1),
    pickle.FRAME: lambda self: self._read(8),
    pickle.NONE: lambda self: self._push(None),
    pickle.NEWTRUE: lambda self: self._push(True),
    pickle.NEWFALSE: lambda self: self._push(False),
    pickle.INT: lambda self: self._push(self._read_written_integer()),
    pickle.BININT: lambda self: self._push(self._read_number("<i")),
    pickle.BININT1: lambda self: self._push(self._read_number("<B")),
    pickle.BININT2: lambda self: self._push(self._read_number("<H")),
    pickle.LONG: lambda self: self._push(self._read_written_integer()),
    pickle.LONG1: lambda self: self._push(self._read_integer("<B")),
    pickle.LONG4: lambda self: self._push(self._read_integer("<I")),
    pickle.FLOAT: lambda self: self._push(float(self._read_line())),
    pickle.BINFLOAT: lambda self: self._push(self._read_number(">d")),
    pickle.UNICODE: lambda self: self._push(self._read_written_text()),
    pickle.SHORT_BINUNICODE: lambda self: self._push(self._read_bytes("<B").decode()),
    pickle.BINUNICODE: lambda self: self._push(self._read_bytes("<I").decode()),
    pickle.BINUNICODE8: lambda self: self._push(self._read_bytes("<Q").decode()),
    # Strings of Python 2: a short one may be a name, a long one is an array's bytes or prose.
    pickle.STRING: lambda self: self._push(self._read_written_string()),
    pickle.SHORT_BINSTRING: lambda self: self._push(self._read_bytes("<B").decode("latin-1")),
    pickle.BINSTRING: lambda self: self._push(self._read_bytes("<I")),
    pickle.SHORT_BINBYTES: lambda self: self._push(self._read_bytes("<B")),
    pickle.BINBYTES: lambda self: self._push(self._read_bytes("<I")),
    pickle.BINBYTES8: lambda self: self._push(self._read_bytes("<Q")),
    pickle.BYTEARRAY8: lambda self: self._push(self._read_bytes("<Q")),
    pickle.EMPTY_LIST: lambda self: self._push([]),
    pickle.EMPTY_DICT: lambda self: self._push({}),
    pickle.EMPTY_TUPLE: lambda self: self._push(()),
    pickle.EMPTY_SET: lambda self: self._push(PASSED_OVER),
    pickle.MARK: lambda self: self._push_mark(),
    pickle.POP: lambda self: self._pop(1),
    pickle.POP_MARK: lambda self: self._pop_to_mark(),
    pickle.LIST: lambda self: self._push(self._pop_to_mark()),
    pickle.DICT: lambda self: self._make_dictionary(self._pop_to_mark()),
    pickle.TUPLE: lambda self: self._push(tuple(self._pop_to_mark())),
    pickle.TUPLE1: lambda self: self._push(tuple(self._pop(1))),
    pickle.TUPLE2: lambda self: self._push(tuple(self._pop(2))),
    pickle.TUPLE3: lambda self: self._push(tuple(self._pop(3))),
    pickle.FROZENSET: lambda self: self._pass_over(self._pop_to_mark()),
    pickle.APPEND: lambda self: self._extend(self._pop(1)),
    pickle.APPENDS: lambda self: self._extend(self._pop_to_mark()),
    pickle.ADDITEMS: lambda self: self._add(self._pop_to_mark()),
    pickle.SETITEM: lambda self: self._update(self._pop(2)),
    pickle.SETITEMS: lambda self: self._update(self._pop_to_mark()),
    pickle.MEMOIZE: lambda self: self._memoize(len(self._memo)),
    pickle.PUT: lambda self: self._memoize(int(self._read_line())),
    pickle.BINPUT: lambda self: self._memoize(self._read_number("<B")),
    pickle.LONG_BINPUT: lambda self: self._memoize(self._read_number("<I")),
    pickle.GET: lambda self: self._push(self._memo[int(self._read_line())]),
    pickle.BINGET: lambda self: self._push(self._memo[self._read_number("<B")]),
    pickle.LONG_BINGET: lambda self: self._push(self._memo[self._read_number("<I")]),
    pickle.GLOBAL: lambda self: self._push(
        self._find_global(self._read_line().decode(), self._read_line().decode())
    ),
    pickle.STACK_GLOBAL: lambda self: self._push(self._find_global(*self._pop(2))),
    pickle.REDUCE: lambda self: self._push(self._call(*self._pop(2))),
    pickle.NEWOBJ: lambda self: self._push(self._call(*self._pop(2))),
    pickle.BUILD: lambda self: self._build(*self._pop(1)),
    pickle.BINPERSID: lambda self: self._push(self._find_persistent(*self._pop(1))),
}
