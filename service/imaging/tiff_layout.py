"""How a TIFF file stores the samples of its first picture, and what of that is not read.

Adobe, TIFF Revision 6.0, and its technical notes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL.ExifTags import Base as Tag
from PIL.TiffImagePlugin import MAX_SAMPLESPERPIXEL

from service.imaging.directory import Directory
from service.imaging.unread import name_of_file

WHITE_IS_ZERO = 0
PALETTE = 3
_CMYK = 5
_YCBCR = 6
# PhotometricInterpretation in Pillow's words.
_MODES = {0: "L", 1: "L", 2: "RGB", 3: "P", 5: "CMYK", 6: "YCbCr", 8: "LAB"}
_PREMULTIPLIED = 1
# What is merged from planes, and how many of them; alpha counts where colours were scaled by it.
NUM_PLANES = {"L": 1, "La": 2, "P": 1, "RGB": 3, "RGBa": 4, "CMYK": 4, "YCbCr": 3}
_PLANES = 2
_LOW_BIT_FIRST = 2
_UNCOMPRESSED = 1
_JPEG = 7
# CCITT's are 2, 3, 4 and 32771, then LZW, deflate, PackBits, deflate, LZMA, Zstandard.
_COMPRESSIONS = frozenset({_UNCOMPRESSED, _JPEG, 2, 3, 4, 32771, 5, 8, 32773, 32946, 34925, 50000})
# Adobe, TIFF Technical Notes; libtiff, tiff.h
_UNREAD_COMPRESSIONS = {
    6: "old-style JPEG",
    32766: "NeXT run lengths",
    32767: "Sony's raw data",
    32769: "Epson's raw data",
    32770: "Samsung's raw data",
    32809: "ThunderScan run lengths",
    32895: "run lengths of IT8",
    32896: "run lengths of IT8",
    32897: "run lengths of IT8",
    32898: "run lengths of IT8",
    32908: "a format of Pixar",
    32909: "a format of Pixar",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34676: "LogLuv",
    34677: "LogLuv",
    34712: "JPEG 2000",
    34713: "Nikon's raw data",
    34715: "JBIG2",
    34887: "LERC",
    34892: "lossy JPEG of DNG",
    34933: "PNG",
    34934: "JPEG XR",
    48124: "Jetraw",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
    65000: "Kodak's raw data",
}
_UNREAD_PHOTOMETRICS = {
    4: "a mask",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32803: "a sensor's raw data",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw data",
    51177: "a depth map",
    52527: "a semantic mask",
}
# Unsigned integers, and whatever the writer did not say.
_SAMPLE_FORMATS = frozenset({1, 4})
_UNREAD_SAMPLES = {
    2: "samples with a sign, which have no range",
    3: "floating-point samples, which have no range",
    5: "complex samples",
    6: "complex samples",
}
_BYTE_BITS = 8
_FULL_RANGE = (0, 255, 128, 255, 128, 255)
_ITU_R_BT_601 = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a picture's samples are stored; `mode` is Pillow's name for them, alpha left out."""

    compression: int
    photometric: int
    mode: str
    num_samples: int
    bits: tuple[float, ...]
    is_planar: bool


def layout_of(data: memoryview, directory: Directory) -> Layout:
    """What the directory of a file says; the tags that it lacks have their defaults."""
    photometric = directory.integer(Tag.PhotometricInterpretation, WHITE_IS_ZERO)
    num_samples = directory.integer(Tag.SamplesPerPixel, 1)
    is_premultiplied = directory.numbers(data, Tag.ExtraSamples)[:1] == (_PREMULTIPLIED,)
    return Layout(
        compression=directory.integer(Tag.Compression, _UNCOMPRESSED),
        photometric=photometric,
        mode=_MODES.get(photometric, "") + "a" * is_premultiplied,
        num_samples=num_samples,
        bits=(directory.numbers(data, Tag.BitsPerSample) or (1,))[:num_samples],
        is_planar=directory.integer(Tag.PlanarConfiguration) == _PLANES and num_samples > 1,
    )


