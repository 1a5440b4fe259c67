import pytest

from service.errors import ImageTooLarge, UndecodableImage
from service.imaging.decode import decode_image


def with_canvas(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b"VP8X") + 12
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return data[:at] + size + data[at + 6 :]


@pytest.mark.parametrize("side", [7_000, 13_000, 16_383, 2**24])
def test_a_large_canvas_is_refused_by_its_header(side, photo, save):
    data = save(photo, "WEBP", save_all=True, append_images=[photo.rotate(90)])
    with pytest.raises(ImageTooLarge):
        decode_image(with_canvas(data, side, side), max_pixels=40_000_000)


def test_a_canvas_of_another_size_than_the_picture_is_refused(photo, save):
    data = save(photo, "WEBP", exif=b"Exif\0\0II*\0")
    assert decode_image(with_canvas(data, 53, 37), max_pixels=10_000).size_hw == (37, 53)
    for size in ((54, 37), (52, 37), (100, 100), (1, 1)):
        with pytest.raises(UndecodableImage):
            decode_image(with_canvas(data, *size), max_pixels=10_000)


def test_damaged_exif_costs_the_orientation_and_not_the_picture(photo, save):
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0", b"\xff" * 1000):
        data = save(photo, "WEBP", exif=exif)
        assert decode_image(data, max_pixels=10_000).size_hw == (37, 53)
