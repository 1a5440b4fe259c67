"""What a hostile file may cost, in bytes and CPU seconds."""

import re
import struct
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
from PIL import Image

from service.errors import ImageTooLarge, UndecodableImage
from service.imaging.decode import decode_image, open_image
from tests.unit.imaging.test_png import END, SIGNATURE, chunk

MIB = 2**20
MAX_PIXELS = 40_000_000


def cpu_s(function):
    begun_s = time.process_time()
    function()
    return time.process_time() - begun_s


def refused(data):
    with pytest.raises((UndecodableImage, ImageTooLarge)):
        open_image(data, max_pixels=MAX_PIXELS).decode()


def tiled_tiff(width, height, side, blob, **more):
    number = -(-width // side) * -(-height // side)
    tags = {
        256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1,
        322: side, 323: side, 324: [8] * number, 325: [len(blob)] * number,
    }  # fmt: skip
    body, rows = bytearray(blob + bytes(len(blob) % 2)), []
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, list) else [value]
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(packed) > 4:
            at = struct.pack("<I", 8 + len(body))
            body, packed = body + packed, at
        rows.append(struct.pack("<HHI4s", tag, 4, len(values), packed))
    table = struct.pack("<H", len(rows)) + b"".join(rows) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + bytes(body) + table


def test_tiles_that_lie_outside_the_picture_are_not_decoded():
    bomb = tiled_tiff(1, 15_990_000, 4096, zlib.compress(bytes(4096 * 4096), 9))
    assert len(bomb) < 100_000
    assert cpu_s(lambda: refused(bomb)) < 0.1


@pytest.mark.parametrize("side", [16, 256, 512, 1024])
def test_tiles_of_a_usual_size_are_read(side):
    data = tiled_tiff(1000, 700, side, zlib.compress(b"\7" * side * side, 9))
    assert (decode_image(data, max_pixels=MAX_PIXELS).pixels_HW3 == 7).all()


def test_a_picture_of_40_million_pixels_in_tiles_is_opened():
    assert open_image(tiled_tiff(7745, 5164, 1024, b""), max_pixels=MAX_PIXELS).is_costly


OPENED = """
import resource, sys
from pathlib import Path
from service.imaging.decode import open_image
data = sys.stdin.buffer.read()
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + 8 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (most, most))
print(sum(open_image(data, max_pixels=40_000_000).num_pixels for _ in range(8)))
held = [open_image(data, max_pixels=40_000_000) for _ in range(1000)]
"""


def canvas(width, height, *, flags):
    sizes = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    return b"VP8X" + struct.pack("<I4s", 10, bytes((flags, 0, 0, 0))) + sizes


def riff(*chunks):
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


LOSSLESS = b"VP8L" + struct.pack("<IBI", 26, 0x2F, 7744 | 5163 << 14) + bytes(21)
LOSSY = b"VP8 " + struct.pack("<I3s3sHH", 10, bytes(3), b"\x9d\1\x2a", 7745, 5164)
FRAME = bytes(6) + b"\x40\x1e\0" + b"\x2b\x14\0" + bytes(4) + LOSSLESS


def large_pictures():
    header = struct.pack(">IIBBBBB", 7745, 5164, 8, 2, 0, 0, 0)
    gif = struct.pack("<6sHHBBB", b"GIF89a", 7745, 5164, 0, 0, 0)
    yield "WebP lossless", riff(LOSSLESS)
    yield "WebP lossy", riff(LOSSY)
    yield "WebP on a canvas", riff(canvas(7745, 5164, flags=0x10), LOSSLESS)
    yield (
        "WebP animated",
        riff(canvas(7745, 5164, flags=2), b"ANMF" + struct.pack("<I", len(FRAME)) + FRAME),
    )
    yield "PNG", SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + END
    yield "GIF", gif + struct.pack("<B4HB", 0x2C, 0, 0, 7745, 5164, 0) + bytes(10)
    yield (
        "BMP",
        struct.pack("<2sIIIIiiHHIIiiII", b"BM", 0, 0, 54, 40, 7745, 5164, 1, 24, 0, 0, 0, 0, 0, 0),
    )
    yield "TIFF", tiled_tiff(7745, 5164, 1024, b"")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in large_pictures()])
def test_a_picture_that_waits_takes_no_memory(data):
    probe = subprocess.run(
        [sys.executable, "-c", OPENED], input=data, capture_output=True, check=False
    )
    assert probe.stderr == b""
    assert probe.stdout == b"%d\n" % (8 * 7745 * 5164)


