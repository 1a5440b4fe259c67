from dataclasses import replace
from io import BytesIO

import numpy as np

from service.datatypes import Map
from service.output.archives import write_npz
from service.output.dump import describe_image, flatten_entries
from tests.unit.output.scenes import make_prediction

INSTANCES = make_prediction().instances


def test_an_entry_is_that_of_detectron2_s_list():
    entry = describe_image(INSTANCES, "photo.jpg")
    assert entry["file_name"] == "photo.jpg"
    assert entry["scores"].dtype == entry["pred_boxes_XYXY"].dtype == np.float32
    assert entry["pred_boxes_XYXY"].shape == (len(INSTANCES), 4)
    assert entry["pred_classes"].tolist() == [0] * len(INSTANCES)
    for described, instance in zip(entry["pred_densepose"], INSTANCES, strict=True):
        assert set(described) == {"labels", "uv", "sigma_2"}
        height, width = described["labels"].shape
        assert described["uv"].shape == (2, height, width)
        np.testing.assert_array_equal(described["labels"], instance.maps["labels"].samples)
        np.testing.assert_array_equal(described["uv"], instance.maps["raw_uv"].samples)
        sigma_2 = instance.maps["raw_confidence.sigma_2"].samples
        np.testing.assert_array_equal(described["sigma_2"], sigma_2)
        assert described["sigma_2"].dtype == np.float32


def test_where_nobody_is_found_nothing_is_described():
    entry = describe_image(())
    assert "pred_densepose" not in entry
    assert "file_name" not in entry
    assert entry["pred_boxes_XYXY"].shape == (0, 4)


def test_embeddings_come_for_all_instances_with_class_and_mesh():
    maps = {
        "embedding": Map(np.ones((16, 112, 112), np.float16)),
        "coarse_logits": Map(np.ones((2, 112, 112), np.float16)),
    }
    animals = [replace(INSTANCES[0], maps=maps, mesh="cat_5001", class_id=2)] * 3
    entry = describe_image([*animals, replace(animals[0], class_id=None)])
    assert entry["pred_meshes"] == ["cat_5001"] * 4
    assert entry["pred_classes"].tolist() == [2, 2, 2, -1]
    assert entry["pred_densepose"]["embedding"].shape == (4, 16, 112, 112)
    assert entry["pred_densepose"]["coarse_segm"].dtype == np.float32
    arrays = flatten_entries([entry])
    assert arrays["0.pred_meshes"].tolist() == ["cat_5001"] * 4
    assert "0.pred_densepose.embedding" in arrays


def test_the_npz_twin_has_every_array_of_the_list_and_no_object():
    entries = [describe_image(INSTANCES, "a.jpg"), describe_image((), "b.jpg")]
    file = BytesIO(write_npz(flatten_entries(entries)))
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["0.file_name"] == "a.jpg"
        assert arrays["1.scores"].shape == (0,)
        for index, described in enumerate(entries[0]["pred_densepose"]):
            for name, values in described.items():
                kept = arrays[f"0.pred_densepose.{index}.{name}"]
                np.testing.assert_array_equal(kept, values)
                assert kept.dtype == values.dtype
        assert not any(name.startswith("1.pred_densepose") for name in arrays)
