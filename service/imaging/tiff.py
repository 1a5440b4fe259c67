"""TIFF files: Adobe, TIFF Revision 6.0, and its technical notes.

Pillow is given the file with only those tags of its first directory that say how pixels are stored,
and they are checked: so it neither warns on stderr nor parses what is not asked for.
"""

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
# A tile is decoded whole, however little of it lies in the picture.
_MAX_TILE_PIXELS = 4096 * 4096


def read_tiff(data: memoryview) -> Picture:
    """The first picture in a TIFF file."""
    directory = read_directory(data)
    tags = sorted(
        tag for tag in directory.entries.keys() & (_NUMBERS | _LISTS) if directory.num_bytes(tag)
    )
    _check(directory, tags, len(data))
    plain = _with_tags_alone(data, directory, tags)
    grey_bits = directory.integer(_BITS_PER_SAMPLE, 16)
    return Picture(
        (directory.integer(_IMAGE_LENGTH), directory.integer(_IMAGE_WIDTH)),
        orientation_of(directory),
        lambda: read_pixels(TiffImageFile(BytesIO(plain)), grey_bits=grey_bits),
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
    if directory.integer(_TILE_WIDTH) * directory.integer(_TILE_LENGTH) > _MAX_TILE_PIXELS:
        raise UndecodableImage("The TIFF image has tiles of more than 4096 x 4096 pixels.")


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
