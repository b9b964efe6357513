"""The objects of the chart: rights, the restrictions of the pod, the CRDs, and the effects of the values."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_devcluster.commands import run
from halcyon_devcluster.errors import DevclusterError
from halcyon_operator.model.settings import VARIABLE, Settings, parse_settings
from tests.chart.conftest import CHART, Objects, Render, of_kind, only

pytestmark = pytest.mark.slow  # the first use builds Helm

REPOSITORY = CHART.parents[1]
RULES = [
    {"apiGroups": ["halcyon.dev"], "resources": ["trainingruns"], "verbs": ["get", "list", "watch", "delete"]},
    {"apiGroups": ["halcyon.dev"], "resources": ["trainingruns/status"], "verbs": ["patch"]},
    {"apiGroups": ["halcyon.dev"], "resources": ["trainingrundefaults"], "verbs": ["get"]},
    {"apiGroups": ["halcyon.dev"], "resources": ["trainingruns/finalizers"], "verbs": ["update"]},
    {"apiGroups": ["jobset.x-k8s.io"], "resources": ["jobsets"], "verbs": ["get", "list", "watch", "create", "delete"]},
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "create", "delete"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch", "delete"]},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "delete"]},
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
]


def pod(objects: Objects) -> dict[str, Any]:
    return only(objects, "Deployment")["spec"]["template"]["spec"]


def environment(objects: Objects) -> dict[str, Any]:
    (container,) = pod(objects)["containers"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def settings(objects: Objects) -> Settings:
    """The settings that the operator reads from its environment."""
    return parse_settings(environment(objects)[VARIABLE])


def test_lint(helm: Path) -> None:
    run([helm, "lint", "--strict", CHART])


def test_rights_in_the_whole_cluster_where_that_is_asked_for(render: Render) -> None:
    objects = render(clusterWide=True)
    assert settings(objects).namespaces == ()
    assert only(objects, "ClusterRole")["rules"] == RULES
    assert [role["metadata"]["name"] for role in of_kind(objects, "Role")] == ["halcyon-lease"]
    binding = only(objects, "ClusterRoleBinding")
    assert binding["roleRef"]["name"] == only(objects, "ClusterRole")["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "halcyon", "namespace": "halcyon-system"}]


def test_rights_in_the_own_namespace_by_default(render: Render) -> None:
    objects = render()
    assert not [found for found in objects if found["kind"].startswith("ClusterRole")]
    assert {role["metadata"]["namespace"] for role in of_kind(objects, "Role")} == {"halcyon-system"}
    assert [role["rules"] for role in of_kind(objects, "Role") if not role["metadata"]["name"].endswith("-lease")] == [
        RULES
    ]
    assert settings(objects).namespaces == ("halcyon-system",)


def test_the_built_in_cluster_roles_include_runs_if_requested(render: Render) -> None:
    roles = of_kind(render(aggregateRoles=True), "ClusterRole")
    given = {
        goal: sorted(
            f"{verb} {resource}"
            for role in roles
            if role["metadata"]["labels"].get(f"rbac.authorization.k8s.io/aggregate-to-{goal}") == "true"
            for rule in role["rules"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
            if verb in ("get", "patch")
        )
        for goal in ("view", "edit", "admin")
    }
    assert given == {
        "view": ["get trainingrundefaults", "get trainingruns"],
        "edit": ["get trainingrundefaults", "get trainingruns", "patch trainingruns"],
        "admin": ["get trainingrundefaults", "get trainingruns", "patch trainingrundefaults", "patch trainingruns"],
    }
    assert len({role["metadata"]["name"] for role in roles}) == 3


def test_watch_namespaces_and_cluster_wide_exclude_each_other(render: Render) -> None:
    with pytest.raises(
        DevclusterError, match="clusterWide and watchNamespaces exclude one another: leave one of them out"
    ):
        render(clusterWide=True, watchNamespaces=["team"])


def test_rights_in_the_watched_namespaces_only(render: Render) -> None:
    objects = render(watchNamespaces=["team-a", "team-b"])
    assert not of_kind(objects, "ClusterRole")
    assert not of_kind(objects, "ClusterRoleBinding")
    roles = [role for role in of_kind(objects, "Role") if not role["metadata"]["name"].endswith("-lease")]
    reads_defaults = [{"apiGroups": ["halcyon.dev"], "resources": ["trainingrundefaults"], "verbs": ["get"]}]
    assert [(role["metadata"]["namespace"], role["rules"]) for role in roles] == [
        ("team-a", RULES),
        ("team-b", RULES),
        ("halcyon-system", reads_defaults),
    ]
    assert settings(objects).defaults_namespace == "halcyon-system"
    of_the_release = render(watchNamespaces=["halcyon-system", "team-a"])
    assert not [role for role in of_kind(of_the_release, "Role") if role["metadata"]["name"].endswith("-defaults")], (
        "this namespace is served already"
    )
    for binding in of_kind(objects, "RoleBinding"):
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "halcyon", "namespace": "halcyon-system"}]
    assert settings(objects).namespaces == ("team-a", "team-b")


def test_the_cluster_may_choose_the_user_of_the_pods(render: Render) -> None:
    chosen = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    objects = render(runAsUser="namespace")
    assert [found["securityContext"] for found in (pod(objects), only(objects, "Pod")["spec"])] == [chosen, chosen]
    given = {"runAsUser": 1000650000, "runAsGroup": 1000650000, "fsGroup": 1000650000}
    objects = render(runAsUser=1000650000)
    assert [found["securityContext"] for found in (pod(objects), only(objects, "Pod")["spec"])] == [
        chosen | given,
        chosen | given,
    ]
    for refused in (0, "root", ""):
        with pytest.raises(DevclusterError, match="runAsUser"):
            render(runAsUser=refused)


def test_every_pod_has_the_resources_that_a_quota_asks_for(render: Render) -> None:
    resources = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    objects = render(resources=resources)
    found = [pod(objects), only(objects, "Pod")["spec"]]
    assert [container["resources"] for spec in found for container in spec["containers"]] == [resources, resources]


@pytest.mark.parametrize("release", ["r" * 53, "halcyon" + "r" * 46])
def test_the_longest_release_name_gives_names_that_the_api_server_takes(render: Render, release: str) -> None:
    metrics = {
        kind: {"enabled": True} for kind in ("service", "serviceMonitor", "podMonitor", "prometheusRule", "dashboards")
    }
    more = {
        "replicas": 2,
        "networkPolicy": {"enabled": True},
        "aggregateRoles": True,
        "limits": {"enabled": True, "default": {"slices": 5}},
    }
    objects = render(release, "n" * 63, metrics=metrics, **more)
    longest = {
        found["kind"]: max(len(one["metadata"]["name"]) for one in of_kind(objects, found["kind"])) for found in objects
    }
    assert longest["Service"] <= 63
    assert max(longest.values()) <= 253
    assert all(len(value) <= 63 for found in objects for value in found["metadata"].get("labels", {}).values())


def test_pod_passes_the_restricted_profile(render: Render) -> None:
    spec = pod(render())
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "volumes", "initContainers"} & set(spec)
    assert all("hostPort" not in port for port in container["ports"])
    assert container["resources"]["limits"] == {"memory": "384Mi"}


def test_a_slow_start_of_the_operator_is_not_ended_by_its_liveness_probe(render: Render) -> None:
    (container,) = pod(render())["containers"]
    start, alive = container["startupProbe"], container["livenessProbe"]
    assert start["httpGet"] == alive["httpGet"]
    assert start["failureThreshold"] * start["periodSeconds"] == 300
    assert "initialDelaySeconds" not in alive


def test_two_replicas_get_anti_affinity_and_a_disruption_budget(render: Render) -> None:
    alone = render()
    spec = only(alone, "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (
        1,
        {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
    )
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    assert "affinity" not in pod(alone)
    assert not of_kind(alone, "PodDisruptionBudget")
    two = render(replicas=2)
    (term,) = pod(two)["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    assert term["podAffinityTerm"]["labelSelector"]["matchLabels"] == spec["selector"]["matchLabels"]
    assert only(two, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    own = {"nodeAffinity": {}}
    assert pod(render(replicas=2, affinity=own))["affinity"] == own


@pytest.mark.parametrize("namespaces", [[], ["team-a"]])
def test_the_lease_is_the_releases_own(render: Render, namespaces: list[str]) -> None:
    objects = render(release="train", namespace="system", watchNamespaces=namespaces)
    (role,) = [found for found in of_kind(objects, "Role") if found["metadata"]["name"] == "train-halcyon-lease"]
    (binding,) = [
        found for found in of_kind(objects, "RoleBinding") if found["metadata"]["name"] == "train-halcyon-lease"
    ]
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == "system"
    assert role["rules"] == [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["train-halcyon"],
            "verbs": ["get", "update"],
        },
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
    ]
    assert binding["roleRef"]["name"] == "train-halcyon-lease"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "train-halcyon", "namespace": "system"}]
    lease = settings(objects).lease
    assert (lease.namespace, lease.name) == ("system", "train-halcyon")


def test_definition_is_the_generated_one(render: Render) -> None:
    generated = [yaml.safe_load(path.read_text()) for path in sorted((REPOSITORY / "crds").glob("*.yaml"))]
    found = sorted(
        of_kind(render(), "CustomResourceDefinition"), key=lambda definition: str(definition["metadata"]["name"])
    )
    assert len(found) == len(generated) == 2
    for definition, source in zip(found, generated, strict=True):
        assert definition["spec"] == source["spec"]
        assert definition["metadata"]["name"] == source["metadata"]["name"]
        # Each stands for a tool that would delete the definitions, and with them all runs: Helm and Flux, Argo CD.
        assert definition["metadata"]["annotations"] == {
            "helm.sh/resource-policy": "keep",
            "argocd.argoproj.io/sync-options": "Prune=false,Delete=false",
        }


def test_the_crds_can_be_deleted_with_the_release_or_left_out_of_it(render: Render) -> None:
    gone = of_kind(render(crds={"enabled": True, "keep": False}), "CustomResourceDefinition")
    assert ["annotations" in definition["metadata"] for definition in gone] == [False, False]
    assert not of_kind(render(crds={"enabled": False, "keep": True}), "CustomResourceDefinition")


def test_all_objects_have_the_recommended_labels(render: Render) -> None:
    objects = render(release="train", watchNamespaces=["team"])
    for found in objects:
        labels = found["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "halcyon", found["kind"]
        assert labels["app.kubernetes.io/instance"] == "train"
        assert labels["app.kubernetes.io/part-of"] == "halcyon"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["helm.sh/chart"] == "halcyon-0.1.0"
        assert found["kind"] == "CustomResourceDefinition" or found["metadata"]["name"].startswith("train-halcyon")


def test_credentials_come_from_the_kubelet(render: Render) -> None:
    store = {
        "s3": {
            "credentialsSecret": "store",
            "region": "eu-west-1",
            "endpoints": ["http://store:7070", "https://s3.example"],
        }
    }
    objects = render(objectStore=store)
    given = environment(objects)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert given[name] == {"secretKeyRef": {"name": "store", "key": name}}
    assert given["AWS_SESSION_TOKEN"]["secretKeyRef"]["optional"] is True
    assert given["AWS_REGION"] == "eu-west-1"
    assert settings(objects).object_store.s3.endpoints == ("http://store:7070", "https://s3.example")
    assert not any(name.startswith("AWS_") for name in environment(render()))


def test_releases_of_one_name_in_two_namespaces_share_only_the_crds(render: Render) -> None:
    def cluster_wide(namespace: str) -> set[tuple[str, str]]:
        objects = render(namespace=namespace, watchNamespaces=["team"], watchNodes=True)
        return {(found["kind"], found["metadata"]["name"]) for found in objects if "namespace" not in found["metadata"]}

    shared = cluster_wide("a") & cluster_wide("b")
    assert shared == {
        ("CustomResourceDefinition", f"{plural}.halcyon.dev") for plural in ("trainingruns", "trainingrundefaults")
    }


def test_probe_pods_preempt_no_other_pod(render: Render) -> None:
    objects = render(release="train")
    found = only(objects, "PriorityClass")
    # A negative priority would become a label that no pod of a JobSet can have.
    assert (found["value"], found["preemptionPolicy"], found["globalDefault"]) == (0, "Never", False)
    assert (
        settings(objects).probes.priority_class.name
        == found["metadata"]["name"]
        == "train-halcyon-halcyon-system-probe"
    )
    other = render(probes={"priorityClass": {"create": False, "name": "mine"}})
    assert not of_kind(other, "PriorityClass")
    assert settings(other).probes.priority_class.name == "mine"
    assert settings(render(probes={"priorityClass": {"create": False}})).probes.priority_class.name == ""


@pytest.mark.parametrize("namespaces", [[], ["team"]])
def test_nodes_are_watched_only_where_that_is_asked_for(render: Render, namespaces: list[str]) -> None:
    """Nodes have no namespace, so this right needs its own ClusterRole, in addition to all other roles."""
    bare = render(watchNamespaces=namespaces)
    assert not settings(bare).watch_nodes
    objects = render(watchNamespaces=namespaces, watchNodes=True)
    added = [
        found
        for found in of_kind(objects, "ClusterRole")
        if found["metadata"]["name"] == "halcyon-halcyon-system-nodes"
    ]
    assert [role["rules"] for role in added] == [
        [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}]
    ]
    assert len(of_kind(objects, "ClusterRole")) == len(of_kind(bare, "ClusterRole")) + 1
    assert len(of_kind(objects, "ClusterRoleBinding")) == len(of_kind(bare, "ClusterRoleBinding")) + 1
    assert settings(objects).watch_nodes


@pytest.mark.parametrize(
    "values", [{}, {"watchNamespaces": ["team", "other"]}, {"clusterWide": True}], ids=["own", "some", "all"]
)
def test_workloads_can_be_listed_only_if_kueue_is_enabled(render: Render, values: dict[str, Any]) -> None:
    """The right is granted wherever runs are served, and nowhere else."""

    def listing(objects: list[dict[str, Any]]) -> list[str]:
        rule = {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"], "verbs": ["list"]}
        roles = of_kind(objects, "Role") + of_kind(objects, "ClusterRole")
        return sorted(role["metadata"].get("namespace", "") for role in roles if rule in role["rules"])

    bare, queues = render(**values), render(**values, kueue={"enabled": True})
    assert (settings(bare).kueue.enabled, listing(bare), '"kueue.x-k8s.io"' in json.dumps(bare)) == (False, [], False)
    served = [""] if values.get("clusterWide") else sorted(values.get("watchNamespaces", ["halcyon-system"]))
    assert (settings(queues).kueue.enabled, listing(queues)) == (True, served)
    for more, verbs in (("priorityBoost", ["patch"]), ("multiKueue", ["create", "delete", "patch"])):
        text = json.dumps(render(**values, kueue={"enabled": True, more: True}))
        assert f'"resources": ["workloads"], "verbs": {json.dumps(["list", *verbs])}' in text


def test_node_directories_are_not_allowed_by_default(render: Render) -> None:
    assert not settings(render()).gpu_direct.allowed
    assert settings(render(gpuDirect={"allowed": True})).gpu_direct.allowed


def test_the_chart_passes_its_values_to_the_operator(render: Render) -> None:
    made = {
        "trainerImage": "registry.example/trainer:0.1.0",
        "namespaces": ["halcyon-system"],
        "defaultsNamespace": "halcyon-system",
    }
    made["lease"] = {"namespace": "halcyon-system", "name": "halcyon"}
    made["probes"] = {"priorityClass": {"name": "halcyon-halcyon-system-probe"}}
    assert settings(render()) == parse_settings(json.dumps(made)), (
        "the defaults of the chart and of the operator are equal"
    )
    values = {
        "trainerPods": {
            "security": {
                "tpu": {"privileged": True, "hostNetwork": "multislice"},
                "default": {"runAsUser": 1000650000},
            },
            "variables": ["XLA_FLAGS"],
            "annotations": {"a/b": "c <$(HOME)> é"},
            "labels": {"team": "a"},
            "runLabels": ["owner"],
            "imagePullSecrets": ["pull"],
            "cache": {"hostPath": "/var/halcyon"},
        },
        "caBundle": {"configMap": "trust", "key": "all.pem"},
        "clusterDomain": "other.local",
        "gpuDirect": {"allowed": True},
        "kueue": {"enabled": True, "priorityBoost": True, "multiKueue": True},
        "log": {"level": "debug", "format": "text"},
        "metrics": {"port": 9999},
        "objectStore": {"s3": {"endpoints": ["http://store:7070"]}},
        "podMemory": {"cpu": "2Gi", "nvidia": "none"},
        "proxy": {"https": "http://proxy:3128", "exclude": [".example"]},
        "stuckPods": {"afterSeconds": 60, "forceDelete": True},
        "watchNodes": True,
        "workers": 3,
    }
    text = environment(render(**values))[VARIABLE].replace("$$(", "$(")
    assert parse_settings(text) == parse_settings(json.dumps(made | values))


def test_the_operator_uses_the_same_ca_bundle_and_proxy(render: Render) -> None:
    objects = render(caBundle={"configMap": "trust", "key": "all.pem"}, proxy={"https": "http://proxy:3128"})
    given = environment(objects)
    assert (given["SSL_CERT_FILE"], given["HTTPS_PROXY"]) == ("/etc/halcyon/ca/ca.crt", "http://proxy:3128")
    assert {"$(KUBERNETES_SERVICE_HOST)", ".svc", ".cluster.local"} <= set(given["NO_PROXY"].split(","))
    assert pod(objects)["volumes"] == [
        {"name": "ca", "configMap": {"name": "trust", "items": [{"key": "all.pem", "path": "ca.crt"}]}}
    ]
    assert not {"SSL_CERT_FILE", "HTTPS_PROXY", "NO_PROXY"} & set(environment(render()))


@pytest.mark.parametrize("user", [{}, {"runAsUser": 7}, {"runAsUser": "namespace"}])
def test_capabilities_that_would_have_no_effect_are_refused(render: Render, user: dict[str, Any]) -> None:
    with pytest.raises(
        DevclusterError,
        match=r"trainerPods\.security\.tpu\.capabilities: Kubernetes gives added capabilities to root alone",
    ):
        render(trainerPods={"security": {"tpu": {"capabilities": ["IPC_LOCK"], **user}}})
    render(trainerPods={"security": {"tpu": {"capabilities": ["IPC_LOCK"], "runAsUser": 0}}})


def test_images_by_tag_or_digest(render: Render) -> None:
    digest = "sha256:" + "0" * 64
    objects = render(
        image={"repository": "r.example/op", "tag": "x"}, trainerImage={"repository": "r.example/tr", "digest": digest}
    )
    assert pod(objects)["containers"][0]["image"] == "r.example/op:x"
    assert settings(objects).trainer_image == f"r.example/tr@{digest}"
    assert pod(render())["containers"][0]["image"] == "registry.example/operator:0.1.0"


def test_metrics_service_selects_the_operator_pod(render: Render) -> None:
    objects = render(metrics={"port": 9999})
    service = only(objects, "Service")
    labels = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["ports"] == [{"name": "metrics", "port": 9999, "targetPort": "metrics"}]
    assert pod(objects)["containers"][0]["ports"] == [{"name": "metrics", "containerPort": 9999}]
    assert settings(objects).metrics.port == 9999
    assert not of_kind(render(metrics={"service": {"enabled": False}}), "Service")


def test_own_service_account(render: Render) -> None:
    objects = render(serviceAccount={"create": False, "name": "mine"})
    assert not of_kind(objects, "ServiceAccount")
    assert pod(objects)["serviceAccountName"] == "mine"
    assert {binding["subjects"][0]["name"] for binding in of_kind(objects, "RoleBinding")} == {"mine"}
    annotated = render(serviceAccount={"annotations": {"iam.gke.io/gcp-service-account": "reader@project"}})
    assert only(annotated, "ServiceAccount")["metadata"]["annotations"] == {
        "iam.gke.io/gcp-service-account": "reader@project"
    }
