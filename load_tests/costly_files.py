"""Picture files with valid headers of extreme values, and content that costs little to send."""

import io
import math
import random
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TypeVar

import numpy as np
from PIL import Image

T = TypeVar("T")

# As many as a server takes by default, of pixels and of bytes.
MAX_PIXELS, MAX_BYTES = 40_000_000, 20 * 2**20


class Choices:
    """What a file is made of: numbers that are drawn as they are asked for, and can be changed."""

    def __init__(self, chance: random.Random, numbers: Sequence[float] = ()) -> None:
        self._chance = chance
        self.numbers = list(numbers)
        self._next = 0

    def mutant(self) -> "Choices":
        """The same but for one to three of them."""
        numbers = list(self.numbers)
        for _ in range(self._chance.randint(1, 3)):
            if numbers:
                numbers[self._chance.randrange(len(numbers))] = self._chance.random()
        return Choices(self._chance, numbers)

    def number(self) -> float:
        """The next one, 0 to 1."""
        if self._next == len(self.numbers):
            self.numbers.append(self._chance.random())
        self._next += 1
        return self.numbers[self._next - 1]

    def pick(self, *options: T) -> T:
        """One of these."""
        return options[int(self.number() * len(options))]

    def count(self, most: int) -> int:
        """From 1 to `most`, each power of two as likely as the next, and `most` itself."""
        number = self.number()
        return most if number > 0.6 else max(round(most ** (number / 0.6)), 1)

    def size(self, max_side: int, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
        """Width and height, as many pixels as are allowed or fewer."""
        num_pixels = self.count(max_pixels)
        width = self.pick(math.isqrt(num_pixels), 2 ** self.pick(4, 8, 12), self.count(num_pixels))
        width = min(max(width, 1), max_side)
        return width, min(max(num_pixels // width, 1), max_side)

    def content(self, num_bytes: int) -> bytes:
        """So many bytes, of a pattern or of none."""
        pattern = self.pick(b"\0", b"\xff", b"\xaa", b"\x01\x80", b"", bytes(range(256)))
        if not pattern:
            return random.Random(self.number()).randbytes(num_bytes)
        return (pattern * (num_bytes // len(pattern) + 1))[:num_bytes]


def _segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


@cache
def _jpeg_tables() -> bytes:
    """Quantization and Huffman tables, as an encoder writes them."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    data = file.getvalue()
    start, tables = 2, []
    while data[start + 1] != 0xDA:
        end = start + 2 + int(struct.unpack_from(">H", data, start + 2)[0])
        if data[start + 1] in {0xDB, 0xC4}:
            tables.append(data[start:end])
        start = end
    return b"".join(tables)


def jpeg(choices: Choices, frames: Sequence[int], num_components: int) -> bytes:
    """Scans of all kinds, in any number."""
    frame = choices.pick(*frames)
    is_progressive = frame in {0xC2, 0xCA}
    width, height = choices.size(65_500)
    # More than ten blocks together are too many for a scan of all components.
    factors = [choices.pick(0x11, 0x22, 0x21, 0x41), *[0x11] * (num_components - 1)]
    parts = [b"\xff\xd8", _jpeg_tables()]
    listed = b"".join(bytes((name, factor, min(name, 1))) for name, factor in enumerate(factors))
    parts.append(_segment(frame, struct.pack(">BHHB", 8, height, width, num_components) + listed))
    if choices.pick(True, False):
        parts.append(_segment(0xDD, struct.pack(">H", choices.count(65_535))))
    num_scans = choices.count(300) if is_progressive or choices.pick(True, False) else 1
    content = choices.content(choices.count(2**20 // num_scans)).replace(b"\xff", b"\xff\0")
    is_interleaved = choices.pick(True, False)
    for number in range(num_scans):
        names = range(num_components)
        if is_progressive and number and not choices.pick(0, 0, 1):
            band, names = choices.pick((1, 63, 0x00), (1, 5, 0x02), (1, 63, 0x21)), range(1)
        else:
            band = (0, 0 if is_progressive else 63, choices.pick(0, 0x10) * is_progressive)
        if not is_interleaved or band[0]:
            names = range(number % num_components, number % num_components + 1)
        listed = b"".join(bytes((name, 0x11 * min(name, 1))) for name in names)
        parts.append(_segment(0xDA, bytes((len(names),)) + listed + bytes(band)))
        parts.append(content)
    return b"".join((*parts, b"\xff\xd9"))


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + bytes(4)


def _deflated(choices: Choices, row: bytes, num_rows: int) -> bytes:
    """So many equal rows."""
    compressor = zlib.compressobj(choices.pick(1, 9))
    at_once = max(2**20 // len(row), 1)
    parts = [compressor.compress(row * at_once) for _ in range(-(-num_rows // at_once))]
    return b"".join((*parts, compressor.flush()))


def png(choices: Choices, colour_type: int, bits: Sequence[int], is_interlaced: int) -> bytes:
    """Any depth and filter; the pixels in chunks of any length."""
    depth = choices.pick(*bits)
    width, height = choices.size(2**31 - 1)
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    row_bytes = (width * depth * samples + 7) // 8
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, is_interlaced)
    row = bytes((choices.pick(0, 1, 2, 3, 4),)) + choices.content(row_bytes)
    if row_bytes * height > 2 * 10**8:
        # Refused by its size, or should be.
        height = 1
    if is_interlaced:
        # Its rows are shorter; all of them begin with a filter then.
        row, height = bytes(2**16), row_bytes * height * 2 // 2**16 + 1
    pixels = _deflated(choices, row, height)[:MAX_BYTES]
    length = max(choices.count(len(pixels)), len(pixels) // 90_000, 1)
    chunks = (
        _chunk(b"IDAT", pixels[start : start + length]) for start in range(0, len(pixels), length)
    )
    palette = _chunk(b"PLTE", bytes(range(3)) * 256) if colour_type == 3 else b""
    signature = b"\x89PNG\r\n\x1a\n"
    head = _chunk(b"IHDR", header)[:-4] + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    if palette:
        palette = palette[:-4] + struct.pack(">I", zlib.crc32(palette[4:-4]))
    return b"".join((signature, head, palette, *chunks, _chunk(b"IEND", b"")))


def _riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        kind + struct.pack("<I", len(payload)) + payload + bytes(len(payload) % 2)
        for kind, payload in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _lossy(choices: Choices, width: int, height: int) -> tuple[bytes, bytes]:
    """The frame of a picture of one colour, or of noise where it is small enough to be sent."""
    file = io.BytesIO()
    picture = Image.new("RGB", (width, height), choices.pick("black", "teal"))
    if width * height < 4_000_000 and choices.pick(True, False):
        picture = Image.effect_noise((width, height), 100).convert("RGB")
    picture.save(file, "WEBP", quality=choices.pick(0, 50, 90), method=0)
    data = file.getvalue()
    return b"VP8 ", data[data.index(b"VP8 ") + 8 :]


class _Bits:
    """A stream of bits, the lowest first."""

    def __init__(self) -> None:
        self._value, self._length = 0, 0

    def put(self, value: int, length: int) -> None:
        """So many bits of the value."""
        self._value |= value << self._length
        self._length += length

    def put_code(self, symbol: int) -> None:
        """A code of one symbol, which takes no bits in what follows."""
        self.put(1, 1)
        self.put(0, 1)
        self.put(1, 1)
        self.put(symbol, 8)

    def put_uniform_code(self) -> None:
        """A code in which the first 256 symbols have 8 bits each."""
        self.put(0, 1)
        # RFC 9649, section 3.7.2.1.2: lengths in the order 17, 18, 0, 1, ... 8; only 8 occurs.
        self.put(12 - 4, 4)
        for number in range(12):
            self.put(int(number == 11), 3)
        self.put(1, 1)
        self.put(3, 3)
        self.put(256 - 2, 8)

    def put_all(self, others: Sequence["_Bits"]) -> None:
        """These, one behind the other."""
        if len(others) > 64:
            half = len(others) // 2
            joined = [_Bits(), _Bits()]
            joined[0].put_all(others[:half])
            joined[1].put_all(others[half:])
            others = joined
        for other in others:
            self.put(other._value, other._length)  # noqa: SLF001

    def bytes(self) -> bytes:
        """All of them, with some more."""
        return self._value.to_bytes(-(-self._length // 8) + 8, "little")


def _lossless(choices: Choices, width: int, height: int) -> tuple[bytes, bytes]:
    """A picture of one colour behind any transforms, and with any number of groups of codes."""
    bits = _Bits()
    bits.put(0x2F, 8)
    bits.put(width - 1, 14)
    bits.put(height - 1, 14)
    bits.put(0, 4)
    for transform in (0, 1, 2):
        if choices.pick(True, False):
            bits.put(1 | transform << 1, 3)
            if transform != 2:
                bits.put(choices.pick(0, 7), 3)
                bits.put(0, 1)
                for symbol in (choices.pick(*range(14)), 0, 0, 255, 0):
                    bits.put_code(symbol)
    bits.put(0, 1)
    if choices.pick(True, False):
        bits.put(1 | choices.count(11) << 1, 5)
    else:
        bits.put(0, 1)
    num_groups = _put_groups(bits, choices, width, height) if choices.pick(True, False) else 0
    if not num_groups:
        bits.put(0, 1)
    codes = _Bits()
    for symbol in (128, 64, 32, 255, 0):
        codes.put_code(symbol)
    bits.put_all([codes] * max(num_groups, 1))
    return b"VP8L", bits.bytes()


def _put_groups(bits: _Bits, choices: Choices, width: int, height: int) -> int:
    """Which group of codes each square of the picture has; how many groups there are."""
    side = choices.pick(0, 1, 7)
    square = 4 << side
    num_squares = -(-width // square) * -(-height // square)
    if num_squares > 300_000:
        return 0
    bits.put(1 | side << 1, 4)
    bits.put(0, 1)
    # The number of a square's group stands in red and green, 8 bits each; a group's codes of one
    # symbol take no bits.
    bits.put_uniform_code()
    bits.put_uniform_code()
    for _ in range(3):
        bits.put_code(0)
    reversed_bits = np.array([int(f"{number:08b}"[::-1], 2) for number in range(256)], np.uint8)
    numbers = np.arange(num_squares, dtype=np.uint32) % 65_536
    pairs = np.stack([numbers & 255, numbers >> 8], axis=1).astype(np.uint8)
    stream = reversed_bits[pairs].tobytes()
    bits.put(int.from_bytes(stream, "little"), 8 * len(stream))
    return min(num_squares, 65_536)


def webp(choices: Choices, is_lossless: bool) -> bytes:
    """Plain, on a canvas, or the first frame of an animation on a larger one."""
    make = _lossless if is_lossless else _lossy
    width, height = choices.size(16_383)
    colours = make(choices, width, height)
    kind = choices.pick("plain", "extended", "animated")
    if kind == "plain":
        return _riff(colours)
    canvas = [width, height]
    if kind == "animated" and choices.pick(True, False):
        canvas = [min(side * choices.pick(1, 7, 1000), 2**24 - 1) for side in canvas]
    sizes = b"".join((side - 1).to_bytes(3, "little") for side in canvas)
    flags = (2 if kind == "animated" else 0) | choices.pick(0, 0x10)
    alpha = (b"ALPH", b"\1" + choices.content(choices.count(10_000)))
    if kind == "extended":
        return _riff((b"VP8X", bytes((flags, 0, 0, 0)) + sizes), alpha, colours)
    own = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    frame = bytes(6) + own + bytes(4) + _riff(alpha, colours)[12:]
    frames = [(b"ANMF", frame)] * choices.count(50)
    return _riff((b"VP8X", bytes((flags, 0, 0, 0)) + sizes), (b"ANIM", bytes(6)), *frames)


def gif(choices: Choices, is_interlaced: bool) -> bytes:
    """A first frame of one colour, which is small or large on its screen, and what precedes it."""
    width, height = choices.size(65_535)
    file = io.BytesIO()
    Image.new("P", (width, height), choices.pick(0, 1)).save(file, "GIF", interlace=is_interlaced)
    data = file.getvalue()
    blocks = b"".join(
        b"!\xfe" + (bytes((1, 0)) * choices.count(1000)) + b"\0"
        for _ in range(choices.count(100) - 1)
    )
    at = data.index(b"\x2c", 13 + 6)
    grown = [min(side * choices.pick(1, 1, 10), 65_535) for side in (width, height)]
    return data[:6] + struct.pack("<HH", *grown) + data[10:at] + blocks + data[at:]


def bmp(choices: Choices, compression: int) -> bytes:
    """Runs, or plain pixels of any depth."""
    bits = {1: 8, 2: 4}.get(compression) or choices.pick(1, 4, 8, 16, 24, 32)
    num_pixels = 2_000_000 if compression else min(MAX_PIXELS, MAX_BYTES * 8 // bits)
    width, height = choices.size(2**31 - 1, num_pixels)
    colours = bytes(range(256)) * 4 if bits <= 8 else b""
    content = choices.content(min((width * bits + 31) // 32 * 4 * height, MAX_BYTES))
    if compression:
        run = choices.count(min(255, width))
        row = bytes((run, choices.pick(0, 0x80))) * -(-width // run)
        content = (row + b"\0\0") * height + b"\0\1"
    header = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(content), 0, 0, 0, 0
    )
    start = 14 + len(header) + len(colours)
    return (
        struct.pack("<2sIHHI", b"BM", start + len(content), 0, 0, start)
        + header
        + colours
        + content
    )


_COMPRESSIONS = {
    1: "raw",
    2: None,
    3: None,
    4: None,
    5: "tiff_lzw",
    7: "jpeg",
    8: "tiff_adobe_deflate",
    32773: "packbits",
    34925: "lzma",
    50000: "zstd",
}


def _compressed(choices: Choices, compression: int, width: int, height: int, row: int) -> bytes:
    """A strip or tile of rows of so many bytes."""
    name = _COMPRESSIONS[compression]
    if name is None:
        return choices.content(choices.count(10**6))
    if name == "jpeg":
        size = (min(width, 65_500), min(height, 65_500))
        data = jpeg_tile(size, choices.pick(True, False))
        scan = data[data.rindex(b"\xff\xda") : -2]
        return data[:-2] + scan * (choices.count(200) - 1) + data[-2:]
    rows = min(height, max(200_000_000 // row, 1))
    pattern = np.frombuffer(choices.content(min(row, 2**16)), np.uint8)
    pixels = np.tile(np.resize(pattern, row), (rows, 1))
    if name == "raw":
        return pixels.tobytes()[:MAX_BYTES]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", compression=name, strip_size=2**31 - 1)
    data = file.getvalue()
    with Image.open(io.BytesIO(data)) as image:
        (start, *_), (length, *_) = image.tag_v2[273], image.tag_v2[279]  # type: ignore[attr-defined]
    return data[start : start + length]


def jpeg_tile(size: tuple[int, int], is_progressive: bool) -> bytes:
    """A grey picture of one colour."""
    file = io.BytesIO()
    Image.new("L", size).save(file, "JPEG", progressive=is_progressive)
    return file.getvalue()


def tiff(choices: Choices, compression: int) -> bytes:
    """Strips or tiles, which share their bytes; samples together or in planes."""
    photometric, samples = choices.pick((1, 1), (2, 3), (2, 4), (5, 4), (3, 1), (0, 1), (1, 2))
    bits = choices.pick(8, 16) if compression not in {2, 3, 4} else 1
    if compression in {2, 3, 4, 7}:
        photometric, samples, bits = 1, 1, {7: 8}.get(compression, 1)
    width, height = choices.size(2**31 - 1)
    planes = choices.pick(1, samples)
    tags: dict[int, tuple[int, list[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * samples),
        259: (3, [compression]),
        262: (3, [photometric]),
        277: (3, [samples]),
        284: (3, [2 if planes > 1 else 1]),
        317: (3, [choices.pick(1, 2)]),
    }
    if compression not in {5, 8, 34925, 50000}:
        del tags[317]
    if photometric == 3:
        tags[320] = (3, [0] * 3 * 2**bits)
    if samples > {1: 1, 2: 3, 5: 4, 3: 1, 0: 1}[photometric]:
        tags[338] = (3, [choices.pick(0, 1, 2)])
    if choices.pick(True, False):
        part = [16 * choices.count(256), 16 * choices.count(256)]
        number = -(-width // part[0]) * -(-height // part[1]) * planes
        tags |= {322: (4, part[:1]), 323: (4, part[1:])}
        offsets, lengths = 324, 325
    else:
        part = [width, min(choices.count(height), height)]
        number = -(-height // part[1]) * planes
        tags[278] = (4, part[1:])
        offsets, lengths = 273, 279
    number = min(number, 70_000)
    row = -(-part[0] * bits * (samples // planes) // 8)
    if row * part[1] > 300_000_000:
        part[1] = max(300_000_000 // row, 1)
    data = _compressed(choices, compression, part[0], part[1], row)
    tags[offsets], tags[lengths] = (4, [8] * number), (4, [len(data)] * number)
    return _tiff_file(tags, data)


def _tiff_file(tags: Mapping[int, tuple[int, list[int]]], data: bytes) -> bytes:
    body = bytearray(data + bytes(len(data) % 2))
    rows = []
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            body += bytes(len(body) % 2)
            at = 8 + len(body)
            body += packed
            packed = struct.pack("<I", at)
        rows.append(struct.pack("<HHI4s", tag, kind, len(values), packed))
    start = 8 + len(body)
    table = struct.pack("<H", len(rows)) + b"".join(rows) + bytes(4)
    return b"II*\0" + struct.pack("<I", start) + bytes(body) + table


FORMS: Mapping[str, Callable[[Choices], bytes]] = {
    "JPEG baseline": lambda choices: jpeg(choices, (0xC0, 0xC1), choices.pick(1, 3)),
    "JPEG baseline, CMYK": lambda choices: jpeg(choices, (0xC0,), 4),
    "JPEG progressive": lambda choices: jpeg(choices, (0xC2,), choices.pick(1, 3)),
    "JPEG progressive, CMYK": lambda choices: jpeg(choices, (0xC2,), 4),
    "JPEG arithmetic": lambda choices: jpeg(choices, (0xC9, 0xCA), choices.pick(1, 3, 4)),
    "PNG grey": lambda choices: png(choices, 0, (1, 2, 4, 8, 16), 0),
    "PNG RGB": lambda choices: png(choices, 2, (8, 16), 0),
    "PNG palette": lambda choices: png(choices, 3, (1, 2, 4, 8), 0),
    "PNG RGBA": lambda choices: png(choices, 6, (8, 16), 0),
    "PNG grey and alpha": lambda choices: png(choices, 4, (8, 16), 0),
    "PNG interlaced": lambda choices: png(choices, choices.pick(0, 2, 4, 6), (8, 16), 1),
    "WebP lossy": lambda choices: webp(choices, is_lossless=False),
    "WebP lossless": lambda choices: webp(choices, is_lossless=True),
    "GIF": lambda choices: gif(choices, is_interlaced=False),
    "GIF interlaced": lambda choices: gif(choices, is_interlaced=True),
    "BMP": lambda choices: bmp(choices, 0),
    "BMP run-length": lambda choices: bmp(choices, choices.pick(1, 2)),
    "TIFF uncompressed": lambda choices: tiff(choices, 1),
    "TIFF CCITT": lambda choices: tiff(choices, choices.pick(2, 3, 4)),
    "TIFF LZW": lambda choices: tiff(choices, 5),
    "TIFF JPEG": lambda choices: tiff(choices, 7),
    "TIFF deflate": lambda choices: tiff(choices, 8),
    "TIFF PackBits": lambda choices: tiff(choices, 32773),
    "TIFF LZMA": lambda choices: tiff(choices, 34925),
    "TIFF Zstandard": lambda choices: tiff(choices, 50000),
}
