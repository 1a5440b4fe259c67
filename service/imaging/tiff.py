"""TIFF files: Adobe, TIFF Revision 6.0, and its technical notes.

Pillow is given the file with only those tags of its first directory that say how pixels are stored,
and they are checked: so it neither warns on stderr nor parses what is not asked for. Where Pillow
reads the pixels wrong, they are right here: of samples in planes of their own each plane is read as
a grey picture, WhiteIsZero is read as BlackIsZero and inverted, and a palette may have 8 bits.
"""

import math
import struct
from collections.abc import Mapping
from functools import partial
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImagePalette
from PIL.TiffImagePlugin import TiffImageFile

from service.errors import UndecodableImage
from service.imaging.directory import Directory, Entry, read_directory
from service.imaging.orientation import orientation_of
from service.imaging.picture import Picture, read_pixels
from service.imaging.tiff_layout import (
    BITS_PER_SAMPLE,
    COMPRESSION,
    EXTRA_SAMPLES,
    FILL_ORDER,
    NUM_PLANES,
    PALETTE,
    PHOTOMETRIC,
    PLANAR_CONFIGURATION,
    REFERENCE_BLACK_WHITE,
    SAMPLE_FORMAT,
    SAMPLES_PER_PIXEL,
    WHITE_IS_ZERO,
    YCBCR_COEFFICIENTS,
    YCBCR_SUBSAMPLING,
    Layout,
    arrangement,
    kinds_not_read,
    layout_of,
)

_IMAGE_WIDTH = 256
_IMAGE_LENGTH = 257
_STRIP_OFFSETS = 273
_ROWS_PER_STRIP = 278
_STRIP_BYTE_COUNTS = 279
_COLOR_MAP = 320
_TILE_WIDTH = 322
_TILE_LENGTH = 323
_TILE_OFFSETS = 324
_TILE_BYTE_COUNTS = 325

# Of the rest: T4Options, T6Options, Predictor.
_NUMBERS = frozenset(
    {_IMAGE_WIDTH, _IMAGE_LENGTH, COMPRESSION, PHOTOMETRIC, SAMPLES_PER_PIXEL, _ROWS_PER_STRIP}
    | {PLANAR_CONFIGURATION, _TILE_WIDTH, _TILE_LENGTH, FILL_ORDER, 292, 293, 317}
)
# Of the rest: JPEGTables, YCbCrPositioning.
_LISTS = frozenset(
    {BITS_PER_SAMPLE, _STRIP_OFFSETS, _STRIP_BYTE_COUNTS, _COLOR_MAP, _TILE_OFFSETS}
    | {_TILE_BYTE_COUNTS, EXTRA_SAMPLES, SAMPLE_FORMAT, 347, YCBCR_COEFFICIENTS}
    | {YCBCR_SUBSAMPLING, 531, REFERENCE_BLACK_WHITE}
)
_TILE_TAGS = {_STRIP_OFFSETS: _TILE_OFFSETS, _STRIP_BYTE_COUNTS: _TILE_BYTE_COUNTS}
_SEGMENTS = frozenset({*_TILE_TAGS.keys(), *_TILE_TAGS.values()})
_OF_ALL_PLANES = frozenset(
    {SAMPLES_PER_PIXEL, PLANAR_CONFIGURATION, EXTRA_SAMPLES, YCBCR_COEFFICIENTS}
    | {YCBCR_SUBSAMPLING, REFERENCE_BLACK_WHITE}
)

