"""A Prometheus in the cluster that scrapes what the chart's monitors select, with the chart's rules.

The cluster has no Prometheus operator. This module makes what the operator would make of a ServiceMonitor and a
PodMonitor: the same discovery, and the same labels before the monitor's own relabelings.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from halcyon_devcluster import Cluster
from halcyon_devcluster.forwarding import forwarded
from tests.suite.limits import limit

NAME = "prometheus"
PORT = 9090
_ROLE = "__meta_kubernetes"


def scrape_config(monitor: Mapping[str, Any], namespaces: list[str], interval: str) -> dict[str, Any]:
    """The scrape configuration that the Prometheus operator makes of a monitor with one endpoint. Pure."""
    is_pod = monitor["kind"] == "PodMonitor"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints" if is_pod else "endpoints"]
    role, port = ("pod", "pod_container_port_name") if is_pod else ("endpointslice", "endpointslice_port_name")
    labels = f"{_ROLE}_{'pod' if is_pod else 'service'}_label"
    before = [
        *_selection(monitor["spec"]["selector"], labels),
        {"action": "keep", "source_labels": [f"{_ROLE}_{port}"], "regex": endpoint["port"]},
        {"action": "drop", "source_labels": [f"{_ROLE}_pod_phase"], "regex": "(Failed|Succeeded)"},
        {"source_labels": [f"{_ROLE}_namespace"], "target_label": "namespace"},
        {"source_labels": [f"{_ROLE}_pod_name"], "target_label": "pod"},
    ]
    return {
        "job_name": f"{monitor['kind']}/{monitor['metadata']['name']}",
        "kubernetes_sd_configs": [{"role": role, "namespaces": {"names": namespaces}}],
        "metrics_path": endpoint["path"],
        "honor_labels": endpoint.get("honorLabels", False),
        "scrape_interval": interval,
        "relabel_configs": before + [_relabeling(rule) for rule in endpoint.get("relabelings", [])],
        "metric_relabel_configs": [_relabeling(rule) for rule in endpoint.get("metricRelabelings", [])],
    }


def _selection(selector: Mapping[str, Any], labels: str) -> list[dict[str, Any]]:
    def named(key: str, kind: str = "") -> str:
        return f"{labels}{kind}_{re.sub('[^a-zA-Z0-9_]', '_', key)}"

    rules = [
        {"action": "keep", "source_labels": [named(key)], "regex": re.escape(value)}
        for key, value in selector.get("matchLabels", {}).items()
    ]
    for rule in selector.get("matchExpressions", []):
        if rule["operator"] == "Exists":
            rules.append({"action": "keep", "source_labels": [named(rule["key"], "present")], "regex": "true"})
        elif rule["operator"] == "NotIn":
            rules.append({"action": "drop", "source_labels": [named(rule["key"])], "regex": "|".join(rule["values"])})
        else:
            raise ValueError(f"selector operator {rule['operator']} is not known here")
    return rules


def _relabeling(rule: Mapping[str, Any]) -> dict[str, Any]:
    return {re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name): value for name, value in rule.items()}


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def _get(self, path: str, **parameters: str) -> Any:
        with urlopen(f"{self.url}/api/v1/{path}?{urlencode(parameters)}", timeout=limit(30)) as response:  # noqa: S310 - a local port
            answer = json.load(response)
        assert answer["status"] == "success", answer
        assert not answer.get("warnings"), answer["warnings"]
        return answer["data"]

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The current samples of an expression."""
        return self._get("query", query=expression)["result"]

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def targets(self) -> list[dict[str, Any]]:
        """The active scrape targets."""
        return self._get("targets", state="active")["activeTargets"]

    def until_all_answer(
        self, expressions: Mapping[str, str], timeout_seconds: float
    ) -> dict[str, list[dict[str, Any]]]:
        """Query until each expression has had samples once. Returns the first samples of each.

        Raises:
            AssertionError: Some expressions never had samples; the message names them.
        """
        answers: dict[str, list[dict[str, Any]]] = {}
        until = time.monotonic() + limit(timeout_seconds)
        while missing := expressions.keys() - answers.keys():
            for name in missing:
                if samples := self.ask(expressions[name]):
                    answers[name] = samples
            if expressions.keys() == answers.keys():
                break
            assert time.monotonic() < until, (
                f"no data within {timeout_seconds:.0f} s: {sorted(expressions.keys() - answers.keys())}"
            )
            time.sleep(1)
        return answers


@contextmanager
def running(
    cluster: Cluster,
    image: str,
    namespace: str,
    monitors: list[dict[str, Any]],
    rules: dict[str, Any],
    watched: list[str],
) -> Iterator[Prometheus]:
    """Run a Prometheus in `namespace` that scrapes what the monitors select in the namespaces `watched`."""
    config = {
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": ["/etc/prometheus/rules.yaml"],
        "scrape_configs": [scrape_config(monitor, watched, "2s") for monitor in monitors],
    }
    files = {"prometheus.yaml": yaml.safe_dump(config), "rules.yaml": yaml.safe_dump(rules)}
    cluster.kubectl.apply([*_objects(image, namespace, files, watched)])
    cluster.kubectl(
        "wait",
        "--for=condition=Ready",
        f"pod/{NAME}",
        "--namespace",
        namespace,
        f"--timeout={limit(120)}s",
        timeout_seconds=limit(180),
    )
    with forwarded(cluster.kubectl, namespace, f"pod/{NAME}", PORT) as url:
        yield Prometheus(url)


def _objects(image: str, namespace: str, files: dict[str, str], watched: list[str]) -> Iterator[dict[str, Any]]:
    metadata = {"name": NAME, "namespace": namespace}
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    for where in watched:
        role = {"name": f"{NAME}-{namespace}", "namespace": where}
        sees = [
            {"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
        ]
        yield {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": role, "rules": sees}
        yield {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": role,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role["name"]},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": namespace}],
        }
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files}
    container = {
        "name": NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/prometheus"],
        "args": [
            "--config.file=/etc/prometheus/prometheus.yaml",
            "--storage.tsdb.path=/data",
            f"--web.listen-address=:{PORT}",
        ],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/prometheus"}, {"name": "data", "mountPath": "/data"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    yield {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "serviceAccountName": NAME,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "config", "configMap": {"name": NAME}}, {"name": "data", "emptyDir": {}}],
        },
    }
