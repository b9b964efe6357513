"""Networks of GPUs outside GKE: what the name of one puts into the pods of a run, and which runs it fits."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import yaml

from halcyon_api.hardware import TABLE
from halcyon_api.spec.fabric import built_in_fabrics
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.model.decision import JobSetPlan
from halcyon_operator.objects.jobset import build_jobset
from halcyon_operator.observe.runs import parse_run_view
from tests.examples.documents import REPOSITORY
from tests.operator.builders import at, observed, run, settings_of

KNOWN = {name: known.fabric for name, known in built_in_fabrics().items()}
KINDS = {name: fabric.types[0] if fabric.types else "h200" for name, fabric in KNOWN.items()}
CUSTOM: dict[str, Any] = {
    "types": ["gb200"],
    "nodeSelector": {"rack": "a"},
    "tolerations": [{"key": "dedicated", "value": "training", "effect": "NoSchedule"}],
    "resources": {"example.com/card": "4"},
    "resourceClaims": ["cards", "nvlink"],
    "variables": {"UCX_TLS": "rc"},
    "annotations": {"example.com/network": "fast"},
    "sliceLabel": "nvidia.com/gpu.clique",
}


def jobset(fabric: str | None, kind: str, pods: dict[str, Any] | None = None) -> dict[str, Any]:
    accelerator = {"type": kind, "topology": f"2x{TABLE[kind].largest_host}"} | ({"fabric": fabric} if fabric else {})
    view = parse_run_view(run(accelerator=accelerator, trainer__batchSize=16))
    assert view.spec is not None, view.problems
    return build_jobset(JobSetPlan(view, view.spec, settings_of(trainerPods=pods or {}), 1, 0, 3))


def pod_of(jobset: dict[str, Any]) -> dict[str, Any]:
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", KNOWN)
def test_a_fabric_takes_the_place_of_what_belongs_to_gke(name: str) -> None:
    fabric, made = KNOWN[name], jobset(name, KINDS[name])
    pod = pod_of(made)
    (trainer,) = pod["containers"]
    assert pod["nodeSelector"] == fabric.node_selector
    assert pod["tolerations"] == [{"key": TABLE[KINDS[name]].resource, "operator": "Exists", "effect": "NoSchedule"}]
    limits = {"memory": "128Gi", TABLE[KINDS[name]].resource: "8"} | fabric.resources
    cpus = limits.pop("cpu", "16")
    assert trainer["resources"] == {"requests": {"cpu": cpus} | limits, "limits": limits}
    assert {entry["name"]: entry.get("value") for entry in trainer["env"]}.items() >= fabric.variables.items()
    assert not [word for word in ("gke", "cloud.google.com", "/usr/local/nvidia") if word in json.dumps(made)]


@pytest.mark.parametrize("name", KNOWN)
def test_a_built_in_fabric_gives_no_rights(name: str) -> None:
    with_it, without = (pod_of(jobset(fabric, KINDS[name])) for fabric in (name, None))
    for part in ("securityContext", "volumes", "hostNetwork", "initContainers", "serviceAccountName"):
        assert [volume for volume in with_it["volumes"] if "hostPath" in volume] == []
        assert part == "volumes" or with_it.get(part) == without.get(part)
    assert with_it["containers"][0]["securityContext"] == without["containers"][0]["securityContext"]


def test_the_owner_gives_rights_by_the_name_of_a_fabric() -> None:
    rights = {"oci-h100": {"privileged": True, "runAsUser": 0, "hostNetwork": "always"}, "h100": {}}
    pod = pod_of(jobset("oci-h100", "h100", {"security": rights}))
    assert pod["hostNetwork"]
    assert pod["containers"][0]["securityContext"]["privileged"]
    assert "hostNetwork" not in pod_of(jobset(None, "h100", {"security": rights}))


def test_the_owner_describes_a_fabric_without_code() -> None:
    made = jobset("ours", "gb200", {"fabrics": {"ours": CUSTOM}})
    pod = pod_of(made)
    (trainer,) = pod["containers"]
    template = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert pod["nodeSelector"] == {"rack": "a"}
    assert pod["tolerations"][-1] == {
        "key": "dedicated",
        "operator": "Equal",
        "value": "training",
        "effect": "NoSchedule",
    }
    assert trainer["resources"]["limits"]["example.com/card"] == "4"
    assert trainer["resources"]["claims"] == [{"name": "fabric-0"}, {"name": "fabric-1"}]
    assert [claim["resourceClaimTemplateName"] for claim in pod["resourceClaims"]] == ["cards", "nvlink"]
    assert {"name": "UCX_TLS", "value": "rc"} in trainer["env"]
    assert template["metadata"]["annotations"]["example.com/network"] == "fast"
    assert made["metadata"]["annotations"]["alpha.jobset.sigs.k8s.io/exclusive-topology"] == "nvidia.com/gpu.clique"


def test_the_owners_fabric_replaces_a_built_in_one() -> None:
    pod = pod_of(jobset("eks-p5", "h100", {"fabrics": {"eks-p5": {"nodeSelector": {"ours": "yes"}}}}))
    assert pod["nodeSelector"] == {"ours": "yes"}


@pytest.mark.parametrize(
    ("kind", "fabric", "sentence"),
    [
        ("h100", "eks-p6", "there is no fabric eks-p6; take one of eks-p5, eks-p5e, eks-p5en, eks-p6-b200, aks-h100, "),
        ("h100", "eks-p5e", "eks-p5e is a network of h200, not of h100; set accelerator.type to it, or take another"),
        ("h100", "aks-h100", "pods need IPC_LOCK for aks-h100, which this installation does not give them; have the "),
        (
            "h100",
            "oci-h100",
            "pods need privileged and hostNetwork for oci-h100, which this installation does not give",
        ),
    ],
)
def test_a_run_that_its_fabric_does_not_fit_gets_one_sentence(kind: str, fabric: str, sentence: str) -> None:
    seen = observed(run(accelerator={"type": kind, "topology": "2x8", "fabric": fabric}, trainer__batchSize=16))
    refused = reconcile(seen, at(100))
    assert refused.create == ()
    assert refused.status is not None
    stalled = refused.status.condition("Stalled")
    assert stalled is not None
    assert stalled.reason == "InvalidSpec"
    assert f"spec.accelerator.fabric: {sentence}" in stalled.message
    rights = {"privileged": True, "runAsUser": 0, "hostNetwork": "always"}
    owners = {"fabrics": {"eks-p6": {}, "eks-p5e": {}}, "security": dict.fromkeys(("aks-h100", "oci-h100"), rights)}
    allowed = reconcile(replace(seen, settings=settings_of(trainerPods=owners)), at(100))
    assert allowed.status is not None
    assert allowed.status.attempt == 1


def test_the_guide_names_each_built_in_fabric_and_shows_values_of_the_chart() -> None:
    _, _, section = (REPOSITORY / "docs/guides/gpus.md").read_text().partition("## GPUs outside GKE\n")
    table, _, rest = section.partition("```yaml\n")
    assert set(re.findall(r"(?:fabric: |`)([a-z]+(?:-[a-z0-9-]+)?)[`}]", table)) & set(KNOWN) == set(KNOWN)
    values = yaml.safe_load(rest.partition("```")[0])["trainerPods"]
    assert pod_of(jobset("our-racks", "gb200", values))["nodeSelector"] == {"example.com/pool": "racks"}
