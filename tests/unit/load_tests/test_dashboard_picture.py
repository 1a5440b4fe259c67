import io
import math

import numpy as np
from PIL import Image

from load_tests.dashboard_picture import (
    Panel,
    Series,
    draw,
    fill_variables,
    read_panels,
    read_series,
)

LINE = Series("a", [0.0, 1.0, 2.0, 3.0], [1.0, 2.0, math.nan, 4.0])


class Recorded:
    """In the place of Prometheus: returns what it is told to, and notes what it is asked."""

    def __init__(self, *series):
        self.series = series
        self.asked = []

    def query_range(self, expression, from_s, until_s):
        self.asked.append(expression)
        return self.series


def pixels(panel, *series):
    return np.asarray(Image.open(io.BytesIO(draw([(panel, list(series))]))).convert("RGB"))


def test_the_panels_are_the_dashboard_s():
    panels = list(read_panels())
    assert len(panels) > 30
    assert {"Saturation", "Batch size", "Device memory", "Evictions"} <= {
        panel.title for panel in panels
    }
    assert all(panel.queries for panel in panels)


def test_nothing_is_left_of_the_dashboard_s_variables():
    for panel in read_panels():
        for expression, _ in panel.queries:
            assert "$" not in fill_variables(expression)


def test_a_series_begins_with_the_run_and_has_gaps_where_there_is_nothing():
    found = {
        "metric": {"model": "demo"},
        "values": [[101.0, "1"], [102.0, "NaN"], [103.0, "3.5"]],
    }
    panel = Panel("Title", "s", is_stacked=False, queries=(('up{x=~"$model"}', "of {{model}}"),))
    prometheus = Recorded(found, {"metric": {}, "values": [[101.0, "NaN"]]})
    (series,) = read_series(prometheus, panel, 100.0, 110.0)
    assert prometheus.asked == ['up{x=~".*"}']
    assert (series.label, series.times_s) == ("of demo", [1.0, 2.0, 3.0])
    assert series.values[0] == 1.0
    assert math.isnan(series.values[1])
    assert series.values[2] == 3.5


def test_data_can_be_seen_in_every_kind_of_panel():
    for is_stacked in (False, True):
        for unit in ("s", "percentunit", "short"):
            panel = Panel("Title", unit, is_stacked, ())
            assert not np.array_equal(pixels(panel, LINE), pixels(panel))
