from dataclasses import replace

import numpy as np
import torch

from service.datatypes import TEXTURE_SIDE, Image, Instance, Map, Output, Prediction, Query
from service.inference.predictor import Predictor
from service.inference.texture_maps import gather_texture
from service.output.drawing import Scenery, draw
from service.output.presets import PRESETS, Style
from tests.unit.inference.conftest import as_sample

REGION = (30, 20, 90, 110)
SIZE_HW = (150, 140)
N = TEXTURE_SIDE


def random_maps(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels [h, w] and U and V [2, h, w] of the region; half of it is body."""
    random = np.random.default_rng(seed)
    _, _, width, height = REGION
    labels = random.integers(0, 25, (height, width)).astype(np.uint8)
    labels[random.random((height, width)) < 0.5] = 0
    return labels, random.random((2, height, width)).astype(np.float32) * (labels > 0)


def gather(labels: np.ndarray, uv: np.ndarray, photo: np.ndarray) -> np.ndarray:
    texture = gather_texture(
        torch.from_numpy(labels.ravel()),
        torch.from_numpy(uv.reshape(2, -1)),
        REGION,
        torch.from_numpy(photo),
    )
    return texture.numpy()


def test_each_pixel_of_the_body_lands_where_its_part_u_and_v_say() -> None:
    labels, uv = random_maps()
    photo = np.random.default_rng(1).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)
    texture = gather(labels, uv, photo)
    expected = np.zeros((6 * N, 4 * N, 4), np.uint8)
    left, top, _, _ = REGION
    # In the order of the image, so that the last one stays.
    for row, column in np.argwhere(labels):
        part = int(labels[row, column]) - 1
        u, v = uv[:, row, column]
        x = part // 6 * N + int(u * np.float32(N - 1))
        y = part % 6 * N + int((1 - v) * np.float32(N - 1))
        expected[y, x] = (*photo[top + row, left + column, ::-1], 255)
    np.testing.assert_array_equal(texture, expected)


def test_a_texture_that_was_drawn_is_gathered_again_where_both_see_it() -> None:
    labels, uv = random_maps()
    atlas = np.random.default_rng(2).integers(1, 256, (6 * N, 4 * N, 3), dtype=np.uint8)
    maps = {"labels": Map(labels), "uv": Map(uv)}
    instance = Instance(0.9, 0, (30.0, 20.0, 120.0, 130.0), REGION, maps=maps)
    style = Style(PRESETS["texture"], background="black")
    drawn = draw(style, Prediction(SIZE_HW, (instance,)), Scenery(atlas=atlas))
    texture = gather(labels, uv, np.ascontiguousarray(drawn[..., ::-1]))
    is_seen = texture[..., 3] > 0
    assert is_seen.sum() > 0.9 * (labels > 0).sum()
    np.testing.assert_array_equal(texture[is_seen][:, :3], atlas[is_seen])
    assert not texture[~is_seen].any()


def test_without_body_a_texture_is_empty() -> None:
    labels, uv = random_maps()
    photo = np.full((*SIZE_HW, 3), 200, np.uint8)
    assert not gather(np.zeros_like(labels), np.zeros_like(uv), photo).any()


def test_textures_are_gathered_from_the_photos_of_those_who_ask(
    demo: Predictor, pictures: dict[str, Image]
) -> None:
    image = pictures["test3_2fig"]
    outputs = frozenset({Output.TEXTURE, Output.LABELS, Output.UV})
    plain = as_sample(image, Query(frozenset({Output.MASK})))
    asked = replace(as_sample(image, Query(outputs)), photo=image)
    alone = replace(as_sample(image, Query(frozenset({Output.TEXTURE}))), photo=image)
    _, textured, only = demo.predict_batch([plain, asked, alone])
    assert isinstance(textured, Prediction)
    assert isinstance(only, Prediction)
    assert len(textured.instances) >= 2
    photo = torch.from_numpy(image.pixels_HW3)
    for instance, same in zip(textured.instances, only.instances, strict=True):
        maps = instance.maps
        gathered = gather_texture(
            torch.from_numpy(maps["labels"].samples.ravel()),
            torch.from_numpy(maps["uv"].samples.reshape(2, -1)),
            instance.region_xywh,
            photo,
        )
        np.testing.assert_array_equal(maps["texture"].samples, gathered.numpy())
        assert set(same.maps) == {"texture"}
        np.testing.assert_array_equal(same.maps["texture"].samples, gathered.numpy())
