import numpy as np
import pytest

from service.datatypes import Prediction
from service.output.drawing import Scenery, draw
from service.output.textures import is_atlas_shape, look_up_texels
from tests.unit.output.scenes import SIZE_HW, make_atlas, make_photo, make_prediction, style


def test_parts_lie_column_after_column_and_v_points_up():
    side = 10
    atlas = np.zeros((6 * side, 4 * side, 3), np.uint8)
    labels, us, vs = [], [], []
    for part in range(1, 25):
        column, row = (part - 1) // 6 * side, (part - 1) % 6 * side
        atlas[row, column] = (part, 1, 0)  # u = 0, v = 1
        atlas[row + side - 1, column + side - 1] = (part, 2, 0)  # u = 1, v = 0
        labels += [part, part]
        us += [0.0, 1.0]
        vs += [1.0, 0.0]
    uv = np.array([us, vs], np.float32)
    colours, opacity = look_up_texels(atlas, np.array([labels], np.uint8), uv[:, None])
    assert colours[0].tolist() == [[part, k, 0] for part in range(1, 25) for k in (1, 2)]
    assert (opacity == 1).all()


def test_black_is_transparent_without_alpha_and_opaque_with_it():
    labels, uv = np.array([[1]], np.uint8), np.zeros((2, 1, 1), np.float32)
    black = np.zeros((6, 4, 3), np.uint8)
    assert look_up_texels(black, labels, uv)[1].tolist() == [[0.0]]
    with_alpha = np.dstack((black, np.full((6, 4), 51, np.uint8)))
    assert look_up_texels(with_alpha, labels, uv)[1].tolist() == [[0.2]]


def test_transparent_texels_leave_what_is_below():
    prediction, photo = make_prediction(), make_photo()
    atlas = make_atlas(channels=4)
    atlas[..., 3] = 0
    drawn = draw(style("texture"), prediction, Scenery(photo, atlas))
    np.testing.assert_array_equal(drawn, photo.pixels_HW3[..., ::-1])
    alone = Prediction(SIZE_HW, prediction.instances)
    clear = draw(style("texture", background="transparent"), alone, Scenery(photo, atlas))
    assert not clear.any()


@pytest.mark.parametrize(
    ("height", "width", "is_atlas"),
    [
        *((6, 4, True), (384, 256, True), (6144, 4096, True)),
        *((4, 6, False), (384, 255, False), (5, 4, False), (0, 0, False), (7, 4, False)),
    ],
)
def test_an_atlas_is_six_squares_high_and_four_wide(height, width, is_atlas):
    assert is_atlas_shape(height, width) == is_atlas