def kinds_not_read(data: memoryview, directory: Directory, layout: Layout) -> list[str]:
    """What an intact file has that Pillow does not read, or would read wrong."""
    name = name_of_file(data)
    compression = _UNREAD_COMPRESSIONS.get(layout.compression, "an unknown")
    photometric = _UNREAD_PHOTOMETRICS.get(layout.photometric, "an unknown kind of colours")
    # Of the bits, the first stands for a smaller version of a picture, the third for its mask.
    is_alone = directory.is_last and Tag.SubIFDs not in directory.entries
    is_before = directory.integer(Tag.NewSubfileType) & 0b101 and not is_alone
    kinds = (
        (Tag.DNGVersion in directory.entries, "a camera's raw data (DNG)"),
        (name is not None, str(name)),
        (is_before, "a thumbnail or mask in front of the picture itself"),
        (layout.compression not in _COMPRESSIONS, f"{compression} compression"),
        (layout.photometric not in _MODES, photometric),
    )
    found = [kind for is_so, kind in kinds if is_so]
    return found + _samples_not_read(data, directory, layout)


def _samples_not_read(data: memoryview, directory: Directory, layout: Layout) -> list[str]:
    bits, photometric = set(layout.bits), layout.photometric
    is_raw = layout.compression == _UNCOMPRESSED
    # Pillow takes these to be WhiteIsZero, of which it inverts no more than 8 bits.
    is_unclear = Tag.PhotometricInterpretation not in directory.entries and (
        layout.num_samples > 1 or layout.bits[0] > _BYTE_BITS
    )
    formats = sorted(set(directory.numbers(data, Tag.SampleFormat)) - _SAMPLE_FORMATS)
    is_not_converted = photometric == _YCBCR and (layout.is_planar or is_raw)
    is_raw_palette = is_raw and photometric == PALETTE
    is_badly_arranged = (
        len(bits) > 1
        or not NUM_PLANES.get(layout.mode, 1) <= layout.num_samples <= MAX_SAMPLESPERPIXEL
        or (layout.is_planar and layout.mode not in NUM_PLANES)
        or (photometric == WHITE_IS_ZERO and layout.mode == "La")
        or (is_raw_palette and directory.integer(Tag.FillOrder) == _LOW_BIT_FIRST)
    )
    kinds = (
        (is_unclear, "no PhotometricInterpretation"),
        (
            photometric == _CMYK and directory.integer(Tag.InkSet, 1) != 1,
            "inks other than cyan, magenta, yellow and black",
        ),
        *((True, _UNREAD_SAMPLES.get(int(kind), "samples of an unknown kind")) for kind in formats),
        (
            layout.compression == _JPEG and bits != {_BYTE_BITS},
            "JPEG compression of other than 8 bits",
        ),
        *(_ycbcr_not_read(data, directory, layout) if is_not_converted else ()),
        (is_badly_arranged, arrangement(layout)),
    )
    return [kind for is_so, kind in kinds if is_so]


def _ycbcr_not_read(
    data: memoryview, directory: Directory, layout: Layout
) -> Iterator[tuple[bool, str]]:
    """What libtiff would convert, which is not asked where this is so."""
    black_white = directory.numbers(data, Tag.ReferenceBlackWhite) or _FULL_RANGE
    coefficients = directory.numbers(data, Tag.YCbCrCoefficients) or _ITU_R_BT_601
    is_jpeg_s = black_white == _FULL_RANGE and np.allclose(coefficients, _ITU_R_BT_601, atol=0.001)
    is_subsampled = directory.numbers(data, Tag.YCbCrSubSampling) != (1, 1)
    yield set(layout.bits) != {_BYTE_BITS}, arrangement(layout)
    yield is_subsampled, "subsampled YCbCr that is planar or not compressed"
    yield not is_jpeg_s, "YCbCr other than JPEG's that is planar or not compressed"


def arrangement(layout: Layout) -> str:
    """What the samples are, where it is their combination that is not read."""
    bits = " or ".join(f"{number:.0f}" for number in sorted(set(layout.bits)))
    return f"{layout.num_samples} samples ({layout.mode}) of {bits} bits, so arranged,"