def test_of_an_animation_the_first_frame_alone_is_decoded_where_it_stands(save, our_reading):
    frames = [Image.new("RGB", (60, 40), "navy") for _ in range(3)]
    for number, frame in enumerate(frames):
        frame.paste((200, number, 9), (10 * number, 4, 10 * number + 20, 30))
    data = save(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(our_reading(data), np.asarray(frames[0]))
    at = data.index(b"ANMF") + 8
    moved = bytearray(data)
    struct.pack_into("<3s", moved, data.index(b"VP8X") + 12, (79).to_bytes(3, "little"))
    struct.pack_into("<3s", moved, at, (5).to_bytes(3, "little"))
    expected = np.zeros((40, 80, 3), np.uint8)
    expected[:, 10:70] = np.asarray(frames[0])
    np.testing.assert_array_equal(our_reading(bytes(moved)), expected)
    struct.pack_into("<3s", moved, at, (11).to_bytes(3, "little"))
    with pytest.raises(UndecodableImage, match="leaves its canvas"):
        our_reading(bytes(moved))


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_webp_is_bit_equal_with_pillow(mode, lossless, save, our_reading, pillow_reading):
    random = np.random.default_rng(0)
    for size in ((1, 1), (2, 3), (17, 9), (64, 48), (255, 129)):
        pixels = random.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
        pixels[size[1] // 2 :] //= 3
        picture = Image.fromarray(pixels).convert(mode)
        for quality in (1, 40, 75, 100):
            data = save(picture, "WEBP", lossless=lossless, quality=quality, exact=True, method=1)
            np.testing.assert_array_equal(our_reading(data), pillow_reading(data))


def progressive(size, num_scans, save):
    data = save(Image.new("L", (8, 8)), "JPEG", progressive=True)
    frame = data.index(b"\xff\xc2") + 5
    last = data[data.rindex(b"\xff\xda") : -2]
    sized = data[:frame] + struct.pack(">HH", *size) + data[frame + 4 : -2]
    count = len(re.findall(rb"\xff\xda", data))
    return sized + last * (num_scans - count) + data[-2:]


def test_scans_are_bounded_by_what_they_go_over(save):
    for size, num_scans in (((5164, 7745), 99), ((5164, 7745), 17), ((65_500, 1000), 10)):
        bomb = progressive(size, num_scans, save)
        assert cpu_s(partial(refused, bomb)) < 0.1
    for size, num_scans in (((5164, 7745), 16), ((1000, 1000), 600)):
        encoded = open_image(progressive(size, num_scans, save), max_pixels=MAX_PIXELS)
        assert encoded.is_costly
    assert not open_image(progressive((1000, 1000), 15, save), max_pixels=MAX_PIXELS).is_costly


def test_a_scan_counts_by_its_components_alone(save):
    data = save(Image.new("RGB", (4000, 4000)), "JPEG", progressive=True, subsampling="4:2:0")
    # Of ten scans two have all components, and half as many samples of colour as of brightness.
    assert open_image(data, max_pixels=MAX_PIXELS).is_costly
    assert decode_image(data, max_pixels=MAX_PIXELS).size_hw == (4000, 4000)


def test_blocks_of_one_byte_before_a_frame_are_counted(save):
    data = save(Image.new("P", (9, 9)), "GIF")
    at = data.index(b"\x2c", 13 + 6)
    bomb = data[:at] + b"!\xfe" + b"\1\0" * 5_000_000 + b"\0" + data[at:]
    assert cpu_s(lambda: refused(bomb)) < 0.5


def test_pixels_in_many_chunks_are_read_as_fast_as_in_one(save, our_reading):
    rows = np.random.default_rng(0).integers(0, 256, (600, 601), dtype=np.uint8)
    rows[:, 0] = 0
    head = SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 600, 600, 8, 0, 0, 0, 0))
    pixels = zlib.compress(rows.tobytes())
    data = head + chunk(b"IDAT", pixels) + END
    pieces = [chunk(b"IDAT", pixels[at : at + 13]) for at in range(0, len(pixels), 13)]
    assert len(pieces) > 25_000
    split = b"".join((head, *pieces, END))
    np.testing.assert_array_equal(our_reading(split), our_reading(data))
    assert cpu_s(lambda: our_reading(split)) < 0.5


def test_png_samples_are_bounded_too():
    for colour_type, bits, most in ((6, 8, 40_000_000), (2, 16, 26_666_666), (6, 16, 20_000_000)):
        for width, is_taken in ((most // 1000, True), (most // 1000 + 1, False)):
            header = struct.pack(">IIBBBBB", width, 1000, bits, colour_type, 0, 0, 0)
            data = SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + END
            if is_taken:
                open_image(data, max_pixels=MAX_PIXELS)
            else:
                with pytest.raises(ImageTooLarge, match="at most"):
                    open_image(data, max_pixels=MAX_PIXELS)


def test_a_decoder_in_a_thread_prints_next_to_nothing(photo, save, capfd):
    """What prints more is decoded in a process that has nowhere to print to."""
    large = photo.resize((800, 600))
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        data = bytearray(save(large, "JPEG", quality=95, **options))
        random = np.random.default_rng(0)
        for at in random.integers(len(data) // 4, len(data) - 2, 2000):
            data[at] = random.integers(0, 255)
        with suppress(UndecodableImage):
            decode_image(data, max_pixels=MAX_PIXELS)
        out, err = capfd.readouterr()
        assert len(out) + len(err) < 4096
