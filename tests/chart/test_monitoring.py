"""The chart's objects for monitoring and operation: monitors, rules, dashboards, network policies, a disruption budget
and `helm test`.
"""

import json
import re
from typing import Any

import pytest
import yaml

from halcyon_api import names
from halcyon_dashboards.queries import OPERATOR_JOB, TRAINER_JOB
from halcyon_dashboards.rules import ALERTS
from halcyon_devcluster.errors import DevclusterError
from halcyon_operator.objects.jobset import attempt_labels
from halcyon_operator.observe.runs import parse_run_view
from tests.chart.conftest import CHART, Render, of_kind, only
from tests.operator.builders import run

pytestmark = pytest.mark.slow

MADE = ("ServiceMonitor", "PodMonitor", "PrometheusRule", "NetworkPolicy", "PodDisruptionBudget")
ON = {"enabled": True}


def relabelled(rules: list[dict[str, Any]], meta: dict[str, str]) -> dict[str, str]:
    """The target labels that Prometheus would set by relabelings of the action `replace`."""
    found = {}
    for rule in rules:
        joined = ";".join(meta.get(name, "") for name in rule.get("sourceLabels", []))
        found[rule["targetLabel"]] = rule.get("replacement", joined)
    return found


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for rule in selector.get("matchExpressions", []):
        held = labels.get(rule["key"])
        if (rule["operator"] == "Exists" and held is None) or (rule["operator"] == "NotIn" and held in rule["values"]):
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def test_a_plain_install_needs_no_definitions_of_others(render: Render) -> None:
    objects = render()
    assert not any(of_kind(objects, kind) for kind in MADE)
    assert not of_kind(objects, "ConfigMap")


def test_service_monitor_finds_the_service_and_keeps_the_runs_namespace(render: Render) -> None:
    objects = render(metrics={"serviceMonitor": ON | {"labels": {"release": "prometheus"}, "interval": "15s"}})
    monitor, service = only(objects, "ServiceMonitor"), only(objects, "Service")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert (endpoint["honorLabels"], endpoint["interval"]) == (True, "15s")
    assert relabelled(endpoint["relabelings"], {}) == {"job": OPERATOR_JOB}


def test_service_monitor_without_a_service_is_refused(render: Render) -> None:
    with pytest.raises(DevclusterError, match=r"needs metrics\.service\.enabled"):
        render(metrics={"service": {"enabled": False}, "serviceMonitor": ON})


def test_pod_monitor_finds_trainers_and_names_their_run(render: Render) -> None:
    monitor = only(render(metrics={"podMonitor": ON}, watchNamespaces=["team"]), "PodMonitor")["spec"]
    labels = attempt_labels(parse_run_view(run(name="demo")), 7)
    assert selects(monitor["selector"], labels)
    assert not selects(monitor["selector"], labels | {names.LABEL_ROLE: names.ROLE_PROBE})
    assert not selects(monitor["selector"], {"app": "other"})
    assert monitor["namespaceSelector"] == {"matchNames": ["team"]}
    (endpoint,) = monitor["podMetricsEndpoints"]
    meta = {
        f"__meta_kubernetes_pod_label_{name.replace('.', '_').replace('/', '_')}": value
        for name, value in labels.items()
    }
    assert relabelled(endpoint["relabelings"], meta) == {"run": "demo", "attempt": "7", "job": TRAINER_JOB}
    assert endpoint["port"] == "telemetry"
    assert not endpoint.get("honorLabels"), "a trainer's image comes from the user: it must not name another run"


def test_pod_monitor_covers_all_namespaces_if_the_operator_is_cluster_wide(render: Render) -> None:
    assert only(render(metrics={"podMonitor": ON}, clusterWide=True), "PodMonitor")["spec"]["namespaceSelector"] == {
        "any": True
    }
    named = render(metrics={"podMonitor": ON | {"namespaces": ["a"]}}, watchNamespaces=["b"])
    assert only(named, "PodMonitor")["spec"]["namespaceSelector"] == {"matchNames": ["a"]}


def test_rules_are_those_of_the_file(render: Render) -> None:
    generated = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
    assert only(render(metrics={"prometheusRule": ON}), "PrometheusRule")["spec"] == generated


