from dataclasses import replace

import cv2
import numpy as np
import pytest

from service.datatypes import Prediction
from service.output.drawing import BOX_COLOUR, Scenery, draw, is_atlas_shape, look_up_texels
from service.output.palettes import Palette, label_colours
from service.output.presets import PRESETS
from tests.unit.output.scenes import (
    SIZE_HW,
    make_atlas,
    make_instance,
    make_photo,
    make_prediction,
    paste,
    style,
    whole_labels,
)

PREDICTION, PHOTO = make_prediction(), make_photo()
SCENERY = Scenery(PHOTO, make_atlas())
DRAWN = [name for name, preset in PRESETS.items() if preset.has_samples]
PHOTO_RGB = PHOTO.pixels_HW3[..., ::-1]
GREY_RGB = np.repeat(cv2.cvtColor(PHOTO.pixels_HW3, cv2.COLOR_BGR2GRAY)[..., None], 3, axis=2)


def size_of(samples):
    return samples.shape[:2] if samples.dtype == np.uint8 else samples.shape[1:]


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("size_wh", [None, (30, 20), (61, 200), (1, 1)])
def test_every_preset_has_the_size_asked_for_whoever_is_in_the_image(name, size_wh):
    chosen = style(name, size_wh=size_wh)
    expected = SIZE_HW if size_wh is None else size_wh[::-1]
    for prediction in (PREDICTION, Prediction(SIZE_HW, ())):
        samples = draw(chosen, prediction, SCENERY)
        assert size_of(samples) == expected
        assert samples.flags.c_contiguous


@pytest.mark.parametrize("name", DRAWN)
def test_nobody_leaves_the_background_alone(name):
    samples = draw(style(name), Prediction(SIZE_HW, ()), SCENERY)
    match PRESETS[name].background:
        case "photo":
            expected = PHOTO_RGB
        case "grey":
            expected = GREY_RGB
        case "palette":
            expected = np.broadcast_to(label_colours(PRESETS[name].palette)[0], samples.shape)
        case _:
            expected = np.zeros_like(samples)
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize("name", DRAWN)
def test_one_pixel_at_the_border_is_drawn_too(name):
    height, width = SIZE_HW
    box = (width - 1.0, height - 1.0, float(width), float(height))
    instance = make_instance(box, 3)
    maps = dict(instance.maps)
    for key, samples in maps.items():
        maps[key] = replace(samples, samples=np.ones_like(samples.samples))
    prediction = Prediction(SIZE_HW, (replace(instance, maps=maps),))
    drawn = draw(style(name), prediction, SCENERY)
    blank = draw(style(name), Prediction(SIZE_HW, ()), SCENERY)
    if name != "leffa-pose":
        assert (drawn != blank).any()
    if PRESETS[name].drawing.name not in {"BOXES", "UV"}:
        drawn[-1, -1] = blank[-1, -1]
        np.testing.assert_array_equal(drawn, blank)


@pytest.mark.parametrize(
    ("name", "channels"), [("iuv", [0, 1, 2]), ("iuv-dp1", [2, 1, 0]), ("labels", 0)]
)
def test_channels_stand_in_the_order_of_the_preset(name, channels):
    np.testing.assert_array_equal(
        draw(style(name), PREDICTION, SCENERY), paste(PREDICTION, "iuv")[..., channels]
    )


def test_leffa_s_and_imaginaire_s_channels_are_as_they_read_them():
    labels, iuv = whole_labels(PREDICTION), paste(PREDICTION, "iuv")
    dresscode = draw(style("leffa-dresscode", people="all"), PREDICTION, SCENERY)
    np.testing.assert_array_equal(dresscode, np.repeat(labels[..., None], 3, axis=2))
    fs_vid2vid = draw(style("fs-vid2vid"), PREDICTION, SCENERY)
    np.testing.assert_array_equal(fs_vid2vid[..., :2], iuv[..., [2, 1]])
    np.testing.assert_array_equal(np.round(fs_vid2vid[..., 2] / 255 * 24), labels)
    pose = draw(style("leffa-pose", people="best"), PREDICTION, SCENERY)
    first = PREDICTION.instances[0]
    x, y, width, height = first.region_xywh
    uv = first.maps["raw_uv"].samples
    assert uv.min() < 0
    expected = ((uv - uv.min()) / (uv.max() - uv.min()) * 255).astype(np.uint8)
    region = pose[y : y + height, x : x + width]
    # The whole box, what is off the body too.
    np.testing.assert_array_equal(region[..., :2], expected.transpose(1, 2, 0))
    np.testing.assert_array_equal(region[..., 2], first.maps["labels"].samples)
    assert not pose[:, x + width :].any()


@pytest.mark.parametrize(
    ("name", "palette"),
    [
        ("viton", Palette.PARULA),
        ("magicanimate", Palette.VIRIDIS),
        ("cvton", Palette.CVTON),
    ],
)
def test_labels_come_back_exactly_from_the_colours(name, palette):
    drawn = draw(style(name), PREDICTION, SCENERY)
    colours = label_colours(palette).copy()
    if name == "viton":
        colours[0] = 0
    distance = np.abs(drawn[..., None, :].astype(int) - colours).sum(axis=-1)
    assert (distance.min(axis=-1) == 0).all()
    np.testing.assert_array_equal(distance.argmin(axis=-1), whole_labels(PREDICTION))


def test_iuv_and_dp1_s_are_mirror_images_of_each_other():
    iuv, dp1 = (draw(style(name), PREDICTION, SCENERY) for name in ("iuv", "iuv-dp1"))
    np.testing.assert_array_equal(dp1[..., ::-1], iuv)


