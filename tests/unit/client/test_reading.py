import json

import numpy as np
import pytest

from service.client.errors import UnreadableAnswer
from service.client.reading import read_answer
from service.output.archives import write_npz

MANY = 10**7
RESULT = {
    "model": "demo",
    "image": {"width": 8, "height": 6},
    "instances": [
        {
            "score": 0.9,
            "class_id": 0,
            "class_name": "person",
            "box": [1.5, 2.0, 4.5, 5.0],
            "region": [1, 2, 3, 3],
            "maps": {},
        }
    ],
    "maps": {},
    "timing_ms": {"total": 1.5},
}
LABELS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 2]], np.uint8)


def npz(result=RESULT, **arrays):
    return write_npz(arrays | {"result": np.array(json.dumps(result))})


def changed(path: str, value) -> dict:
    """RESULT with one value changed."""
    result = json.loads(json.dumps(RESULT))
    *folders, last = path.split(".")
    where = result
    for name in folders:
        where = where[int(name) if isinstance(where, list) else name]
    where[last] = value
    return result


def test_an_answer_is_read_with_its_maps():
    quantized = {
        "0.confidence.u_std": np.full((3, 3), 10, np.uint16),
        "0.confidence.u_std.scale": np.array(0.5),
        "0.confidence.u_std.offset": np.array(2.0),
    }
    read = read_answer(npz(**{"0.labels": LABELS}, **quantized), max_bytes=MANY)
    assert (read.model, read.size_hw, read.timing_ms) == ("demo", (6, 8), {"total": 1.5})
    (one,) = read.instances
    assert (one.score, one.class_name, one.region_xywh) == (0.9, "person", (1, 2, 3, 3))
    assert set(one.maps) == {"labels", "confidence.u_std"}
    assert (one.maps["confidence.u_std"].values() == 7.0).all()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model", 5),
        ("image.width", 0),
        ("image.height", True),
        ("image.height", 10**30),
        ("image", None),
        ("instances", {}),
        ("instances.0.score", "high"),
        ("instances.0.score", 10**400),
        ("instances.0.box", [1, 2, 3]),
        ("instances.0.region", [1, 2, 4, 3]),
        ("instances.0.region", "1234"),
        ("timing_ms", []),
        ("points", [{"point": [1]}]),
    ],
)
def test_what_is_not_as_it_should_be_is_an_error_and_not_a_surprise_later(path, value):
    with pytest.raises(UnreadableAnswer):
        read_answer(npz(changed(path, value), **{"0.labels": LABELS}), max_bytes=MANY)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        write_npz({"a": LABELS}),
        write_npz({"result": LABELS}),
        write_npz({"result": np.array("[" * 100_000)}),
        npz(**{"0.labels": np.zeros((3, 3, 3, 3), np.uint8)}),
        npz(**{"image.labels": LABELS}),
        npz(**{"0.labels": LABELS, "0.labels.scale": np.array("much")}),
    ],
)
def test_what_is_no_answer_is_an_error(content):
    with pytest.raises(UnreadableAnswer):
        read_answer(content, max_bytes=MANY)