def test_rules_with_runbooks_labels_and_without_some(render: Render) -> None:
    values = {
        "runbookBaseUrl": "https://example.org/books/",
        "alertLabels": {"team": "ml"},
        "disabledAlerts": ["HalcyonRunDegraded"],
    }
    groups = only(render(metrics={"prometheusRule": ON | values}), "PrometheusRule")["spec"]["groups"]
    alerts = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
    assert alerts.keys() == {alert.name for alert in ALERTS} - {"HalcyonRunDegraded"}
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook_url"] == f"https://example.org/books/{name}.md"
        assert rule["labels"]["team"] == "ml"
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}


def test_an_alert_that_does_not_exist_cannot_be_left_out(render: Render) -> None:
    with pytest.raises(DevclusterError, match="there is no alert HalcyonRunStaled; the alerts are HalcyonRunStalled"):
        render(metrics={"prometheusRule": ON | {"disabledAlerts": ["HalcyonRunStaled"]}})


def test_dashboards_are_those_of_the_files(render: Render) -> None:
    values = ON | {"namespace": "grafana", "annotations": {"grafana_folder": "Training"}}
    maps = of_kind(render(release="train", metrics={"dashboards": values}), "ConfigMap")
    files = {path.name: path for path in (CHART / "files" / "dashboards").glob("*.json")}
    assert len(maps) == len(files) == 3
    for found in maps:
        assert found["metadata"]["namespace"] == "grafana"
        assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert found["metadata"]["annotations"] == {"grafana_folder": "Training"}
        ((name, text),) = found["data"].items()
        assert json.loads(text) == json.loads(files[name.removeprefix("halcyon-")].read_text())


def test_the_values_of_the_guide_install_all_monitoring_objects(render: Render) -> None:
    (block,) = re.findall(
        r"```yaml\n# values of the Halcyon chart\n(.*?)```",
        (CHART.parents[1] / "docs" / "guides" / "monitoring.md").read_text(),
        re.DOTALL,
    )
    objects = render(**yaml.safe_load(block))
    for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule"):
        assert only(objects, kind)["metadata"]["labels"]["release"] == "prometheus"
    assert {found["metadata"]["namespace"] for found in of_kind(objects, "ConfigMap")} == {"monitoring"}


