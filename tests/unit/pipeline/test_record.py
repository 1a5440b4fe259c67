import pytest

from service.pipeline.record import STAGES, new_record


@pytest.mark.parametrize("request_id", ["a", "A-1.b_c", "x" * 128])
def test_a_usable_id_of_the_client_is_kept(request_id):
    assert new_record(request_id).request_id == request_id


@pytest.mark.parametrize("request_id", [None, "", "a b", "a\n", "é", "x" * 129, "a/b", "{}"])
def test_any_other_id_is_replaced_by_one_that_is_new(request_id):
    first, second = new_record(request_id), new_record(request_id)
    assert first.request_id not in {request_id, second.request_id}
    assert new_record(first.request_id).request_id == first.request_id


def test_the_timing_has_every_stage_and_the_whole():
    record = new_record(None)
    record.add_stages({"network": 0.5})
    record.add_stages({"network": 0.25})
    with record.timed("read"):
        pass
    timing_ms = record.timing_ms()
    assert list(timing_ms) == [*STAGES, "total"]
    assert timing_ms["network"] == 750
    assert timing_ms["decode"] == 0
    assert timing_ms["total"] > 0


def test_a_stage_that_fails_has_its_time_too():
    record = new_record(None)
    with pytest.raises(ValueError, match="why"), record.timed("decode"):
        raise ValueError("why")
    assert "decode" in record.stage_seconds


def test_the_outcome_is_the_code_of_the_error_or_success():
    record = new_record(None)
    assert record.outcome == "cut_off"
    record.status = 200
    assert record.outcome == "success"
    record.code = "overloaded"
    assert record.outcome == "overloaded"
