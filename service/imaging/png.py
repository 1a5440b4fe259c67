"""PNG files: W3C, Portable Network Graphics, third edition.

Only the chunks that pixels are made of reach Pillow: no text or colour profile to inflate, no
animation, no transparency.
"""

import struct

from PIL.PngImagePlugin import PngImageFile

from service.errors import UndecodableImage
from service.imaging.directory import read_orientation
from service.imaging.picture import Part, Picture, PillowFile

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER, _PALETTE, _PIXELS, _END = b"IHDR", b"PLTE", b"IDAT", b"IEND"
# Encoders make them of 8 KB and more; each takes 3 us.
_MAX_CHUNKS = 30_000
# Of each colour type. Section 11.2.1
_SAMPLES_PER_PIXEL = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# To inflate and to unfilter one takes up to 10 ns. So many are 40 million pixels of RGBA of 8 bits,
# or 26 million of RGB of 16 bits.
MAX_SAMPLE_BYTES = 160_000_000


def read_png(data: memoryview, *, is_alpha_kept: bool = False) -> Picture:
    """The picture in a PNG file; of an animated one, its default image.

    Where alpha is kept, the pixels have a fourth channel, A, if the file has it.
    """
    header, parts, orientation = _plain_parts(data)
    width, height, bits, colour_type = struct.unpack_from(">IIBB", header, 8)
    sample_bits = bits * _SAMPLES_PER_PIXEL.get(colour_type, 1)
    file = PillowFile(PngImageFile, (_SIGNATURE, header, *parts), is_alpha_kept)
    max_pixels = MAX_SAMPLE_BYTES * 8 // max(sample_bits, 1)
    return Picture((height, width), orientation, file, max_pixels=max_pixels)


def _plain_parts(data: memoryview) -> tuple[Part, list[Part], int]:
    """The header, the other chunks that pixels are made of, and the orientation."""
    header: Part = b""
    parts: list[Part] = []
    run: list[Part] = []
    orientation, position, has_ended = 1, len(_SIGNATURE), False
    for _ in range(_MAX_CHUNKS):
        # What comes behind the end is no part of the picture, however much it is.
        if has_ended or position + 8 > len(data):
            if not header:
                raise UndecodableImage("The PNG image is damaged or cut short.")
            return header, [*parts, *_as_one(run)], orientation
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        chunk = data[position:end]
        if kind == _HEADER and not header:
            header = chunk
        elif kind == _PIXELS:
            run.append(chunk)
        elif kind in {_PALETTE, _END}:
            parts += (*_as_one(run), chunk)
            run = []
            has_ended = kind == _END
        elif kind == b"CgBI":
            raise UndecodableImage("PNG as Apple's tools store it in apps is not read; undo that.")
        elif kind == b"eXIf":
            orientation = read_orientation(chunk[8:-4])
        position = end
    raise UndecodableImage(f"The PNG image has more than {_MAX_CHUNKS} chunks.")


def _as_one(chunks: list[Part]) -> list[Part]:
    """The same as one chunk: Pillow's reading of a chunk costs as much as of its first 4 KB."""
    if len(chunks) <= 1:
        return chunks
    *rest, last = chunks
    num_bytes = sum(len(chunk) - 12 for chunk in rest)
    (last_bytes,) = struct.unpack_from(">I", last)
    head = struct.pack(">I4s", num_bytes + last_bytes, _PIXELS)
    # Pillow looks at no checksum of pixels, so that the last chunk's may stand for all.
    return [head, *(chunk[8:-4] for chunk in rest), last[8:]]