def test_policy_of_the_operator(render: Render) -> None:
    store = {"s3": {"endpoints": ["http://store.team.svc:7070", "https://s3.example", "http://plain.example"]}}
    monitoring = {"namespaceLabels": {"team": "watchers"}}
    values = ON | {"monitoring": monitoring, "apiServer": {"cidrs": ["10.0.0.1/32"]}}
    policy = only(render(networkPolicy=values, objectStore=store, clusterWide=True), "NetworkPolicy")
    spec = policy["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    (scrape,) = spec["ingress"]
    assert scrape["ports"] == [{"port": "metrics", "protocol": "TCP"}]
    assert scrape["from"][0] == {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring", "team": "watchers"}}
    }
    names_, api, trainers, stores = spec["egress"]
    assert {(port["port"], port["protocol"]) for port in names_["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert [port["port"] for port in api["ports"]] == [443, 6443]
    assert api["to"] == [{"ipBlock": {"cidr": "10.0.0.1/32"}}]
    assert selects(trainers["to"][0]["podSelector"], attempt_labels(parse_run_view(run()), 1))
    assert [port["port"] for port in stores["ports"]] == [443, 7070, 80]


def test_the_operator_reaches_a_metadata_server_only_where_that_is_asked_for(render: Render) -> None:
    def link_local(metadata_server: dict[str, Any]) -> list[tuple[str, list[int]]]:
        spec = only(render(networkPolicy=ON | {"metadataServer": metadata_server}, clusterWide=True), "NetworkPolicy")[
            "spec"
        ]
        # A rule for this port of any address would allow it, too.
        assert not {80, 988} & {port["port"] for rule in spec["egress"] if "to" not in rule for port in rule["ports"]}
        blocks = [(rule["to"], rule["ports"]) for rule in spec["egress"] if "ipBlock" in rule.get("to", [{}])[0]]
        return [(peer["ipBlock"]["cidr"], [port["port"] for port in ports]) for (peer,), ports in blocks]

    assert link_local({}) == []
    # GKE with Dataplane V2, and without.
    assert link_local(ON) == [("169.254.169.254/32", [80]), ("169.254.169.252/32", [988])]
    eks = [{"cidr": "169.254.170.23/32", "port": 80}]
    assert link_local(ON | {"addresses": eks}) == [("169.254.170.23/32", [80])]


def test_policy_of_the_trainers(render: Render) -> None:
    objects = render(networkPolicy=ON, watchNamespaces=["a", "b"])
    operator = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    policies = [
        policy for policy in of_kind(objects, "NetworkPolicy") if policy["metadata"]["name"].endswith("-trainers")
    ]
    assert [policy["metadata"]["namespace"] for policy in policies] == ["a", "b"]
    trainer = attempt_labels(parse_run_view(run()), 1)
    for policy in policies:
        spec = policy["spec"]
        assert selects(spec["podSelector"], trainer)
        assert spec["policyTypes"] == ["Ingress"]
        peers, scrapes = spec["ingress"]
        assert "ports" not in peers
        assert "namespaceSelector" not in peers["from"][0], "only pods of the same namespace"
        assert selects(peers["from"][0]["podSelector"], trainer)
        assert selects(scrapes["from"][0]["podSelector"], operator)
        assert scrapes["from"][0]["namespaceSelector"] == {
            "matchLabels": {"kubernetes.io/metadata.name": "halcyon-system"}
        }
        assert scrapes["ports"] == [{"port": "telemetry", "protocol": "TCP"}]
    assert (
        len(
            of_kind(render(networkPolicy=ON | {"trainers": {"enabled": False}}, watchNamespaces=["a"]), "NetworkPolicy")
        )
        == 1
    )


def test_budget_of_the_operator(render: Render) -> None:
    objects = render(podDisruptionBudget=ON)
    spec = only(objects, "PodDisruptionBudget")["spec"]
    assert spec["maxUnavailable"] == 1
    assert selects(spec["selector"], only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"])
    assert (
        only(render(podDisruptionBudget=ON | {"maxUnavailable": "50%"}), "PodDisruptionBudget")["spec"][
            "maxUnavailable"
        ]
        == "50%"
    )


def test_test_pod_is_restricted_and_not_selected_by_the_operators_service(render: Render) -> None:
    objects = render(metrics={"port": 9999})
    pod, service = only(objects, "Pod"), only(objects, "Service")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert not service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    assert container["image"] == only(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"]
    script, host, port = container["args"]
    assert script == (CHART / "files" / "ask_operator.py").read_text()
    assert (host, port) == (f"{service['metadata']['name']}.halcyon-system.svc", "9999")
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    allowed = only(render(networkPolicy=ON, clusterWide=True), "NetworkPolicy")["spec"]["ingress"][0]["from"][1][
        "podSelector"
    ]
    assert selects(allowed, pod["metadata"]["labels"])
    assert not of_kind(render(metrics={"service": {"enabled": False}}), "Pod")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"metrics": {"podMonitor": {"intervall": "30s"}}}, "additional properties 'intervall' not allowed"),
        ({"metrics": {"serviceMonitor": {"interval": "30"}}}, "/metrics/serviceMonitor/interval"),
        ({"metrics": {"prometheusRule": {"runbookBaseUrl": "books"}}}, "/metrics/prometheusRule/runbookBaseUrl"),
        ({"networkPolicy": {"apiServer": {"cidrs": ["10.0.0.1"]}}}, "/networkPolicy/apiServer/cidrs/0"),
        ({"networkPolicy": {"stores": {"ports": [0]}}}, "/networkPolicy/stores/ports/0"),
        (
            {"networkPolicy": {"metadataServer": {"addresses": [{"cidr": "169.254.169.254"}]}}},
            "missing property 'port'",
        ),
        ({"podDisruptionBudget": {"maxUnavailable": "half"}}, "/podDisruptionBudget/maxUnavailable"),
    ],
)
def test_mistakes_are_refused(render: Render, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DevclusterError, match=sentence):
        render(**values)
