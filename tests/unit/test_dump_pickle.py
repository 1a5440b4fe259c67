from pathlib import Path

import numpy as np
import torch

from service.dump_pickle import write_dump
from service.output.dump import describe_image
from tests.unit.output.scenes import make_prediction

INSTANCES = make_prediction().instances


def test_the_list_comes_back_without_running_code_from_the_file(tmp_path: Path) -> None:
    entries = [describe_image(INSTANCES, "a.jpg"), describe_image((), "b.jpg")]
    (tmp_path / "results.pkl").write_bytes(write_dump(entries))
    first, second = torch.load(tmp_path / "results.pkl", weights_only=True)
    assert (first["file_name"], second["file_name"]) == ("a.jpg", "b.jpg")
    assert "pred_densepose" not in second
    for key in ("scores", "pred_boxes_XYXY", "pred_classes"):
        np.testing.assert_array_equal(first[key].numpy(), entries[0][key])
    for read, entry in zip(first["pred_densepose"], entries[0]["pred_densepose"], strict=True):
        assert read["labels"].dtype == torch.int64
        assert read["uv"].dtype == torch.float32
        for field, values in entry.items():
            assert read[field].device.type == "cpu"
            np.testing.assert_array_equal(read[field].numpy(), values)
