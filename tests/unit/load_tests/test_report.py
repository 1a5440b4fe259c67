import json

import pytest

from load_tests.report import LOST, Ending, as_table, percentile, summarize

ENDINGS = [
    Ending(0.5, 0.6, "200"),  # before anything is measured
    Ending(1.0, 1.1, "200"),
    Ending(1.2, 1.5, "200"),
    Ending(1.5, 1.501, "429 overloaded"),
    Ending(2.9, 3.2, "200"),  # answered after the end
    Ending(3.5, 3.6, LOST),
]


def test_a_report_has_what_was_due_in_its_time_and_what_was_answered_in_it():
    report = summarize("test", ENDINGS, begin_s=1.0, end_s=3.0)
    assert report.outcomes == {"200": 3, "429 overloaded": 1}
    assert (report.offered_per_s, report.answered_per_s) == (2.0, 1.0)
    assert report.latency_ms["200"]["p50"] == pytest.approx(300)
    assert report.latency_ms["429 overloaded"]["p99"] == pytest.approx(1)


def test_a_lost_request_counts_whenever_it_was_lost():
    assert summarize("test", ENDINGS, begin_s=1.0, end_s=3.0).lost == 1


def test_latency_counts_from_when_a_request_was_due():
    assert Ending(1.0, 3.5, "200").latency_ms == 2500


@pytest.mark.parametrize(("share", "value"), [(0, 1), (1, 1), (50, 50), (99, 99), (100, 100)])
def test_a_percentile_is_one_of_the_values(share, value):
    assert percentile(range(100, 0, -1), share) == value


def test_reports_make_a_table_with_dashes_where_there_is_nothing():
    report = summarize("test", ENDINGS, begin_s=1.0, end_s=3.0)
    row = as_table([report, summarize("empty", [], begin_s=0.0, end_s=1.0)]).splitlines()
    assert row[2] == "| test | 2 | 1.0 | 300.0 | 300.0 | 1 | 1.0 | 1 |"
    assert row[3] == "| empty | 0 | 0.0 | - | - | 0 | - | 0 |"


def test_a_report_is_text_and_json():
    report = summarize("test", ENDINGS, begin_s=1.0, end_s=3.0, notes={"share": 0.987654})
    text = report.as_text()
    assert "429 overloaded" in text
    assert "share: 0.9877" in text
    assert json.loads(json.dumps(report.as_json()))["notes"] == {"share": 0.987654}
