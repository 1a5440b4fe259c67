"""The directory of tags at the start of a TIFF file, which is also the form of EXIF.

Of EXIF it is read which way up a camera was held. Adobe, TIFF Revision 6.0, section 2.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from PIL.ExifTags import Base as Tag

EXIF_PREFIX = b"Exif\0\0"
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
# Bytes per value of each type, BYTE to DOUBLE, and IFD.
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_INTEGER_FORMATS = {1: "B", 3: "H", 4: "I"}
_RATIONAL = 5
# More than a palette of 8 bits has; each becomes a Python object.
_MAX_NUMBERS = 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One tag: `count` values of `type`, in `value`, or at the offset there if over 4 bytes."""

    type: int
    count: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Directory:
    """The first directory of a file, at `start`; `byte_order` is that of the struct module.

    `is_last` unless another one follows.
    """

    byte_order: str
    start: int
    entries: Mapping[int, Entry]
    is_last: bool

    def integer(self, tag: int, default: int = 0) -> int:
        """The value of a tag that has a single unsigned integer; the default if it has not."""
        entry = self.entries.get(tag)
        if entry is None or entry.count != 1 or entry.type not in _INTEGER_FORMATS:
            return default
        (value,) = struct.unpack_from(self.byte_order + _INTEGER_FORMATS[entry.type], entry.value)
        return int(value)

    def num_bytes(self, tag: int) -> int:
        """How many bytes the tag's values take; 0 if they are of a type that is not known."""
        entry = self.entries[tag]
        return entry.count * _TYPE_BYTES.get(entry.type, 0)

    def offset(self, tag: int) -> int:
        """Where the values of a tag that has more than 4 bytes of them begin in the file."""
        return int.from_bytes(
            self.entries[tag].value, "little" if self.byte_order == "<" else "big"
        )

    def numbers(self, data: memoryview, tag: int) -> tuple[float, ...]:
        """The values of a tag of unsigned integers or rationals, 1024 at most; else none.

        Raises:
            struct.error: they lie outside the data.
        """
        entry = self.entries.get(tag)
        if entry is None or entry.type not in {*_INTEGER_FORMATS, _RATIONAL}:
            return ()
        count = min(entry.count, _MAX_NUMBERS)
        source, start = memoryview(entry.value), 0
        if self.num_bytes(tag) > len(entry.value):
            source, start = data, self.offset(tag)
        if entry.type != _RATIONAL:
            code = f"{self.byte_order}{count}{_INTEGER_FORMATS[entry.type]}"
            return struct.unpack_from(code, source, start)
        terms = struct.unpack_from(f"{self.byte_order}{2 * count}I", source, start)
        return tuple(
            above / below if below else 0.0
            for above, below in zip(terms[::2], terms[1::2], strict=True)
        )

    def part(self, data: memoryview, tag: int, first: int, count: int) -> Entry:
        """A tag of the same type that has some of the values of this one."""
        kind, width = self.entries[tag].type, self.num_bytes(tag) // self.entries[tag].count
        source, start = memoryview(self.entries[tag].value), first * width
        if self.num_bytes(tag) > len(source):
            source, start = data, self.offset(tag) + start
        if count * width > len(self.entries[tag].value):
            return Entry(kind, count, struct.pack(f"{self.byte_order}I", start))
        return Entry(kind, count, bytes(source[start : start + count * width]))


def read_directory(data: memoryview) -> Directory:
    """The first directory of a TIFF structure; of a tag that comes twice the first counts.

    Raises:
        ValueError: this is not the start of one.
        struct.error: its directory lies outside the data.
    """
    byte_order = _BYTE_ORDERS.get(bytes(data[:4]))
    if byte_order is None:
        raise ValueError("no TIFF header")
    (start,) = struct.unpack_from(f"{byte_order}I", data, 4)
    (num_entries,) = struct.unpack_from(f"{byte_order}H", data, start)
    table = data[start + 2 : start + 2 + 12 * num_entries]
    entries: dict[int, Entry] = {}
    for tag, kind, count, value in struct.iter_unpack(
        f"{byte_order}HHI4s", table[: len(table) // 12 * 12]
    ):
        entries.setdefault(tag, Entry(kind, count, value))
    is_last = not any(data[start + 2 + 12 * num_entries :][:4])
    return Directory(byte_order, start, entries, is_last)


def orientation_of(directory: Directory) -> int:
    """The orientation that a directory of tags names, 1 to 8; 1 where it names none of them."""
    orientation = directory.integer(Tag.Orientation)
    return orientation if orientation in range(1, 9) else 1


def read_orientation(exif: bytes | memoryview) -> int:
    """The orientation in a block of EXIF, 1 to 8; 1 where the block is damaged."""
    block = memoryview(exif)
    if block[: len(EXIF_PREFIX)] == EXIF_PREFIX:
        block = block[len(EXIF_PREFIX) :]
    try:
        return orientation_of(read_directory(block))
    except (ValueError, struct.error):
        return 1
