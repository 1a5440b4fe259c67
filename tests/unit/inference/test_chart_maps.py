import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from service.datatypes import (
    TEXTURE_SIDE,
    AnyMap,
    Image,
    Instance,
    Map,
    Output,
    Prediction,
    Query,
    RawMap,
    RegionXYWH,
)
from service.inference.chart_maps import ChartMaps, confidence_names, gather_texture
from service.inference.map_buffer import CONFIDENCE_RANGES, Chunk, MapBuffer
from service.inference.predictor import Predictor
from service.inference.regions import num_pixels
from service.network.densepose_head import HeadOutput
from service.output.drawing import Scenery, draw
from service.output.presets import PRESETS, Style
from tests.unit.inference.conftest import as_sample

CONFIDENCES = ("sigma_2", "kappa_u", "kappa_v", "fine_segm_confidence", "coarse_segm_confidence")
CPU = torch.device("cpu")
SIDE = 28


def random_raw(instances: int, num_coarse: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(instances)
    channels = {"coarse_segm": num_coarse, **dict.fromkeys(CONFIDENCES[3:], 1)}
    fields = ("coarse_segm", "fine_segm", "u", "v", *CONFIDENCES)
    return {f: torch.randn(instances, channels.get(f, 25), SIDE, SIDE) for f in fields}


def as_output(raw: Mapping[str, Tensor]) -> HeadOutput:
    """The fields side by side, as the predictor gives them."""
    values = torch.cat(tuple(raw.values()), dim=1).contiguous(memory_format=torch.channels_last)
    ends = accumulate(array.shape[1] for array in raw.values())
    return HeadOutput(
        values,
        {
            field: slice(end - raw[field].shape[1], end)
            for field, end in zip(raw, ends, strict=True)
        },
    )


def paint(
    raw: Mapping[str, Tensor], regions: Sequence[RegionXYWH], *outputs: AnyMap, tile: int = 5000
) -> MapBuffer:
    chart_maps = ChartMaps(CONFIDENCES)
    asked = frozenset(outputs)
    maps = MapBuffer(chart_maps.layout(asked, num_pixels(regions), len(regions)), CPU)
    chunk = Chunk(regions, [None] * len(regions), 0, 0, tile)
    output = as_output({field: raw[field] for field in chart_maps.fields(asked)})
    chart_maps.paint(output, chunk, maps)
    return maps


def resize(raw: Tensor, region: RegionXYWH) -> Tensor:
    return F.interpolate(raw[None], size=(region[3], region[2]), mode="bilinear")[0]


@pytest.mark.parametrize("num_coarse", [2, 15])
def test_maps_are_those_of_each_box_resized_on_its_own(num_coarse: int) -> None:
    regions = [(0, 0, 90, 120), (4, 4, 1, 1), (2, 2, 30, 17)]
    raw = random_raw(3, num_coarse)
    outputs = (Output.IUV, Output.IUV16, Output.UV, Output.LABELS, Output.COARSE, Output.MASK)
    maps = paint(raw, regions, *outputs)
    start = 0
    for index, region in enumerate(regions):
        stop = start + region[2] * region[3]
        coarse = resize(raw["coarse_segm"][index], region).argmax(0)
        label = resize(raw["fine_segm"][index], region).argmax(0) * (coarse > 0)
        uv = torch.stack([resize(raw[f][index], region).gather(0, label[None])[0] for f in "uv"])
        uv = uv.clamp(0, 1) * (label > 0)
        assert torch.equal(maps[Output.LABELS][start:stop].long(), label.flatten())
        assert torch.equal(maps[Output.COARSE][start:stop].long(), coarse.flatten())
        assert torch.equal(maps[Output.MASK][start:stop].long(), (label > 0).flatten() * 255)
        floats = maps[Output.UV][:, start:stop]
        assert torch.allclose(floats, uv.flatten(1), atol=1e-5)
        assert floats.min() >= 0
        assert floats.max() <= 1
        for output, scale in ((Output.IUV, 255), (Output.IUV16, 65535)):
            iuv = maps[output][start:stop].to(torch.int32)
            assert torch.equal(iuv[:, 0].long(), label.flatten())
            expected = uv.flatten(1).T * scale
            expected = expected.round() if scale == 65535 else expected.floor()
            # Exact but where the last bit of a float decides.
            difference = (iuv[:, 1:] - expected).abs()
            assert difference.max() <= 1
            assert (difference > 0).float().mean() < 0.01
        start = stop


def test_confidences_are_quantized_over_the_body_of_their_instance() -> None:
    regions = [(0, 0, 40, 50), (0, 0, 25, 31)]
    raw = random_raw(2)
    maps = paint(raw, regions, Output.CONFIDENCE, Output.LABELS)
    names = confidence_names(CONFIDENCES)
    start = 0
    for index, region in enumerate(regions):
        pixels = slice(start, start + region[2] * region[3])
        label = maps[Output.LABELS][pixels].long()
        for field in CONFIDENCES:
            values = resize(raw[field][index], region).flatten(1)
            values = values.gather(0, label[None] * (len(values) > 1))[0]
            low, high = maps[CONFIDENCE_RANGES][:, index, names.index(field)]
            samples = maps[Output.CONFIDENCE][names.index(field), pixels].to(torch.int32)
            body = label > 0
            assert torch.isclose(low, values[body].min())
            assert torch.isclose(high, values[body].max())
            assert samples[~body].max() == 0
            # 0 is off the body and nothing else.
            assert (samples[body].min(), samples[body].max()) == (1, 65535)
            decoded = low + (high - low) / 65534 * (samples - 1)
            # Half a step, and what float32 rounds in between.
            assert (decoded - values)[body].abs().max() <= (high - low) / 65534 / 2 + 1e-6
        start = pixels.stop


def test_one_value_all_over_the_body_is_not_taken_for_none() -> None:
    raw = random_raw(1)
    raw["coarse_segm"][:, 1] += 100
    raw["fine_segm"][:, 0] -= 100
    raw["fine_segm_confidence"][:] = 0.5
    # Cell by cell, so that no value is rounded.
    maps = paint(raw, [(0, 0, SIDE, SIDE)], Output.CONFIDENCE)
    field = confidence_names(CONFIDENCES).index("fine_segm_confidence")
    assert maps[Output.CONFIDENCE][field].to(torch.int32).unique().tolist() == [1]


def test_raw_maps_are_those_that_detectron2_keeps() -> None:
    regions = [(0, 0, 40, 50), (3, 3, 25, 31)]
    raw = random_raw(2)
    maps = paint(raw, regions, RawMap.UV, RawMap.CONFIDENCE, Output.LABELS, tile=700)
    start = 0
    for index, region in enumerate(regions):
        pixels = slice(start, start + region[2] * region[3])
        label = maps[Output.LABELS][pixels].long()
        for name, own in (
            *zip("uv", maps[RawMap.UV], strict=True),
            *zip(CONFIDENCES, maps[RawMap.CONFIDENCE], strict=True),
        ):
            values = resize(raw[name][index], region).flatten(1)
            # Of one channel for all labels: off the body, too.
            expected = values[0]
            if len(values) > 1:
                expected = values.gather(0, label[None])[0] * (label > 0)
            assert torch.allclose(own[pixels], expected, atol=1e-5), name
        start = pixels.stop
    assert maps[RawMap.UV].min() < 0
    assert maps[RawMap.UV].max() > 1


def test_an_instance_without_body_has_no_range() -> None:
    raw = random_raw(1)
    raw["coarse_segm"][:, 0] += 100
    maps = paint(raw, [(0, 0, 9, 9)], Output.CONFIDENCE)
    assert maps[Output.CONFIDENCE].to(torch.int32).max() == 0
    assert not torch.isfinite(maps[CONFIDENCE_RANGES]).any()


def test_u_and_v_beyond_their_range_are_clamped_and_never_wrap() -> None:
    raw = random_raw(1)
    raw["coarse_segm"][:, 1] += 100
    raw["fine_segm"][:, 0] -= 100
    raw["u"] += 1000
    raw["v"] -= 1000
    maps = paint(raw, [(0, 0, 20, 20)], Output.IUV, Output.IUV16, Output.UV)
    assert maps[Output.IUV][:, 1:].unique(dim=0).tolist() == [[255, 0]]
    assert maps[Output.IUV16].to(torch.int32)[:, 1:].unique(dim=0).tolist() == [[65535, 0]]
    assert maps[Output.UV].unique(dim=1).tolist() == [[1], [0]]


def test_only_what_the_outputs_need_is_asked_of_the_head() -> None:
    chart_maps = ChartMaps(CONFIDENCES)
    assert chart_maps.fields(frozenset({Output.COARSE})) == ("coarse_segm",)
    assert chart_maps.fields(frozenset({Output.LABELS})) == ("coarse_segm", "fine_segm")
    assert "u" in chart_maps.fields(frozenset({Output.IUV}))
    assert not set(CONFIDENCES) & set(chart_maps.fields(frozenset({Output.IUV, Output.MASK})))


def test_the_number_of_operators_does_not_depend_on_the_number_of_instances() -> None:
    class Counter(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.num_operators = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.num_operators += 1
            return func(*args, **(kwargs or {}))

    def count(instances: int) -> int:
        regions = [(0, 0, 35 + index % 7, 39) for index in range(instances)]
        raw = random_raw(instances)
        with Counter() as counter:
            paint(raw, regions, Output.IUV, Output.CONFIDENCE, tile=2**20)
        return counter.num_operators

    assert count(2) == count(40) > 0


MEMORY_PROBE = """
import re, sys
from pathlib import Path
import torch
from service.datatypes import Output
from service.inference.chart_maps import ChartMaps
from service.inference.map_buffer import Chunk, MapBuffer
from service.inference.devices import DEVICES
from service.network.densepose_head import HeadOutput
CPU = DEVICES["cpu"]
side, num_regions = int(sys.argv[1]), int(sys.argv[2])
outputs, chart_maps = frozenset({Output.IUV}), ChartMaps(())
fields = chart_maps.fields(outputs)
values = torch.randn(CPU.max_chunk, 112, 112, 77).permute(0, 3, 1, 2)
starts = dict(zip(fields, (0, 2, 27, 52)))
channels = {f: slice(s, s + (2 if f == "coarse_segm" else 25)) for f, s in starts.items()}
layout = chart_maps.layout(outputs, num_regions * side**2, num_regions)
maps = MapBuffer(layout, torch.device("cpu"))
maps["iuv"].zero_()
def peak_kib():  # of this process alone: getrusage's begins with its parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak_kib()
for first in range(0, num_regions, CPU.max_chunk):
    regions = [(0, 0, side, side)] * min(CPU.max_chunk, num_regions - first)
    part = HeadOutput(values[: len(regions)], channels)
    chunk = Chunk(regions, [None] * len(regions), first, first * side**2, CPU.max_tile_pixels)
    chart_maps.paint(part, chunk, maps)
print((peak_kib() - before) // 1024)
"""


def test_a_hundred_large_regions_take_less_than_256_mib_beside_their_maps() -> None:
    probe = [sys.executable, "-c", MEMORY_PROBE, "2000", "100"]
    growth_mib = int(subprocess.run(probe, check=True, capture_output=True, text=True).stdout)
    assert 0 < growth_mib < 256


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
