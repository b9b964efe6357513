"""The add-ons of every cluster: CoreDNS (native clusters only, kind has its own) and JobSet from its own chart."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from halcyon_devcluster.addresses import CLUSTER_DOMAIN, DNS_PORT, Addresses
from halcyon_devcluster.commands import run
from halcyon_devcluster.kubectl import Kubectl
from halcyon_devcluster.waiting import until
from halcyon_devcluster.webhooks import WebhookController

JOBSET = WebhookController("JobSet", "jobset-system", "jobset-controller", "jobset-webhook-server-cert")
COREDNS_LABELS = {"k8s-app": "kube-dns"}
_READY_SECONDS = 120


def corefile() -> str:
    """Return CoreDNS' configuration. Pure.

    It has two server blocks because plugins run in a fixed order: a `template` in the block of `kubernetes` would
    answer NXDOMAIN to everything. Without a `template`, a name outside the cluster gives SERVFAIL, which resolvers
    retry for seconds. The TTL is one second and nothing is cached, not even NXDOMAIN, because the name of a restarted
    pod must resolve at once.
    """
    return f"""\
{CLUSTER_DOMAIN}:{DNS_PORT} in-addr.arpa:{DNS_PORT} {{
    errors
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        pods insecure
        ttl 1
    }}
}}
.:{DNS_PORT} {{
    errors
    health :8080
    ready :8181
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def coredns(addresses: Addresses, image: str) -> list[dict[str, Any]]:
    """Return CoreDNS' objects. Pure.

    It listens on an unprivileged port behind the `kube-dns` service, so it needs no capability and meets the restricted
    profile.
    """
    metadata = {"name": "coredns", "namespace": "kube-system"}
    container = {
        "name": "coredns",
        "image": image,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "resources": {"requests": {"cpu": "10m", "memory": "20Mi"}, "limits": {"memory": "170Mi"}},
        "ports": [{"name": "dns", "containerPort": DNS_PORT, "protocol": "UDP"}],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 10, "failureThreshold": 5},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
    }
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "system:coredns"},
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["endpoints", "services", "pods", "namespaces"],
                    "verbs": ["list", "watch"],
                },
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:coredns"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
            "subjects": [{"kind": "ServiceAccount", **metadata}],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"Corefile": corefile()}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": COREDNS_LABELS},
                "template": {
                    "metadata": {"labels": COREDNS_LABELS},
                    "spec": {
                        "serviceAccountName": "coredns",
                        "priorityClassName": "system-cluster-critical",
                        "dnsPolicy": "Default",
                        "containers": [container],
                        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
                    },
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {
                "clusterIP": str(addresses.dns_service),
                "selector": COREDNS_LABELS,
                "ports": [
                    {"name": "dns", "port": 53, "targetPort": DNS_PORT, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": 53, "targetPort": DNS_PORT, "protocol": "TCP"},
                ],
            },
        },
    ]


def jobset_values(image: str) -> dict[str, Any]:
    """Return the values for JobSet's chart. Pure.

    The chart's defaults request half a core (a quarter of a small machine) and elect a leader, which one replica does
    not need.
    """
    repository, _, tag = image.rpartition(":")
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "controller": {
            "leaderElection": {"enable": False},
            "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
        },
    }


def probe_jobset() -> dict[str, Any]:
    """Return a minimal JobSet for a dry run, which succeeds only if the controller's webhooks answer. Pure."""
    pod = {"restartPolicy": "Never", "containers": [{"name": "probe", "image": "probe"}]}
    job = {"name": "probe", "template": {"spec": {"template": {"spec": pod}}}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "probe", "namespace": "default"},
        "spec": {"replicatedJobs": [job]},
    }


def install_jobset(helm: Path, kubeconfig: Path, chart: Path, values: Mapping[str, Any], log: Path) -> None:
    """Install JobSet's chart, see `install_chart`."""
    install_chart(helm, kubeconfig, "jobset", JOBSET.namespace, chart, values, log)


def install_chart(
    helm: Path, kubeconfig: Path, release: str, namespace: str, chart: Path, values: Mapping[str, Any], log: Path
) -> None:
    """Install a chart unless it is installed; an interrupted installation is removed first.

    Helm's own files go to the folder of `log` instead of the home folder.
    """
    private = log.parent / "helm"
    environ = {
        "HELM_CACHE_HOME": str(private / "cache"),
        "HELM_CONFIG_HOME": str(private / "config"),
        "HELM_DATA_HOME": str(private / "data"),
    }
    where = ["--kubeconfig", str(kubeconfig), "--namespace", namespace]
    state = _release_state([helm, "list", "--output", "json", *where], release, environ)
    if state == "deployed":
        return
    if state is not None:
        run([helm, "uninstall", release, *where], environ=environ, log=log)
    install = [helm, "install", release, chart, "--create-namespace", "--values", "-", *where]
    run(install, stdin=yaml.safe_dump(dict(values)), environ=environ, log=log)


def _release_state(command: list[str | Path], name: str, environ: Mapping[str, str]) -> str | None:
    releases = json.loads(run(command, environ=environ) or "[]")
    return next((release["status"] for release in releases if release["name"] == name), None)


def jobset_answers(kubectl: Kubectl) -> bool:
    """Whether a JobSet would be accepted now. The webhooks answer some seconds after the deployment is Available."""
    return kubectl.succeeds("create", "--dry-run=server", "--filename=-", stdin=yaml.safe_dump(probe_jobset()))


def wait_for_jobset(kubectl: Kubectl) -> None:
    """Wait until JobSets can be created."""
    JOBSET.wait(kubectl, lambda: jobset_answers(kubectl))


def dns_available(kubectl: Kubectl) -> bool:
    """Whether CoreDNS reports Available."""
    return kubectl.condition("deployment", "coredns", "Available", "kube-system")


def wait_for_dns(kubectl: Kubectl) -> None:
    """Wait until names resolve in pods."""
    until(
        lambda: dns_available(kubectl),
        timeout_seconds=_READY_SECONDS,
        failure=lambda: "CoreDNS does not become Available: see `kubectl -n kube-system get pods`.",
    )
