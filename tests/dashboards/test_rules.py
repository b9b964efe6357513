"""The rules, tested with promtool: each alert fires when it should and is silent when it should not, and each has its
runbook.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_dashboards.generate import FILES, REPOSITORY
from halcyon_dashboards.queries import RECORDED
from halcyon_dashboards.rules import ALERTS, RUNBOOKS
from halcyon_devcluster.commands import run
from halcyon_devcluster.programs import PROMTOOL
from tests.dashboards.cases import ALERT_CASES, RECORD_CASES, AlertCase, RecordCase
from tests.gitops.readers import program

RULES = FILES / "rules.yaml"
BY_NAME = {alert.name: alert for alert in ALERTS}


@pytest.fixture(scope="module")
def promtool() -> Path:
    """The pinned promtool, built on first use."""
    return program(PROMTOOL, "promtool")


def expanded(template: str, labels: dict[str, str], value: str) -> str:
    """An annotation as Prometheus renders it."""
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], template)
    return re.sub(r"\{\{ \$value(?: \| \w+)? \}\}", value, text)


def alert_test(alert: str, case: AlertCase) -> dict[str, Any]:
    document = BY_NAME[alert].document()
    expected = []
    if case.fires is not None:
        annotations = {
            name: expanded(text, dict(case.fires), case.value) for name, text in document["annotations"].items()
        }
        expected.append({"exp_labels": {**document["labels"], **case.fires}, "exp_annotations": annotations})
    test = {"eval_time": case.at, "alertname": alert, "exp_alerts": expected}
    return {"name": f"{alert}: {case.why}", "alert_rule_test": [test]} | series(case)


def record_test(case: RecordCase) -> dict[str, Any]:
    samples = [{"labels": f"{case.record}{{{labels}}}", "value": value} for labels, value in case.samples.items()]
    return {
        "name": case.record,
        "promql_expr_test": [{"expr": case.record, "eval_time": case.at, "exp_samples": samples}],
    } | series(case)


def series(case: AlertCase | RecordCase) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
    }


@pytest.mark.slow
def test_the_rules_do_what_the_cases_say(promtool: Path, tmp_path: Path) -> None:
    tests = [alert_test(alert, case) for alert, cases in ALERT_CASES.items() for case in cases]
    tests += [record_test(case) for case in RECORD_CASES]
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "fuzzy_compare": True, "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(document))
    run([promtool, "test", "rules", tmp_path / "tests.yaml"])


@pytest.mark.slow
def test_the_rules_pass_the_lint_of_promtool(promtool: Path) -> None:
    run([promtool, "check", "rules", "--lint", "all", "--lint-fatal", RULES])


def test_every_rule_has_cases_for_both_ways() -> None:
    assert set(ALERT_CASES) == set(BY_NAME)
    for alert, cases in ALERT_CASES.items():
        assert {case.fires is None for case in cases} == {True, False}, alert
    assert {case.record for case in RECORD_CASES} == set(RECORDED)


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    runbooks = {path.stem: path.read_text() for path in (REPOSITORY / RUNBOOKS).glob("*.md")}
    assert runbooks.keys() == BY_NAME.keys()
    for name, text in runbooks.items():
        assert text.startswith(f"# {name}\n"), name
        for part in ("## Meaning", "## Check", "## Fix"):
            assert f"\n{part}\n" in text, f"{name} lacks {part}"
        assert not re.search(r"^(kubectl|halcyon|helm) ", text, re.MULTILINE), f"{name}: a command outside a code block"


def test_the_guide_lists_every_alert_with_its_severity() -> None:
    guide = (REPOSITORY / "docs" / "guides" / "monitoring.md").read_text()
    parts = re.findall(r"^- \*\*(\w+)\*\*: (.*(?:\n  .*)*)", guide, re.MULTILINE)
    links = [(*link, severity) for severity, part in parts for link in re.findall(r"\[(\w+)\]\(\S*/(\w+)\.md\)", part)]
    assert sorted(links) == sorted((alert.name, alert.name, alert.severity) for alert in ALERTS)


def test_every_alert_has_a_runbook_and_a_short_summary() -> None:
    for alert in ALERTS:
        document = alert.document()
        assert document["annotations"]["runbook_url"] == f"docs/runbooks/{alert.name}.md"
        assert len(document["annotations"]["summary"]) <= 120, alert.name
        assert re.fullmatch(r"Halcyon[A-Za-z]+", alert.name)
