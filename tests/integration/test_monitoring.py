"""Prometheus, its rules and the dashboard, as they are deployed, with the real programs."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from load_tests.dashboard_picture import DASHBOARD, fill_variables, read_panels
from load_tests.fleet import running_fleet
from load_tests.prometheus import CONFIGURATION, running_prometheus
from service.api.errors import PROBLEM_OF
from service.metrics import REQUEST_BUCKETS_S, Memory, Metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docker" / "alerts.yml"
RULE_TESTS = ROOT / "docker" / "alerts_test.yml"
GROUPS = YAML(typ="safe").load(RULES)["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
RECORDED = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
EXPRESSIONS = [
    *(rule["expr"] for group in GROUPS for rule in group["rules"]),
    *(expression for panel in read_panels() for expression, _ in panel.queries),
]
# Not of the service: the balancer's, and Prometheus' own.
EXTERNAL = {
    "haproxy_backend_active_servers",
    "haproxy_backend_http_responses_total",
    "haproxy_backend_redispatch_warnings_total",
    "haproxy_backend_response_errors_total",
    "haproxy_frontend_denied_connections_total",
    "haproxy_frontend_requests_denied_total",
    "up",
}
NAME = re.compile(r"\b((?:densepose|haproxy|process)_\w+|densepose:[\w:]+|up)\b(?=[{\[ )]|$)")
PATIENCE_S = 60.0

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed: it is in Debian's package prometheus",
)
needs_all = pytest.mark.skipif(
    None in {shutil.which("prometheus"), shutil.which("haproxy")},
    reason="prometheus and haproxy are not installed: they are Debian's packages of these names",
)


def promtool(*arguments):
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)


def published():
    """The names of all samples that a replica publishes."""
    metrics = Metrics({"version": "test"})
    metrics.watch_memory(lambda: Memory({}, {}, {}))
    suffixes = {
        "counter": ["_total"],
        "histogram": ["_bucket", "_count", "_sum"],
        "gauge": [""],
    }
    return {
        family.name + suffix
        for family in metrics.registry.collect()
        for suffix in suffixes.get(family.type, [])
    }


@needs_promtool
def test_promtool_finds_nothing_to_say_about_the_configuration_and_the_rules():
    for arguments in (("config", CONFIGURATION), ("rules", "--lint-fatal", RULES)):
        judged = promtool("check", *map(str, arguments))
        assert judged.returncode == 0, judged.stdout + judged.stderr


@needs_promtool
def test_the_alerts_fire_when_they_should_and_only_then():
    judged = promtool("test", "rules", str(RULE_TESTS))
    assert judged.returncode == 0, judged.stdout + judged.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_tested_both_ways(name):
    cases = [
        bool(case.get("exp_alerts"))
        for group in YAML(typ="safe").load(RULE_TESTS)["tests"]
        for case in group["alert_rule_test"]
        if case["alertname"] == name
    ]
    assert set(cases) == {False, True}


@pytest.mark.parametrize("name", ALERTS)
def test_the_operator_s_page_says_what_an_alert_means_and_what_to_do(name):
    path, _, anchor = ALERTS[name]["annotations"]["runbook"].partition("#")
    page = (ROOT / path).read_text()
    assert anchor == name.lower()
    assert f"\n### {name}\n" in page
    assert ALERTS[name]["labels"]["severity"] in {"page", "ticket"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_looked_at_is_published(expression):
    names = set(NAME.findall(re.sub(r"#.*", "", expression)))
    assert names
    assert names <= published() | RECORDED | EXTERNAL


def test_the_faults_of_the_service_are_the_errors_from_500_on():
    codes = {problem.code for problem in PROBLEM_OF.values() if problem.status >= 500}
    faults = {
        found
        for text in EXPRESSIONS
        for found in re.findall(r'outcome=~"(?:success\|)?([^"]+)"', text)
    } - {".*"}
    assert {frozenset(each.split("|")) for each in faults} == {frozenset(codes)}


def test_the_bounds_that_are_asked_for_are_bounds_of_buckets():
    bounds = {found for text in EXPRESSIONS for found in re.findall(r'le="([^"]+)"', text)}
    assert bounds
    assert bounds <= {str(bound) for bound in REQUEST_BUCKETS_S}


def test_the_dashboard_asks_one_source_and_places_no_panel_on_another():
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        x, y, width, height = (panel["gridPos"][side] for side in "xywh")
        cells = {(column, row) for column in range(x, x + width) for row in range(y, y + height)}
        assert not cells & taken, panel["title"]
        assert x + width <= 24
        taken |= cells
    sources = YAML(typ="safe").load(
        ROOT / "docker/grafana/provisioning/datasources/prometheus.yml"
    )["datasources"]
    assert [source["uid"] for source in sources] == ["prometheus"]
    for panel in panels:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "prometheus"
            assert panel["description"].endswith(".")


def test_replicas_are_found_by_the_name_that_they_have():
    jobs = {job["job_name"]: job for job in YAML(typ="safe").load(CONFIGURATION)["scrape_configs"]}
    (discovery,) = jobs["densepose"]["dns_sd_configs"]
    services = YAML(typ="safe").load(ROOT / "docker-compose.yml")["services"]
    assert discovery["names"] == services["service"]["networks"]["replicas"]["aliases"]
    assert f"DENSEPOSE_PORT={discovery['port']}" in (ROOT / "docker" / "Dockerfile").read_text()
    (edge,) = jobs["edge"]["static_configs"]
    assert edge["targets"] == ["balancer:8405"]
    assert "EDGE_METRICS_BIND-:8405" in (ROOT / "docker" / "haproxy.cfg").read_text()


@needs_all
def test_prometheus_scrapes_replicas_and_edge_and_understands_every_rule_and_panel(tmp_path):
    command = ("-m", "load_tests.stand_in", "--batch-ms", "1")
    settings = {"DEFAULT_MODEL": "demo"}
    with running_fleet(2, tmp_path, settings, command) as fleet:
        edge = f"{fleet.balancer.host}:{fleet.balancer.metrics_port}"
        replicas = [f"{replica.host}:{replica.port}" for replica in fleet.replicas]
        with running_prometheus(tmp_path, replicas=replicas, edge=edge) as prometheus:
            deadline_s = time.monotonic() + PATIENCE_S
            while [each["health"] for each in prometheus.targets()] != ["up"] * 3:
                assert time.monotonic() < deadline_s, prometheus.targets()
                time.sleep(0.1)
            while not all(rule.get("lastEvaluation", "0") > "1" for rule in prometheus.rules()):
                assert time.monotonic() < deadline_s
                time.sleep(0.1)
            assert {rule["health"] for rule in prometheus.rules()} == {"ok"}
            assert len(prometheus.query("densepose_ready == 1")) == 2
            for name in EXTERNAL:
                assert prometheus.query(name), name
            now_s = time.time()
            for expression in EXPRESSIONS:
                prometheus.query_range(fill_variables(expression), now_s - 5, now_s)
