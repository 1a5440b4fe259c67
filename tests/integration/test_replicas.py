"""Replicas behind the deployed load balancer: what fails when they end, and what does not."""

import asyncio
import shutil

import pytest

from load_tests.replica_scenarios import SCENARIOS, VIOLATIONS, Drill, killed, rolling
from load_tests.report import HUNG_UP, REFUSED, SUCCESS

pytestmark = pytest.mark.skipif(
    shutil.which("haproxy") is None,
    reason="haproxy is not installed: it is in Debian's package of that name",
)

SECONDS = 3.0


def run(name, folder, **drill):
    return asyncio.run(SCENARIOS[name](Drill(folder, **{"seconds": SECONDS, **drill})))


def test_kill_9_fails_no_more_than_what_the_replica_was_at_and_nothing_for_who_asks_again(tmp_path):
    drill = Drill(tmp_path, seconds=SECONDS, is_demo=True)
    without, with_retry = asyncio.run(killed(drill))
    assert without.notes["failed though not in flight then"] == 0, without.as_text()
    assert with_retry.notes["failed"] == 0, with_retry.as_text()
    for report in (without, with_retry):
        assert report.outcomes[SUCCESS] > 0
        assert report.notes[VIOLATIONS] == 0


@pytest.mark.parametrize("is_demo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_rolling_restart_of_all_replicas_fails_nothing(is_demo, tmp_path):
    (report,) = asyncio.run(rolling(Drill(tmp_path, seconds=SECONDS, is_demo=is_demo)))
    assert report.notes["failed"] == 0, report.as_text()
    assert report.outcomes[SUCCESS] > 0


def test_at_twice_what_they_can_do_replicas_answer_or_refuse_everybody(tmp_path):
    (report,) = run("overload", tmp_path)
    assert report.outcomes.keys() <= {SUCCESS, REFUSED}, report.as_text()


def test_clients_that_take_their_time_take_nobody_else_s(tmp_path):
    (report,) = run("slow_clients", tmp_path)
    assert report.outcomes.keys() == {SUCCESS}, report.as_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["steady", "ramp", "spike", "mixed", "hot_model", "scaling"])
def test_nothing_fails_however_the_load_goes(name, tmp_path):
    for report in run(name, tmp_path, seconds=6.0):
        assert report.outcomes.keys() <= {SUCCESS, REFUSED}, report.as_text()


@pytest.mark.slow
def test_clients_that_leave_cost_the_others_nothing(tmp_path):
    (report,) = run("hangups", tmp_path, seconds=6.0)
    assert report.outcomes.keys() <= {SUCCESS, REFUSED, HUNG_UP}, report.as_text()
