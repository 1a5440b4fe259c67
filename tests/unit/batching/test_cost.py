import random

import pytest

from service.batching.cost import CostModel, Work

NOW_S = 1000.0


def learned(seconds_of, works, *, num_rounds=40, noise=0.0):
    model, chance = CostModel(), random.Random(1)
    for _ in range(num_rounds):
        for work in works:
            factor = 1 + noise * chance.uniform(-1, 1)
            model.measure(work, seconds_of(work) * factor, NOW_S)
    return model


def affine(work):
    return 0.02 + 0.03 * work.num_pixels / 1e6 + 0.004 * work.num_instances


def images(num_images, num_pixels, num_instances):
    return Work(num_images, num_images * num_pixels, num_instances)


MIXED = [
    images(1, 1_000_000, 2),
    images(8, 150_000, 0),
    images(4, 500_000, 30),
    images(2, 10**6, 9),
]


def test_what_is_not_known_costs_nothing():
    model = CostModel()
    assert model.seconds(images(8, 10**6, 100)) == 0
    assert not model.is_known(NOW_S)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_constant_pixels_and_instances_are_told_apart(noise):
    model = learned(affine, MIXED, noise=noise)
    for work in (images(1, 200_000, 1), images(6, 800_000, 40), images(3, 600_000, 0)):
        assert model.seconds(work) == pytest.approx(affine(work), rel=0.02 + 2 * noise)


def test_several_batches_pay_the_constant_several_times():
    model = learned(affine, MIXED)
    one, three = Work(24, 10**6, 5), Work(24, 10**6, 5, num_batches=3)
    assert model.seconds(three) - model.seconds(one) == pytest.approx(0.04, rel=0.05)


def test_batches_that_are_all_alike_are_estimated_right_though_nothing_can_be_told_apart():
    alike = images(1, 10**6, 3)
    assert learned(affine, [alike]).seconds(alike) == pytest.approx(affine(alike), rel=1e-3)


def test_nothing_is_ever_estimated_to_take_less_than_no_time():
    falling = learned(
        lambda work: 1 / work.num_pixels * 1e6, [images(1, 10**5, 0), images(1, 10**6, 0)]
    )
    for num_pixels in (1, 10**6, 10**8):
        assert falling.seconds(images(1, num_pixels, 100)) >= 0


def test_a_device_that_becomes_slower_is_noticed():
    model = learned(affine, MIXED)
    for _ in range(25):
        for work in MIXED:
            model.measure(work, 3 * affine(work), NOW_S)
    work = images(2, 500_000, 4)
    assert model.seconds(work) == pytest.approx(3 * affine(work), rel=0.1)


def test_one_batch_that_took_a_hundred_times_as_long_hardly_counts():
    model = learned(affine, MIXED)
    model.measure(MIXED[0], 100 * affine(MIXED[0]), NOW_S)
    assert model.seconds(MIXED[0]) == pytest.approx(affine(MIXED[0]), rel=0.1)


def test_one_batch_that_took_no_time_hardly_counts():
    model = learned(affine, MIXED)
    model.measure(MIXED[0], 0.0, NOW_S)
    assert model.seconds(MIXED[0]) == pytest.approx(affine(MIXED[0]), rel=0.3)


def test_an_image_s_average_is_kept_for_those_that_are_not_decoded_yet():
    model = learned(affine, [images(4, 500_000, 8)])
    assert model.seconds_per_image == pytest.approx(affine(images(4, 500_000, 8)) / 4)
    assert model.instances_per_image == pytest.approx(2)


def test_a_cost_that_was_not_measured_for_long_turns_nobody_away():
    model = CostModel()
    model.measure(images(1, 10**6, 1), 2.0, NOW_S)
    assert model.is_known(NOW_S + 20)
    assert not model.is_known(NOW_S + 31)