def test_instances_are_numbered_from_one_where_they_lie():
    numbers = draw(style("instances"), PREDICTION, SCENERY)
    assert set(np.unique(numbers)) <= {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(numbers > 0, whole_labels(PREDICTION) > 0)
    third = draw(style("instances", people=2), PREDICTION, SCENERY)
    assert set(np.unique(third)) == {0, 3}


@pytest.mark.parametrize("name", ["labels", "viton", "segm", "vertices", "texture", "uv-npy"])
def test_where_two_overlap_the_later_is_seen_or_the_best(name):
    pair = Prediction(SIZE_HW, PREDICTION.instances[:2])
    turned = Prediction(SIZE_HW, pair.instances[::-1])
    later, best = (style(name, is_best_on_top=on_top) for on_top in (False, True))
    np.testing.assert_array_equal(draw(later, pair, SCENERY), draw(best, turned, SCENERY))
    assert (draw(later, pair, SCENERY) != draw(best, pair, SCENERY)).any()


def test_the_first_of_an_overlap_is_seen_through_the_second_as_detectron2_has_it():
    labels = draw(style("segm"), PREDICTION, SCENERY)
    expected = GREY_RGB.copy()
    for instance in PREDICTION.instances:
        x, y, width, height = instance.region_xywh
        is_body = instance.maps["mask"].samples > 0
        colours = label_colours(Palette.PARULA)[instance.maps["labels"].samples]
        here = expected[y : y + height, x : x + width]
        here[is_body] = (here * (1.0 - 0.7) + colours * 0.7).astype(np.uint8)[is_body]
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize(
    ("background", "colour"),
    [("black", (0, 0, 0)), ("palette", (0x35, 0x2A, 0x87)), ("#0a0B0c", (10, 11, 12))],
)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_backgrounds_and_opacity_are_those_asked_for(background, colour, alpha):
    drawn = draw(style("viton", background=background, alpha=alpha), PREDICTION, SCENERY)
    is_body = whole_labels(PREDICTION) > 0
    assert (drawn[~is_body] == colour).all()
    # Two lie over each other in places: the first instance alone tells.
    alone = Prediction(SIZE_HW, PREDICTION.instances[:1])
    drawn = draw(style("viton", background=background, alpha=alpha), alone, SCENERY)
    labels = whole_labels(alone)
    own = label_colours(Palette.PARULA)[labels]
    expected = (np.array(colour) * (1.0 - alpha) + own * alpha).astype(np.uint8)
    np.testing.assert_array_equal(drawn[labels > 0], expected[labels > 0])


@pytest.mark.parametrize("name", ["viton", "texture", "vertices", "boxes"])
def test_a_transparent_background_has_a_channel_of_opacity(name):
    alpha = 1.0 if name == "boxes" else 0.5
    chosen = style(name, background="transparent", alpha=alpha)
    drawn = draw(chosen, PREDICTION, SCENERY)
    assert drawn.shape == (*SIZE_HW, 4)
    assert not draw(chosen, Prediction(SIZE_HW, ()), SCENERY).any()
    if name == "boxes":
        assert drawn[..., 3].max() == 255
        return
    is_body = whole_labels(PREDICTION) > 0
    np.testing.assert_array_equal(drawn[..., 3], is_body * np.uint8(128))
    opaque = draw(style(name, background="black", alpha=1.0), PREDICTION, SCENERY)
    np.testing.assert_array_equal(drawn[..., :3], opaque)


@pytest.mark.parametrize("size_wh", [(30, 20), (120, 80), (77, 13)])
def test_at_another_size_labels_u_and_v_are_still_those_of_one_pixel(size_wh):
    iuv = draw(style("iuv", size_wh=size_wh), PREDICTION, SCENERY)
    original = paste(PREDICTION, "iuv")
    height, width = SIZE_HW
    rows = (np.arange(size_wh[1]) * 2 + 1) * height // (2 * size_wh[1])
    columns = (np.arange(size_wh[0]) * 2 + 1) * width // (2 * size_wh[0])
    np.testing.assert_array_equal(iuv, original[rows][:, columns])


def test_boxes_are_where_they_are_and_move_with_the_size():
    one = Prediction(SIZE_HW, PREDICTION.instances[:1])
    drawn = draw(style("boxes", background="black"), one, SCENERY)
    x0, y0, x1, y1 = (int(side) for side in one.instances[0].box_xyxy)
    assert tuple(drawn[y1, x0]) == tuple(drawn[y1, x1]) == tuple(drawn[y1 - 9, x1]) == BOX_COLOUR
    assert not drawn[y1 + 1 :].any()
    assert not drawn[y0 + 1 : y1, x0 + 1].any()
    doubled = draw(style("boxes", background="black", size_wh=(120, 80)), one, SCENERY)
    assert tuple(doubled[int(2 * one.instances[0].box_xyxy[3]), 60]) == BOX_COLOUR


def test_u_and_v_are_floats_and_zero_off_the_body():
    npz, npy = (draw(style(name), PREDICTION, SCENERY) for name in ("uv-npz", "uv-npy"))
    assert (npz.dtype, npy.dtype) == (np.float32, np.float64)
    iuv = paste(PREDICTION, "iuv")
    np.testing.assert_array_equal((npz * 255).astype(np.uint8).transpose(1, 2, 0), iuv[..., 1:])
    # DreamPose takes them as the network gives them.
    assert npy.min() < 0
    np.testing.assert_allclose(npy, (1.5 * npz - 0.25) * (iuv[..., 0] > 0), atol=1e-6)


def test_what_needs_a_photo_or_an_atlas_says_so():
    with pytest.raises(ValueError, match="photo"):
        draw(style("segm"), PREDICTION, Scenery())
    with pytest.raises(ValueError, match="atlas"):
        draw(style("texture", background="black"), PREDICTION, Scenery())


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
