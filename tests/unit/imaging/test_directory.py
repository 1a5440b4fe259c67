import struct

import pytest

from service.imaging.directory import read_directory, read_orientation


def block(order: str, *entries: tuple[int, int, int, bytes]) -> memoryview:
    magic = b"II*\0" if order == "<" else b"MM\0*"
    rows = b"".join(struct.pack(f"{order}HHI4s", *entry) for entry in entries)
    return memoryview(magic + struct.pack(f"{order}IH", 8, len(entries)) + rows)


@pytest.mark.parametrize("order", ["<", ">"])
def test_numbers_are_read_in_the_file_s_byte_order(order):
    directory = read_directory(
        block(
            order,
            (1, 1, 1, b"\x07\0\0\0"),
            (2, 3, 1, struct.pack(f"{order}H", 258)),
            (3, 4, 1, struct.pack(f"{order}I", 65_538)),
        )
    )
    assert [directory.integer(tag) for tag in (1, 2, 3)] == [7, 258, 65_538]


def test_what_is_no_single_unsigned_integer_has_the_default():
    rows = [(1, 2, 1, b"7"), (2, 3, 2, b"\1\0\2\0"), (3, 5, 1, b""), (4, 9, 1, b"\1\0\0\0")]
    directory = read_directory(block("<", *rows))
    assert [directory.integer(tag, 5) for tag in (1, 2, 3, 4, 99)] == [5] * 5


@pytest.mark.parametrize("order", ["<", ">"])
def test_size_and_place_of_long_values_are_known(order):
    directory = read_directory(block(order, (1, 12, 3, struct.pack(f"{order}I", 1000))))
    assert directory.num_bytes(1) == 24
    assert directory.offset(1) == 1000


@pytest.mark.parametrize("order", ["<", ">"])
def test_numbers_are_read_from_the_entry_and_from_where_it_points(order):
    rows = [(1, 3, 2, struct.pack(f"{order}HH", 7, 300)), (2, 5, 2, struct.pack(f"{order}I", 46))]
    rows.append((3, 2, 1, b"7"))
    data = memoryview(bytes(block(order, *rows)) + struct.pack(f"{order}4I", 1, 4, 3, 0))
    directory = read_directory(data)
    assert [directory.numbers(data, tag) for tag in (1, 2, 3, 4)] == [(7, 300), (0.25, 0), (), ()]


def test_numbers_without_end_are_read_as_far_as_anyone_needs():
    data = memoryview(bytes(block("<", (1, 1, 10_000_000, bytes(4)))) + bytes(10_000_000))
    assert read_directory(data).numbers(data, 1) == tuple(data[:1024])


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_part_of_a_tag_has_its_values_in_the_entry_or_points_to_them(order):
    rows = [(1, 3, 2, struct.pack(f"{order}HH", 7, 300)), (2, 3, 6, struct.pack(f"{order}I", 34))]
    data = memoryview(bytes(block(order, *rows)) + struct.pack(f"{order}6H", *range(6)))
    directory = read_directory(data)
    assert directory.part(data, 1, 1, 1).value == struct.pack(f"{order}H", 300)
    assert directory.part(data, 2, 2, 2).value == struct.pack(f"{order}2H", 2, 3)
    assert directory.part(data, 2, 1, 3).value == struct.pack(f"{order}I", 36)


def test_a_directory_is_last_unless_it_names_another():
    table = bytes(block("<", (1, 3, 1, b"\1\0")))
    for end, is_last in ((b"", True), (bytes(4), True), (b"\x1a\0\0\0", False)):
        assert read_directory(memoryview(table + end)).is_last is is_last


def test_values_of_an_unknown_type_have_no_bytes():
    assert read_directory(block("<", (1, 16, 3, b""))).num_bytes(1) == 0


def test_a_table_that_is_cut_short_is_read_as_far_as_it_goes():
    whole = block("<", (1, 3, 1, b"\1\0"), (2, 3, 1, b"\2\0"))
    assert list(read_directory(whole[:-1]).entries) == [1]


@pytest.mark.parametrize("data", [b"", b"II", b"IIII\0\0\0\0", b"II*\0", b"II*\0\xff\xff\xff\xff"])
def test_what_is_no_directory_is_an_error(data):
    with pytest.raises((ValueError, struct.error)):
        read_directory(memoryview(data))


def exif(orientation: int, *, order: str = "<", kind: int = 3, count: int = 1) -> bytes:
    magic = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + {1: "B", 3: "H", 4: "I"}.get(kind, "I"), orientation)
    entry = struct.pack(f"{order}HHI4s", 0x0112, kind, count, value)
    return magic + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_the_orientation_is_read_in_either_byte_order_and_any_integer_type(order, kind, prefix):
    for orientation in range(1, 9):
        block = prefix + exif(orientation, order=order, kind=kind)
        assert read_orientation(block) == orientation


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"Exif\0\0",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"JJ*\0" + exif(6)[4:],
        exif(6)[:9],
        exif(6)[:15],
        exif(0),
        exif(9),
        exif(65535),
        exif(6, kind=2),
        exif(6, kind=99),
        exif(6, count=0),
        exif(6, count=2**32 - 1),
    ],
)
def test_a_damaged_or_senseless_orientation_is_upright(block):
    assert read_orientation(block) == 1


def test_of_two_orientations_the_first_counts():
    entries = exif(6)[10:22] + exif(3)[10:22]
    block = b"II*\0" + struct.pack("<IH", 8, 2) + entries
    assert read_orientation(block) == 6
