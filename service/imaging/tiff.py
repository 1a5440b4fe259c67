"""TIFF files: Adobe, TIFF Revision 6.0, and its technical notes.

Pillow is given the file with only those tags of its first directory that say how pixels are stored,
and they are checked: so it neither warns on stderr nor parses what is not asked for. Where Pillow
reads the pixels wrong, they are right here: of samples in planes of their own each plane is read as
a grey picture, WhiteIsZero is read as BlackIsZero and inverted, and a palette may have 8 bits.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImagePalette
from PIL.ExifTags import Base as Tag
from PIL.TiffImagePlugin import TiffImageFile

from service.errors import UndecodableImage
from service.imaging.directory import Directory, Entry, orientation_of, read_directory
from service.imaging.picture import Picture, read_pixels
from service.imaging.tiff_layout import (
    NUM_PLANES,
    PALETTE,
    WHITE_IS_ZERO,
    Layout,
    arrangement,
    kinds_not_read,
    layout_of,
)

_NUMBERS = frozenset(
    {Tag.ImageWidth, Tag.ImageLength, Tag.Compression, Tag.PhotometricInterpretation}
    | {Tag.SamplesPerPixel, Tag.RowsPerStrip, Tag.PlanarConfiguration, Tag.TileWidth}
    | {Tag.TileLength, Tag.FillOrder, Tag.T4Options, Tag.T6Options, Tag.Predictor}
)
_LISTS = frozenset(
    {Tag.BitsPerSample, Tag.StripOffsets, Tag.StripByteCounts, Tag.ColorMap, Tag.TileOffsets}
    | {Tag.TileByteCounts, Tag.ExtraSamples, Tag.SampleFormat, Tag.JPEGTables}
    | {Tag.YCbCrCoefficients, Tag.YCbCrSubSampling, Tag.YCbCrPositioning, Tag.ReferenceBlackWhite}
)
_TILE_TAGS = {Tag.StripOffsets: Tag.TileOffsets, Tag.StripByteCounts: Tag.TileByteCounts}
_SEGMENTS = frozenset({*_TILE_TAGS.keys(), *_TILE_TAGS.values()})
_OF_ALL_PLANES = frozenset(
    {Tag.SamplesPerPixel, Tag.PlanarConfiguration, Tag.ExtraSamples, Tag.YCbCrCoefficients}
    | {Tag.YCbCrSubSampling, Tag.ReferenceBlackWhite}
)
_SHORT, _BLACK_IS_ZERO = 3, 1

# Pillow makes a Python object of each.
_MAX_STRIPS = 65_536
# To decompress one takes up to 7 ns, of LZMA. So many are 40 million pixels of RGBA of 8 bits, or
# 20 million of 16 bits.
MAX_SAMPLE_BYTES = 160_000_000
# All tiles together may have so many pixels, or one and a half times the picture's: 40 million in
# tiles of 1024 x 1024 have a quarter more.
MAX_TILED_PIXELS = 4096 * 4096
MAX_TILED_SHARE = 1.5


@dataclass(frozen=True, slots=True)
class _File:
    """A file whose tags and layout were checked; `entries` are those tags that pixels need."""

    data: memoryview
    directory: Directory
    entries: Mapping[int, Entry]
    layout: Layout

    def read_pixels(self) -> NDArray[np.uint8]:
        entries, layout = dict(self.entries), self.layout
        if Tag.TileWidth in entries:
            # Old files have tiles in the tags of strips. libtiff, tif_dirread.c
            for strips, tiles in _TILE_TAGS.items():
                if strips in entries:
                    entries.setdefault(tiles, entries.pop(strips))
        is_inverted = (
            layout.photometric == WHITE_IS_ZERO and Tag.PhotometricInterpretation in entries
        )
        if is_inverted:
            entries[Tag.PhotometricInterpretation] = self.short(_BLACK_IS_ZERO)
        if not layout.is_planar:
            pixels_HW3 = self.decode(entries)
        elif layout.mode in {"L", "P"}:
            pixels_HW3 = self.decode_plane(entries, 0)
        else:
            bands = (
                self.decode_plane(entries, plane)[..., 0]
                for plane in range(NUM_PLANES[layout.mode])
            )
            image = Image.merge(layout.mode, [Image.fromarray(band_HW) for band_HW in bands])
            pixels_HW3 = read_pixels(image)
        if is_inverted:
            np.invert(pixels_HW3, out=pixels_HW3)
        return pixels_HW3

    def decode_plane(self, entries: Mapping[int, Entry], plane: int) -> NDArray[np.uint8]:
        """One sample of each pixel, as a grey picture; one of a palette as it looks."""
        layout = self.layout
        entries = {tag: entry for tag, entry in entries.items() if tag not in _OF_ALL_PLANES}
        # The directory must not grow, so a tag that is missing stays so.
        if layout.photometric != PALETTE and Tag.PhotometricInterpretation in entries:
            entries[Tag.PhotometricInterpretation] = self.short(_BLACK_IS_ZERO)
        for tag in _SEGMENTS & entries.keys():
            count = entries[tag].count // layout.num_samples
            entries[tag] = self.directory.part(self.data, tag, plane * count, count)
        if Tag.BitsPerSample in entries:
            entries[Tag.BitsPerSample] = self.short(int(layout.bits[0]))
        return self.decode(entries)

    def decode(self, entries: Mapping[int, Entry]) -> NDArray[np.uint8]:
        layout = self.layout
        try:
            image = TiffImageFile(BytesIO(_with_entries_alone(self.data, self.directory, entries)))
        except SyntaxError as error:
            raise UndecodableImage(_not_read(arrangement(layout))) from error
        if layout.photometric == PALETTE:
            colours = self.directory.numbers(self.data, Tag.ColorMap)
            if len(colours) != 3 << int(layout.bits[0]):
                raise UndecodableImage("The TIFF image has no palette of the size that it needs.")
            # Some writers give 8 bits where 16 are due. libtiff, tif_getimage.c
            if max(colours) < 256:
                image.palette = ImagePalette.raw("RGB;L", bytes(map(int, colours)))
        return read_pixels(image, grey_bits=int(layout.bits[0]))

    def short(self, value: int) -> Entry:
        return Entry(_SHORT, 1, struct.pack(f"{self.directory.byte_order}HH", value, 0))


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
    entries = {tag: directory.entries[tag] for tag in tags if tag != Tag.SampleFormat}
    return Picture(
        (directory.integer(Tag.ImageLength), directory.integer(Tag.ImageWidth)),
        orientation_of(directory),
        _File(data, directory, entries, layout),
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
        if tag in {Tag.StripOffsets, Tag.TileOffsets} and entry.count > _MAX_STRIPS:
            raise UndecodableImage(f"The TIFF image has more than {_MAX_STRIPS} strips or tiles.")


def _check_area(directory: Directory) -> None:
    """Tiles are decoded whole, however little of them lies in the picture."""
    size = directory.integer(Tag.ImageWidth), directory.integer(Tag.ImageLength)
    tile = directory.integer(Tag.TileWidth), directory.integer(Tag.TileLength)
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
    width, height = directory.integer(Tag.ImageWidth), directory.integer(Tag.ImageLength)
    offsets = directory.entries.get(Tag.StripOffsets)
    size = width, directory.integer(Tag.RowsPerStrip, height)
    if Tag.TileWidth in directory.entries:
        offsets = directory.entries.get(Tag.TileOffsets, offsets)
        size = directory.integer(Tag.TileWidth), directory.integer(Tag.TileLength)
    if offsets is None:
        raise UndecodableImage("The TIFF image has neither strips nor tiles.")
    sides = ((width, size[0]), (height, size[1]))
    across, down = (-(-whole // max(part, 1)) for whole, part in sides)
    if offsets.count < across * down * (layout.num_samples if layout.is_planar else 1):
        raise UndecodableImage("The TIFF image lacks strips or tiles.")


def _not_read(kind: str) -> str:
    return f"A TIFF image with {kind} is not read; send it as JPEG or PNG."


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
