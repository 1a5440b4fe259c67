import re

import pytest

from service.errors import UndecodableImage
from service.imaging.decode import decode_image
from service.imaging.unread import name_of_file


@pytest.mark.parametrize(
    ("beginning", "name"),
    [
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "CR3, a camera's raw file"),
        (b"\0\0\0\x18ftypisom\0\0\2\0", "a video"),
        (b"\0\0\0\x14ftypqt  \0\0\2\0", "a video"),
        (b"\xff\x0a\xfa\x9f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x4f\xff\x51\0\x29", "JPEG 2000"),
        (b"II+\0\x08\0\0\0", "BigTIFF"),
        (b"MM\0+\0\x08\0\0", "BigTIFF"),
        (b"II*\0\x10\0\0\0CR\2\0", "CR2, a camera's raw file"),
        (b"FUJIFILMCCD-RAW 0201", "a camera's raw file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a\nb -->\n<svg>", "SVG"),
        (b"<!DOCTYPE html><html><body><svg>", "a web page"),
        (b"%PDF-1.7\n", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b"8BPS\0\1", "PSD, a file of Photoshop"),
        (b"\0\0\1\0\1\0\x10\x10", "ICO"),
        (b"P6 1 1 255 \0\0\0", "a Netpbm image"),
        (b"PK\3\4\x14\0", "a ZIP archive"),
    ],
)
def test_what_is_sent_instead_of_a_picture_is_named(beginning, name):
    data = beginning + bytes(64)
    assert name_of_file(memoryview(data)) == name
    with pytest.raises(UndecodableImage, match=re.escape(name)):
        decode_image(data, max_pixels=10_000)


@pytest.mark.parametrize("data", [b"", b"hello", b"P", b"\0" * 64, b"II*\0\x08\0\0\0" + bytes(20)])
def test_what_is_of_no_known_kind_has_no_name(data):
    assert name_of_file(memoryview(data)) is None


def test_a_name_is_found_in_little_time_whatever_the_bytes():
    for data in (b"<" * 5000, b"<!" + b"<?xml" * 1000, b" " * 5000, b"%PDF" * 1000):
        assert name_of_file(memoryview(data)) is None
