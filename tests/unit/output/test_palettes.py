import numpy as np
import pytest

from service.output.palettes import LABEL_VALUES, Palette, colours_of, label_colours

# R, G and B of the background and the 24 parts, as the tools that read these pictures know them.
GOLDEN = {
    Palette.PARULA: """
        352a87 253ca3 1450c2 0461df 086edd 0e7ad8 1484d4 0f90d0 0b9ccb 06a6c6 16adb9 26b3ac 37b99f
        56bb90 72bd82 91bf74 aabd69 c0bc60 d8ba56 e4c04a f0c73c fcce2e fbdc24 faeb19 f9fb0e""",
    Palette.VIRIDIS: """
        440154 471063 481f70 472c7a 443983 404688 3b518b 365d8d 31688e 2c718e 287c8e 25858e 21908d
        1f9a8a 20a386 27ad81 35b779 46c06f 5cc863 73d056 8ed645 aadc32 c5e021 e2e418 fde725""",
    Palette.CVTON: """
        000000 696969 556b2f 8b4513 483d8b 008000 9acd32 00008b ff4500 ffa500 ffff00 00ff00 ba55d3
        00ff7f dc143c 00bfff 0000ff d8bfd8 ff00ff 1e90ff db7093 f0e68c ff1493 ffa07a 7fffd4""",
}


@pytest.mark.parametrize("palette", GOLDEN)
def test_the_parts_have_the_colours_that_their_readers_know(palette):
    colours = [colour.tobytes().hex() for colour in label_colours(palette)]
    assert colours == GOLDEN[palette].split()


@pytest.mark.parametrize("palette", Palette)
def test_every_part_can_be_told_from_every_other_by_its_colour(palette):
    assert len(np.unique(label_colours(palette), axis=0)) == 25
    assert colours_of(palette).shape == (256, 3)


def test_labels_are_spread_over_the_palette_and_truncated():
    assert LABEL_VALUES.tolist() == [int(255 * label / 24) for label in range(25)]
