import numpy as np
import pytest

from service.client.answers import Answer, Instance, Map

LABELS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 2]], np.uint8)


def instance(region, maps, score=0.9) -> Instance:
    x, y, width, height = region
    box = (float(x), float(y), float(x + width), float(y + height))
    named = {name: Map(np.asarray(samples)) for name, samples in maps.items()}
    return Instance(score, 0, "person", box, region, maps=named)


def answer(*instances, size_hw=(6, 8)) -> Answer:
    return Answer("demo", size_hw, instances)


def test_maps_are_pasted_where_their_region_is():
    canvas = answer(instance((1, 2, 3, 3), {"labels": LABELS})).labels()
    expected = np.zeros((6, 8), np.uint8)
    expected[2:5, 1:4] = LABELS
    assert np.array_equal(canvas, expected)


def test_a_later_instance_covers_an_earlier_one_only_where_it_has_a_body():
    first = instance((0, 0, 2, 1), {"labels": [[3, 4]]}, score=0.9)
    second = instance((0, 0, 2, 1), {"labels": [[5, 0]]}, score=0.5)
    both = answer(first, second)
    assert both.labels()[0, :2].tolist() == [5, 4]
    assert both.labels(is_best_on_top=True)[0, :2].tolist() == [3, 4]
    assert both.people()[0, :3].tolist() == [2, 1, 0]
    assert both.people(is_best_on_top=True)[0, :3].tolist() == [1, 1, 0]


def test_a_region_that_leaves_the_image_is_cut_off():
    whole = np.arange(1, 10, dtype=np.uint8).reshape(3, 3)
    canvas = answer(
        instance((-1, -1, 3, 3), {"labels": whole}),
        instance((7, 5, 3, 3), {"labels": whole}),
        instance((90, 90, 3, 3), {"labels": whole}),
    ).labels()
    assert canvas[:2, :2].tolist() == [[5, 6], [8, 9]]
    assert canvas[5, 7] == 1
    assert canvas.sum() == 5 + 6 + 8 + 9 + 1


def test_other_maps_are_pasted_by_the_mask_beside_them():
    mask = np.array([[255, 0]], np.uint8)
    uv = np.array([[[0.5, 0.7]], [[0.25, 0.1]]], np.float32)
    one = answer(instance((0, 0, 2, 1), {"uv": uv, "mask": mask}))
    assert one.paste("uv").shape == (6, 8, 2)
    assert one.paste("uv")[0, :2].tolist() == [[0.5, 0.25], [0.0, 0.0]]
    with pytest.raises(KeyError, match="mask"):
        answer(instance((0, 0, 2, 1), {"uv": uv})).paste("uv")


def test_a_map_that_was_not_asked_for_is_told_to_be_so():
    with pytest.raises(KeyError, match="ask for it with outputs"):
        answer(instance((0, 0, 3, 3), {"labels": LABELS})).iuv()


@pytest.mark.parametrize(
    ("output", "shape", "dtype"),
    [
        ("labels", (6, 8), np.uint8),
        ("iuv", (6, 8, 3), np.uint8),
        ("iuv16", (6, 8, 3), np.uint16),
        ("vertices", (6, 8), np.uint16),
        ("uv", (6, 8, 2), np.float32),
        ("confidence.u_std", (6, 8), np.float32),
    ],
)
def test_without_anybody_a_map_is_all_0(output, shape, dtype):
    canvas = answer().paste(output)
    assert (canvas.shape, canvas.dtype) == (shape, dtype)
    assert not canvas.any()


def test_quantized_samples_are_0_off_the_body_and_nowhere_else():
    samples = np.array([[0, 1, 65535]], np.uint16)
    values = Map(samples, scale=2.0, offset=-32.0).values()
    assert values.dtype == np.float32
    assert values.tolist() == [[0.0, -30.0, 131038.0]]
    assert Map(samples).values() is samples