_SHORT = 3
_BLACK_IS_ZERO = 1

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
    layout = layout_of(data, directory)
    for kind in kinds_not_read(data, directory, layout):
        raise UndecodableImage(_not_read(kind))
    _check_segments(directory, layout)
    return Picture(
        (directory.integer(_IMAGE_LENGTH), directory.integer(_IMAGE_WIDTH)),
        orientation_of(directory),
        partial(_read, data, directory, tags, layout),
        is_costly=True,
        max_pixels=MAX_SAMPLE_BYTES * 8 // max(int(layout.bits[0]) * layout.num_samples, 1),
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


def _check_segments(directory: Directory, layout: Layout) -> None:
    """Pillow would leave black what lies in strips and tiles that are missing."""
    width, height = directory.integer(_IMAGE_WIDTH), directory.integer(_IMAGE_LENGTH)
    offsets = directory.entries.get(_STRIP_OFFSETS)
    size = width, directory.integer(_ROWS_PER_STRIP, height)
    if _TILE_WIDTH in directory.entries:
        offsets = directory.entries.get(_TILE_OFFSETS, offsets)
        size = directory.integer(_TILE_WIDTH), directory.integer(_TILE_LENGTH)
    if offsets is None:
        raise UndecodableImage("The TIFF image has neither strips nor tiles.")
    sides = ((width, size[0]), (height, size[1]))
    across, down = (-(-whole // max(part, 1)) for whole, part in sides)
    if offsets.count < across * down * (layout.num_samples if layout.is_planar else 1):
        raise UndecodableImage("The TIFF image lacks strips or tiles.")


def _not_read(kind: str) -> str:
    return f"A TIFF image with {kind} is not read; send it as JPEG or PNG."


def _read(
    data: memoryview, directory: Directory, tags: list[int], layout: Layout
) -> NDArray[np.uint8]:
    entries = {tag: directory.entries[tag] for tag in tags if tag != SAMPLE_FORMAT}
    if _TILE_WIDTH in entries:
        # Old files have tiles in the tags of strips. libtiff, tif_dirread.c
        for strips, tiles in _TILE_TAGS.items():
            if strips in entries:
                entries.setdefault(tiles, entries.pop(strips))
    is_inverted = layout.photometric == WHITE_IS_ZERO and PHOTOMETRIC in entries
    if is_inverted:
        entries[PHOTOMETRIC] = _short(directory, _BLACK_IS_ZERO)
    if not layout.is_planar:
        pixels_HW3 = _decode(data, directory, entries, layout)
    elif layout.mode in {"L", "P"}:
        pixels_HW3 = _decode_plane(data, directory, entries, layout, 0)
    else:
        bands = (
            _decode_plane(data, directory, entries, layout, plane)[..., 0]
            for plane in range(NUM_PLANES[layout.mode])
        )
        image = Image.merge(layout.mode, [Image.fromarray(band_HW) for band_HW in bands])
        pixels_HW3 = read_pixels(image)
    if is_inverted:
        np.invert(pixels_HW3, out=pixels_HW3)
    return pixels_HW3


def _decode_plane(
    data: memoryview,
    directory: Directory,
    entries: Mapping[int, Entry],
    layout: Layout,
    plane: int,
) -> NDArray[np.uint8]:
    """One sample of each pixel, as a grey picture; one of a palette as it looks."""
    entries = {tag: entry for tag, entry in entries.items() if tag not in _OF_ALL_PLANES}
    # The directory must not grow, so a tag that is missing stays so.
    if layout.photometric != PALETTE and PHOTOMETRIC in entries:
        entries[PHOTOMETRIC] = _short(directory, _BLACK_IS_ZERO)
    for tag in _SEGMENTS & entries.keys():
        count = entries[tag].count // layout.num_samples
        entries[tag] = directory.part(data, tag, plane * count, count)
    if BITS_PER_SAMPLE in entries:
        entries[BITS_PER_SAMPLE] = _short(directory, int(layout.bits[0]))
    return _decode(data, directory, entries, layout)


def _decode(
    data: memoryview, directory: Directory, entries: Mapping[int, Entry], layout: Layout
) -> NDArray[np.uint8]:
    try:
        image = TiffImageFile(BytesIO(_with_entries_alone(data, directory, entries)))
    except SyntaxError as error:
        raise UndecodableImage(_not_read(arrangement(layout))) from error
    if layout.photometric == PALETTE:
        colours = directory.numbers(data, _COLOR_MAP)
        if len(colours) != 3 << int(layout.bits[0]):
            raise UndecodableImage("The TIFF image has no palette of the size that it needs.")
        # Some writers give 8 bits where 16 are due. libtiff, tif_getimage.c
        if max(colours) < 256:
            image.palette = ImagePalette.raw("RGB;L", bytes(map(int, colours)))
    return read_pixels(image, grey_bits=int(layout.bits[0]))


def _short(directory: Directory, value: int) -> Entry:
    return Entry(_SHORT, 1, struct.pack(f"{directory.byte_order}HH", value, 0))


def _with_entries_alone(
    data: memoryview, directory: Directory, entries: Mapping[int, Entry]
) -> bytes:
    """The file with these tags as its only directory, written over the one that it has."""
    order = directory.byte_order
    rows = [
        struct.pack(f"{order}HHI4s", tag, entry.type, entry.count, entry.value)
        for tag, entry in sorted(entries.items())
    ]
    no_next = bytes(4)
    table = b"".join((struct.pack(f"{order}H", len(rows)), *rows, no_next))
    return b"".join((data[: directory.start], table, data[directory.start + len(table) :]))
