import re
from typing import get_args

from prometheus_client.parser import text_string_to_metric_families

from service.datatypes import ModelState
from service.metrics import MODEL_STATES, Memory, Metrics

BASE_UNITS = ("seconds", "bytes", "total", "info", "pixels", "image", "ratio")
# Numbers of requests or images, and states that are 0 or 1.
COUNTS = {
    *("densepose_batch_size", "densepose_queue_pending", "densepose_inflight_requests"),
    *("densepose_ready", "densepose_draining"),
}


def own_families():
    text = Metrics({"version": "1"}).exposition().decode()
    families = text_string_to_metric_families(text)
    # The library adds the time of creation of each.
    return [
        family
        for family in families
        if family.name.startswith("densepose_") and not family.name.endswith("_created")
    ]


def test_every_metric_has_a_base_unit_in_its_name_and_a_sentence_of_help():
    for family in own_families():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name.endswith(BASE_UNITS) or name in COUNTS, name
        assert not re.search(r"_(ms|us|milli|kb|mb)", name), name
        assert family.documentation.endswith("."), name


def test_two_applications_in_one_process_do_not_share_their_counts():
    first, second = Metrics({"version": "1"}), Metrics({"version": "1"})
    first.requests.labels("demo", "success").inc()
    assert b'outcome="success"' in first.exposition()
    assert b'outcome="success"' not in second.exposition()


def test_the_build_stands_in_the_labels():
    text = Metrics({"version": "1.2.3", "torch": "2.15.0"}).exposition()
    assert b'densepose_build_info{torch="2.15.0",version="1.2.3"} 1.0' in text


def test_where_models_are_is_looked_at_whenever_it_is_asked_for():
    metrics, places = Metrics({}), {"a": "loading"}
    metrics.watch_memory(
        lambda: Memory(places, {("a", "device"): 5, ("a", "disk"): 7}, {"used": 5, "budget": 9})
    )
    value = metrics.registry.get_sample_value
    state = "densepose_model_state"
    assert value(state, {"model": "a", "state": "loading"}) == 1
    places["a"] = "ready"
    assert value(state, {"model": "a", "state": "loading"}) == 0
    assert value(state, {"model": "a", "state": "ready"}) == 1
    assert value("densepose_model_bytes", {"model": "a", "place": "disk"}) == 7
    assert value("densepose_device_memory_bytes", {"kind": "budget"}) == 9


def test_the_states_are_those_of_the_api():
    assert set(get_args(ModelState)) == set(MODEL_STATES)
