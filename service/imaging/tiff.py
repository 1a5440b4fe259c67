"""TIFF files: Adobe, TIFF Revision 6.0, and its technical notes.

Pillow is given the file with only those tags of its first directory that say how pixels are stored,
and they are checked: so it neither warns on stderr nor parses what is not asked for.
"""

import math
import struct
from io import BytesIO

from PIL.TiffImagePlugin import TiffImageFile

from service.errors import UndecodableImage
from service.imaging.directory import Directory, read_directory
from service.imaging.orientation import orientation_of
from service.imaging.picture import Picture, read_pixels

_IMAGE_WIDTH = 256
_IMAGE_LENGTH = 257
_BITS_PER_SAMPLE = 258
_STRIP_OFFSETS = 273
_SAMPLES_PER_PIXEL = 277
_TILE_WIDTH = 322
_TILE_LENGTH = 323
_TILE_OFFSETS = 324

# Of the rest: Compression, PhotometricInterpretation, FillOrder, SamplesPerPixel, RowsPerStrip,
# PlanarConfiguration, T4Options, T6Options, Predictor.
_NUMBERS = frozenset(
    {_IMAGE_WIDTH, _IMAGE_LENGTH, _TILE_WIDTH, _TILE_LENGTH}
    | {259, 262, 266, 277, 278, 284, 292, 293, 317}
)
# Of the rest: StripByteCounts, ColorMap, TileByteCounts, ExtraSamples, SampleFormat, JPEGTables,
# YCbCrCoefficients, YCbCrSubSampling, YCbCrPositioning, ReferenceBlackWhite.
_LISTS = frozenset(
    {_BITS_PER_SAMPLE, _STRIP_OFFSETS, _TILE_OFFSETS}
    | {279, 320, 325, 338, 339, 347, 529, 530, 531, 532}
)
# Pillow makes a Python object of each.
_MAX_STRIPS = 65_536
# To decompress one takes up to 7 ns, of LZMA. So many are 40 million pixels of RGBA of 8 bits, or
# 20 million of 16 bits.
MAX_SAMPLE_BYTES = 160_000_000
# All tiles together may have so many pixels, or one and a half times the picture's: 40 million in
# tiles of 1024 x 1024 have a quarter more.
MAX_TILED_PIXELS = 4096 * 4096
MAX_TILED_SHARE = 1.5


def read_tiff(data: memoryview) -> Picture:
    """The first picture in a TIFF file."""
    directory = read_directory(data)
    tags = sorted(
        tag for tag in directory.entries.keys() & (_NUMBERS | _LISTS) if directory.num_bytes(tag)
    )
    _check(directory, tags, len(data))
    _check_area(directory)
    grey_bits = directory.integer(_BITS_PER_SAMPLE, 16)
    return Picture(
        (directory.integer(_IMAGE_LENGTH), directory.integer(_IMAGE_WIDTH)),
        orientation_of(directory),
        lambda: read_pixels(
            TiffImageFile(BytesIO(_with_tags_alone(data, directory, tags))), grey_bits=grey_bits
        ),
        is_costly=True,
        max_pixels=MAX_SAMPLE_BYTES * 8 // max(_bits_per_pixel(data, directory), 1),
    )


def _check(directory: Directory, tags: list[int], num_file_bytes: int) -> None:
    num_bytes = 0
    for tag in tags:
        entry = directory.entries[tag]
        size = directory.num_bytes(tag)
        if size > len(entry.value):
            num_bytes += size
            if num_bytes > num_file_bytes or directory.offset(tag) + size > num_file_bytes:
                raise UndecodableImage("The TIFF image is cut short.")
        if tag in _NUMBERS and directory.integer(tag, -1) < 0:
            raise UndecodableImage(f"Tag {tag} of the TIFF image should be a single number.")
        if tag in {_STRIP_OFFSETS, _TILE_OFFSETS} and entry.count > _MAX_STRIPS:
            raise UndecodableImage(f"The TIFF image has more than {_MAX_STRIPS} strips or tiles.")


def _bits_per_pixel(data: memoryview, directory: Directory) -> int:
    """Of all samples together, each as deep as the first one."""
    entry = directory.entries.get(_BITS_PER_SAMPLE)
    bits = directory.integer(_BITS_PER_SAMPLE, 1)
    if entry is not None and directory.num_bytes(_BITS_PER_SAMPLE) > len(entry.value):
        (bits,) = struct.unpack_from(
            f"{directory.byte_order}H", data, directory.offset(_BITS_PER_SAMPLE)
        )
    return bits * directory.integer(_SAMPLES_PER_PIXEL, 1)


def _check_area(directory: Directory) -> None:
    """Tiles are decoded whole, however little of them lies in the picture."""
    size = directory.integer(_IMAGE_WIDTH), directory.integer(_IMAGE_LENGTH)
    tile = directory.integer(_TILE_WIDTH), directory.integer(_TILE_LENGTH)
    padded = [
        -(-whole // part) * part if part else whole for whole, part in zip(size, tile, strict=True)
    ]
    if math.prod(padded) > max(MAX_TILED_SHARE * math.prod(size), MAX_TILED_PIXELS):
        raise UndecodableImage(
            f"The tiles of the TIFF image have {padded[0]} x {padded[1]} pixels, which is much "
            f"more than its own {size[0]} x {size[1]}."
        )


def _with_tags_alone(data: memoryview, directory: Directory, tags: list[int]) -> bytes:
    """The file with these tags as its only directory, written over the one that it has."""
    order = directory.byte_order
    rows = [struct.pack(f"{order}H", len(tags))]
    for tag in tags:
        entry = directory.entries[tag]
        rows.append(struct.pack(f"{order}HHI4s", tag, entry.type, entry.count, entry.value))
    no_next = bytes(4)
    table = b"".join((*rows, no_next))
    return b"".join((data[: directory.start], table, data[directory.start + len(table) :]))
