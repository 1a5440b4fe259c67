from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from service.errors import ImageTooLarge, UndecodableImage
from service.imaging.atlas import decode_atlas, open_atlas

RGBA = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)


def encode(pixels, file_format="PNG", **options):
    file = BytesIO()
    Image.fromarray(pixels).save(file, file_format, **options)
    return file.getvalue()


def decoded(data):
    return decode_atlas(open_atlas(data))


def test_alpha_stays_and_channels_are_red_green_blue():
    np.testing.assert_array_equal(decoded(encode(RGBA)), RGBA)
    np.testing.assert_array_equal(decoded(encode(RGBA[..., :3])), RGBA[..., :3])


def test_grey_with_alpha_keeps_it_too():
    atlas = decoded(encode(RGBA[..., :2]))
    np.testing.assert_array_equal(atlas, RGBA[..., [0, 0, 0, 1]])


def test_other_formats_have_no_alpha():
    assert decoded(encode(RGBA[..., :3], "JPEG")).shape == (6, 4, 3)


def test_what_is_turned_is_turned_with_its_alpha():
    exif = Image.Exif()
    exif[0x0112] = 3
    atlas = decoded(encode(RGBA, exif=exif))
    np.testing.assert_array_equal(atlas, RGBA[::-1, ::-1])


def test_hostile_bytes_are_refused_as_everywhere():
    with pytest.raises(ImageTooLarge):
        open_atlas(encode(np.zeros((5100, 5000), np.uint8)))
    for data in (b"", b"atlas", encode(RGBA)[:60]):
        with pytest.raises(UndecodableImage):
            decoded(data)
