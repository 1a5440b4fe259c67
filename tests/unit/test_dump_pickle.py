import io
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from service.dump_pickle import DumpForm, write_dump
from service.output.dump import describe_image
from tests.unit.output.scenes import make_prediction

INSTANCES = make_prediction().instances


def test_the_list_comes_back_without_running_code_from_the_file(tmp_path: Path) -> None:
    entries = [describe_image(INSTANCES, "a.jpg"), describe_image((), "b.jpg")]
    (tmp_path / "results.pkl").write_bytes(write_dump(entries, DumpForm.PLAIN))
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


class Theirs:
    """Stands for a class of detectron2's: what it unpickles to has these attributes."""

    labels: Any
    uv: Any


@pytest.fixture
def detectron2(monkeypatch: pytest.MonkeyPatch) -> type:
    """Modules of the names that detectron2's classes have."""
    for path, name in (
        ("chart_result", "DensePoseChartResultWithConfidences"),
        ("cse", "DensePoseEmbeddingPredictorOutput"),
    ):
        module = ModuleType(f"densepose.structures.{path}")
        setattr(module, name, type(name, (Theirs,), {}))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for package in ("densepose", "densepose.structures"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    return Theirs


READERS: dict[DumpForm, Callable[[io.BytesIO], Any]] = {
    DumpForm.TORCH: lambda file: torch.load(file, weights_only=False),
    DumpForm.PICKLE: pickle.load,
}


@pytest.mark.parametrize("form", READERS)
def test_the_people_of_a_dump_are_objects_of_detectron2_s_class(
    form: DumpForm, detectron2: type
) -> None:
    entries = [describe_image(INSTANCES, "a.jpg"), describe_image((), "b.jpg")]
    first, second = READERS[form](io.BytesIO(write_dump(entries, form)))
    assert (first["file_name"], second["file_name"]) == ("a.jpg", "b.jpg")
    assert "pred_densepose" not in second
    for read, entry in zip(first["pred_densepose"], entries[0]["pred_densepose"], strict=True):
        assert isinstance(read, detectron2)
        assert type(read).__name__ == "DensePoseChartResultWithConfidences"
        # As the dataclass has them, in its order.
        assert list(vars(read)) == [
            *("labels", "uv", "sigma_1", "sigma_2", "kappa_u", "kappa_v"),
            *("fine_segm_confidence", "coarse_segm_confidence"),
        ]
        assert read.labels.dtype == torch.int64
        assert read.sigma_1 is None
        for field, values in entry.items():
            np.testing.assert_array_equal(getattr(read, field).numpy(), values)


@pytest.mark.parametrize("form", READERS)
def test_the_embeddings_of_a_dump_are_one_object(form: DumpForm, detectron2: type) -> None:
    described = {
        "embedding": np.ones((3, 16, 112, 112), np.float32),
        "coarse_segm": np.ones((3, 2, 112, 112), np.float32),
    }
    (read,) = READERS[form](io.BytesIO(write_dump([{"pred_densepose": described}], form)))
    assert type(read["pred_densepose"]).__name__ == "DensePoseEmbeddingPredictorOutput"
    assert read["pred_densepose"].coarse_segm.shape == (3, 2, 112, 112)


def test_a_dump_is_written_without_detectron2_and_names_nothing_of_ours() -> None:
    file = write_dump([describe_image(INSTANCES, "a.jpg")], DumpForm.PICKLE)
    assert b"densepose.structures.chart_result" in file
    assert b"service." not in file
