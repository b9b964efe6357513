"""Settings of the operator's owner for the pods of runs. A run cannot set them itself."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_api import names
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.model.decision import ConfigMapPlan, JobSetPlan, ProbePlan
from halcyon_operator.model.settings import FREE_VARIABLES
from halcyon_operator.objects.jobset import build_config_map, build_jobset, build_probe
from halcyon_operator.observe.runs import parse_run_view
from tests.operator.builders import at, observed, run, settings_of

V6E = {"accelerator": {"type": "v6e", "topology": "4x4"}, "trainer__batchSize": 32}
TWO_SLICES = {"accelerator": {"type": "v6e", "topology": "4x4", "slices": 2}, "trainer__batchSize": 32}
FAST = {"accelerator": {"type": "h100", "topology": "2x8", "network": "gpuDirect"}, "trainer__batchSize": 16}


def template(pods: dict[str, Any], more: dict[str, Any] = {}, **spec: Any) -> dict[str, Any]:  # noqa: B006
    """The pod template of a run, with `trainerPods` and more values of the chart."""
    view = parse_run_view(run(**spec))
    assert view.spec is not None, view.problems
    jobset = build_jobset(
        JobSetPlan(view, view.spec, settings_of(gpuDirect={"allowed": True}, trainerPods=pods, **more), 1, 0, 3)
    )
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]


def trainer(template: dict[str, Any]) -> dict[str, Any]:
    (found,) = template["spec"]["containers"]
    return found


def environment(template: dict[str, Any]) -> dict[str, Any]:
    entries = trainer(template)["env"]
    assert len({entry["name"] for entry in entries}) == len(entries), "each variable must be set once"
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}


def test_without_settings_of_the_owner_pods_are_restricted() -> None:
    assert template({}, **V6E) == template(
        {"security": {"gpu": {"privileged": True}, "v5e": {"privileged": True}}}, **V6E
    )
    pod = template({}, **V6E)["spec"]
    assert pod["securityContext"]["runAsUser"] == 65532
    assert not {"hostNetwork", "dnsPolicy", "imagePullSecrets"} & set(pod)


@pytest.mark.parametrize("name", ["v6e", "tpu", "default"])
def test_pods_of_an_accelerator_can_be_privileged(name: str) -> None:
    made = template({"security": {name: {"privileged": True, "runAsUser": 0}}}, **V6E)
    context = trainer(made)["securityContext"]
    assert (context["privileged"], context["allowPrivilegeEscalation"], context["runAsNonRoot"]) == (True, True, False)
    assert "capabilities" not in context
    assert made["spec"]["securityContext"]["runAsUser"] == 0


def test_only_the_most_specific_setting_applies() -> None:
    security = {"v6e": {}, "tpu": {"privileged": True}, "default": {"runAsUser": 7}}
    assert template({"security": security}, **V6E) == template({}, **V6E)
    assert template({"security": security})["spec"]["securityContext"]["runAsUser"] == 7


def test_pods_can_get_capabilities_for_locked_memory() -> None:
    made = template({"security": {"tpu": {"capabilities": ["IPC_LOCK", "SYS_RESOURCE"], "runAsUser": 0}}}, **V6E)
    context = trainer(made)["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK", "SYS_RESOURCE"]}
    assert (context["runAsNonRoot"], context["allowPrivilegeEscalation"]) == (False, False)
    admin = template({"security": {"tpu": {"capabilities": ["SYS_ADMIN"], "runAsUser": 0}}}, **V6E)
    assert trainer(admin)["securityContext"]["allowPrivilegeEscalation"] is True, (
        "the API server rejects any other value"
    )


def test_no_user_id_is_set_if_the_namespace_assigns_user_ids() -> None:
    made = template({"security": {"default": {"runAsUser": "namespace"}}}, **V6E)
    assert made["spec"]["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert "runAsUser" not in trainer(made)["securityContext"]


def test_the_sidecar_of_a_privileged_fabric_is_privileged() -> None:
    made = template({"security": {"h100": {"privileged": True, "runAsUser": 0}}}, **FAST)
    (sidecar,) = made["spec"]["initContainers"]
    assert sidecar["securityContext"]["privileged"] is True
    (restricted,) = template({}, **FAST)["spec"]["initContainers"]
    assert "privileged" not in restricted["securityContext"]


@pytest.mark.parametrize(
    ("wanted", "one", "two"), [("never", False, False), ("multislice", False, True), ("always", True, True)]
)
def test_pods_use_the_host_network_as_configured(wanted: str, one: bool, two: bool) -> None:
    for spec, expected in ((V6E, one), (TWO_SLICES, two)):
        pod = template({"security": {"tpu": {"hostNetwork": wanted}}}, **spec)["spec"]
        assert (pod.get("hostNetwork"), pod.get("dnsPolicy")) == (
            (True, "ClusterFirstWithHostNet") if expected else (None, None)
        )


def test_annotations_pull_secrets_certificates_and_proxy() -> None:
    pods = {
        "annotations": {"example.com/team": "a", "networking.gke.io/default-interface": "evil"},
        "imagePullSecrets": ["one", "two"],
    }
    more = {
        "caBundle": {"configMap": "trust", "key": "all.pem"},
        "proxy": {"https": "http://proxy:3128", "exclude": ["store.example"]},
    }
    made = template(pods, more, **FAST)
    annotations = made["metadata"]["annotations"]
    assert annotations["example.com/team"] == "a"
    assert annotations["networking.gke.io/default-interface"] == "eth0", (
        "annotations for the hardware must override the owner's"
    )
    assert made["spec"]["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    assert {"name": "ca", "configMap": {"name": "trust", "items": [{"key": "all.pem", "path": "ca.crt"}]}} in made[
        "spec"
    ]["volumes"]
    assert {"name": "ca", "mountPath": "/etc/halcyon/ca", "readOnly": True} in trainer(made)["volumeMounts"]
    given = environment(made)
    assert {given[name] for name in ("SSL_CERT_FILE", "TENSORSTORE_CA_BUNDLE", "REQUESTS_CA_BUNDLE")} == {
        "/etc/halcyon/ca/ca.crt"
    }
    assert given["HTTPS_PROXY"] == given["https_proxy"] == "http://proxy:3128"
    assert "HTTP_PROXY" not in given
    excluded = given["no_proxy"].split(",")
    assert {".cluster.local", ".svc", "store.example", "metadata.google.internal"} <= set(excluded)
    assert given["NO_PROXY"] == given["no_proxy"]


@pytest.mark.parametrize(
    ("cache", "volume", "sub_path"),
    [
        ({"claim": "programs"}, {"persistentVolumeClaim": {"claimName": "programs"}}, None),
        ({"hostPath": "/var/halcyon"}, {"hostPath": {"path": "/var/halcyon", "type": "Directory"}}, "default"),
    ],
)
def test_compiled_programs_outlive_the_pod(cache: dict[str, str], volume: dict[str, Any], sub_path: str | None) -> None:
    made = template({"cache": cache})
    (found,) = [one for one in made["spec"]["volumes"] if one["name"] == "cache"]
    assert found == {"name": "cache", **volume}
    (mount,) = [one for one in trainer(made)["volumeMounts"] if one["name"] == "cache"]
    assert mount.get("subPath") == sub_path, "no namespace may write compiled programs for another one"


def test_a_probe_has_the_user_and_the_pull_secrets_but_no_privilege() -> None:
    spec = run(accelerator__slices=1, recovery__elastic={"minSlices": 1, "maxSlices": 2})
    view = parse_run_view(spec)
    assert view.spec is not None
    for user, expected in ((0, 65532), ("namespace", None), (7, 7)):
        security = {"default": {"privileged": True, "runAsUser": user, "hostNetwork": "always"}}
        settings = settings_of(trainerPods={"security": security, "imagePullSecrets": ["one"]})
        probe = build_probe(ProbePlan(view, view.spec, settings, 1))
        pod = probe["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"].get("runAsUser") == expected
        assert "privileged" not in container["securityContext"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert pod["imagePullSecrets"] == [{"name": "one"}]
        assert "hostNetwork" not in pod


ENV = [
    {"name": "XLA_FLAGS", "value": "--xla_dump_to=/tmp/dump $(HALCYON_SAVE_TOKEN)"},
    {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    {"name": "NCCL_DEBUG", "value": "INFO"},
]


def test_a_run_sets_the_variables_that_are_allowed() -> None:
    given = environment(template({}, env=ENV))
    assert given["XLA_FLAGS"] == "--xla_dump_to=/tmp/dump $$(HALCYON_SAVE_TOKEN)", "$(…) must be taken literally"
    assert given["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert given["NCCL_DEBUG"] == "INFO"


LABELLED = {"labels": {"owner": "platform", "team": "none"}, "runLabels": ["team"]}


def test_pods_jobs_and_jobsets_have_the_labels_of_owner_and_author() -> None:
    view = parse_run_view(
        run(scheduling__labels={"team": "language"}, recovery__elastic={"minSlices": 1, "maxSlices": 2})
    )
    assert view.spec is not None
    settings = settings_of(trainerPods=LABELLED)
    made = (
        build_jobset(JobSetPlan(view, view.spec, settings, 1, 0, 0)),
        build_probe(ProbePlan(view, view.spec, settings, 1)),
    )
    for jobset in made:
        (job,) = jobset["spec"]["replicatedJobs"]
        for labelled in (jobset, job["template"], job["template"]["spec"]["template"]):
            labels = labelled["metadata"]["labels"]
            assert (labels["owner"], labels["team"], labels[names.LABEL_RUN]) == ("platform", "language", "demo")


@pytest.mark.parametrize(
    ("labels", "pods", "sentence"),
    [
        ({"team": "a"}, LABELLED, ""),
        (
            {"team": "a"},
            {},
            "spec.scheduling.labels[team]: this installation lets runs set no label; leave it out, or have",
        ),
        (
            {"owner": "me"},
            LABELLED,
            "spec.scheduling.labels[owner]: this installation lets runs set team; leave it out, or have",
        ),
        (
            {"jobset.sigs.k8s.io/jobset-name": "x"},
            LABELLED,
            "'jobset.sigs.k8s.io/jobset-name' is a label of Kubernetes or Halcyon",
        ),
        ({"job-name": "x"}, LABELLED, "'job-name' is a label of Kubernetes or Halcyon"),
    ],
)
def test_a_run_sets_the_labels_that_are_allowed(labels: dict[str, str], pods: dict[str, Any], sentence: str) -> None:
    found = reconcile(observed(run(scheduling__labels=labels), settings=settings_of(trainerPods=pods)), at(1)).status
    assert found is not None
    stalled = found.condition("Stalled")
    assert stalled is not None
    assert (stalled.status == "True", sentence in stalled.message) == (bool(sentence), True)


def test_a_runs_value_replaces_the_one_of_its_hardware() -> None:
    fabric = environment(template({}, **FAST))["NCCL_NSOCKS_PERTHREAD"]
    replaced = environment(template({}, **FAST, env=[{"name": "NCCL_NSOCKS_PERTHREAD", "value": "8"}]))
    assert (fabric, replaced["NCCL_NSOCKS_PERTHREAD"]) == ("4", "8")


def test_the_trainers_document_has_no_variables() -> None:
    """The image may be of a version that does not know the field; the container's environment has the variables."""
    view = parse_run_view(run(env=ENV))
    assert view.spec is not None
    document = build_config_map(ConfigMapPlan(view, 1, view.spec))["data"][names.RUN_DOCUMENT_KEY]
    assert "env" not in document
    assert "XLA_FLAGS" not in document


