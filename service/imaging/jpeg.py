"""JPEG files: ITU-T T.81.

Their segments are walked here, since Pillow's own walk also interprets EXIF and warns on stderr.
The pixels come from OpenCV, bit-equal with Pillow and faster; those of CMYK from Pillow.
"""

import itertools
import math
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from service.errors import UndecodableImage
from service.imaging.directory import EXIF_PREFIX, read_orientation
from service.imaging.picture import LARGE_PIXELS, Picture, PillowFile

# The next marker that begins a segment or ends the picture: not a stuffed zero, not a restart.
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
_END, _SCAN, _APP1 = 0xD9, 0xDA, 0xE1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# ITU-T T.81, table B.1; T.87
_UNREAD_FRAMES = {
    0xC3: "lossless JPEG",
    0xC5: "hierarchical JPEG",
    0xC6: "hierarchical JPEG",
    0xC7: "hierarchical lossless JPEG",
    0xCB: "lossless JPEG",
    0xCD: "hierarchical JPEG",
    0xCE: "hierarchical JPEG",
    0xCF: "hierarchical lossless JPEG",
    0xF7: "JPEG-LS",
}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# APP1 to APP13, APP15 and comments: nothing in them changes a pixel.
_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
_ARITHMETIC = frozenset(range(0xC9, 0xD0))

_MAX_SEGMENTS = 10_000
# Each scan goes over all samples of its components again, 2 ns for each at the least, and costs a
# hostile file less than 100 bytes. Encoders go over a picture's samples some 5 times, in about 10
# scans: 560 million for 40 million pixels whose colours are not subsampled.
MAX_SCANNED_SAMPLES = 640_000_000


@dataclass(frozen=True, slots=True)
class _File:
    """A file that OpenCV decodes."""

    data: memoryview

    def read_pixels(self) -> NDArray[np.uint8]:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        pixels_HW3 = cv2.imdecode(np.frombuffer(self.data, np.uint8), flags)
        if pixels_HW3 is None:
            raise ValueError("no pixels")
        return np.asarray(pixels_HW3, np.uint8)


@dataclass(frozen=True, slots=True)
class _Segment:
    """A marker and its payload, as positions in the file."""

    marker: int
    start: int
    payload: int
    end: int


def read_jpeg(data: memoryview) -> Picture:
    """The picture in a JPEG file."""
    segments = _segments(data)
    header: list[_Segment] = []
    for segment in segments:
        header.append(segment)
        if segment.marker == _SCAN:
            break
    for segment in header:
        if name := _UNREAD_FRAMES.get(segment.marker):
            raise UndecodableImage(_not_read(name))
    frames = [segment for segment in header if segment.marker in _FRAMES]
    if len(frames) != 1 or header[-1].marker != _SCAN:
        raise UndecodableImage("The JPEG image has no single picture, or is cut short.")
    frame, scan = frames[0], header[-1]
    bits, height, width, num_components = struct.unpack_from(">BHHB", data, frame.payload)
    if bits in {12, 16}:
        raise UndecodableImage(_not_read(f"JPEG with samples of {bits} bits"))
    num_scanned = 0
    # The decoder reads on behind the first scan only if that leaves something open.
    if frame.marker in _PROGRESSIVE or data[scan.payload] < num_components:
        num_scanned = _count_scanned_samples(data, frame, itertools.chain([scan], segments))
    return Picture(
        (height, width),
        read_orientation(_exif(data, header)),
        _without_metadata(data, header) if num_components == 4 else _File(data),
        is_costly=num_scanned > LARGE_PIXELS or frame.marker in _ARITHMETIC,
    )


def _count_scanned_samples(data: memoryview, frame: _Segment, segments: Iterable[_Segment]) -> int:
    """How many samples all scans together go over.

    Raises:
        UndecodableImage: more than are decoded.
    """
    height, width, num_components = struct.unpack_from(">xHHB", data, frame.payload)
    # Section B.2.2: each component's identifier, and its sampling factors in four bits each.
    components = struct.iter_unpack("BBx", data[frame.payload + 6 :][: 3 * num_components])
    factors = {name: (both >> 4) * (both & 15) for name, both in components}
    most = max(factors.values(), default=1) or 1
    num_scanned = 0
    for segment in segments:
        if segment.marker == _SCAN:
            # Section B.2.3: how many components, and each with its tables.
            names = data[segment.payload + 1 :][: 2 * data[segment.payload] : 2]
            share = sum(factors.get(name, most) for name in names) / most
            num_scanned += math.ceil(height * width * share)
        if num_scanned > MAX_SCANNED_SAMPLES:
            raise UndecodableImage(
                f"The scans of the JPEG image go over more than {MAX_SCANNED_SAMPLES} samples: "
                "send it as a baseline JPEG, or smaller."
            )
    return num_scanned


def _not_read(name: str) -> str:
    return f"The image is {name}, which is not read; send it as JPEG of 8 bits or as PNG."


def _segments(data: memoryview) -> Iterator[_Segment]:
    """The segments up to the end of the picture; what lies between them is skipped."""
    position = 2
    for _ in range(_MAX_SEGMENTS):
        match = _MARKER.search(data, position)
        if match is None or data[match.end() - 1] == _END or match.end() + 2 > len(data):
            return
        (length,) = struct.unpack_from(">H", data, match.end())
        position = match.end() + max(length, 2)
        yield _Segment(data[match.end() - 1], match.start(), match.end() + 2, position)
    raise UndecodableImage(f"The JPEG image has more than {_MAX_SEGMENTS} segments.")


def _exif(data: memoryview, header: list[_Segment]) -> memoryview:
    payloads = (data[one.payload : one.end] for one in header if one.marker == _APP1)
    is_exif = (one for one in payloads if one[: len(EXIF_PREFIX)] == EXIF_PREFIX)
    return next(is_exif, data[:0])


def _without_metadata(data: memoryview, header: list[_Segment]) -> PillowFile:
    plain = [segment for segment in header if segment.marker not in _METADATA]
    parts = [data[segment.start : segment.end] for segment in plain]
    return PillowFile(JpegImageFile, (data[:2], *parts, data[plain[-1].end :]))
