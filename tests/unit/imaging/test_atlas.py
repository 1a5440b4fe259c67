from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from service.errors import ImageTooLarge, UndecodableImage
from service.imaging.atlas import decode_atlas

RGBA = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)


def encode(pixels, file_format="PNG", **options):
    file = BytesIO()
    Image.fromarray(pixels).save(file, file_format, **options)
    return file.getvalue()


def test_alpha_stays_and_channels_are_red_green_blue():
    np.testing.assert_array_equal(decode_atlas(encode(RGBA), max_pixels=24), RGBA)
    np.testing.assert_array_equal(decode_atlas(encode(RGBA[..., :3]), max_pixels=24), RGBA[..., :3])


def test_grey_with_alpha_keeps_it_too():
    atlas = decode_atlas(encode(RGBA[..., :2]), max_pixels=24)
    np.testing.assert_array_equal(atlas, RGBA[..., [0, 0, 0, 1]])


def test_other_formats_have_no_alpha():
    assert decode_atlas(encode(RGBA[..., :3], "JPEG"), max_pixels=24).shape == (6, 4, 3)


def test_what_is_turned_is_turned_with_its_alpha():
    exif = Image.Exif()
    exif[0x0112] = 3
    atlas = decode_atlas(encode(RGBA, exif=exif), max_pixels=24)
    np.testing.assert_array_equal(atlas, RGBA[::-1, ::-1])


def test_hostile_bytes_are_refused_as_everywhere():
    with pytest.raises(ImageTooLarge):
        decode_atlas(encode(RGBA), max_pixels=23)
    for data in (b"", b"atlas", encode(RGBA)[:60]):
        with pytest.raises(UndecodableImage):
            decode_atlas(data, max_pixels=24)