@pytest.mark.parametrize(
    ("name", "allowed", "goes"),
    [
        ("NCCL_ALGO", FREE_VARIABLES, True),
        ("XLA_FLAGS", FREE_VARIABLES, True),
        ("XLA_FLAGS_2", FREE_VARIABLES, False),
        ("NCCL_NET_PLUGIN", FREE_VARIABLES, False),
        ("NCCL_TUNER_PLUGIN", FREE_VARIABLES, False),
        ("NCCL_CONF_FILE", FREE_VARIABLES, False),
        ("NCCL_NET_PLUGIN", ("NCCL_NET_PLUGIN",), True),
        ("WANDB_MODE", FREE_VARIABLES, False),
        ("WANDB_MODE", ("WANDB_*",), True),
        ("XLA_FLAGS", (), False),
    ],
)
def test_other_variables_need_the_permission_of_the_operators_owner(
    name: str, allowed: tuple[str, ...], goes: bool
) -> None:
    seen = observed(run(env=[{"name": name, "value": "1"}]), settings=settings_of(trainerPods={"variables": allowed}))
    decision = reconcile(seen, at(0))
    assert decision.status is not None
    stalled = decision.status.condition("Stalled")
    assert stalled is not None
    assert (decision.status.attempt == 1) == goes
    if not goes:
        assert stalled.reason == "InvalidSpec"
        assert f"spec.env[{name}]" in stalled.message
        assert "trainerPods.variables in the chart" in stalled.message
