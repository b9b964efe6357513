"""Which namespaces a policy binds to which limits.

tests/apiserver/test_limits.py tests the policies on an API server.
"""

import json
import re
from typing import Any

import pytest
import yaml

from halcyon_devcluster.errors import DevclusterError
from tests.chart.conftest import CHART, Objects, Render, of_kind

pytestmark = pytest.mark.slow  # the first use builds Helm

TEAM: dict[str, Any] = {
    "serviceAccounts": ["trainer"],
    "images": ["registry.example/halcyon/"],
    "roots": ["gs://team/", "s3://team/x/"],
    "endpoints": ["aws", "http://store.team.svc:7070"],
    "sources": ["gs://team/data/", "hf://datasets/team/"],
    "types": ["v5e", "l4"],
    "priorityClasses": ["research"],
}
NAME = "kubernetes.io/metadata.name"


def policies(objects: Objects, resource: str) -> Objects:
    found = of_kind(objects, "ValidatingAdmissionPolicy")
    return [
        policy for policy in found if policy["spec"]["matchConstraints"]["resourceRules"][0]["resources"] == [resource]
    ]


def selectors(objects: Objects, resource: str = "trainingruns") -> dict[str, Any]:
    """Namespace selectors of the bindings of a kind's policies, by the name that policy and binding share."""
    bindings = {
        binding["metadata"]["name"]: binding["spec"] for binding in of_kind(objects, "ValidatingAdmissionPolicyBinding")
    }
    assert (
        len(bindings)
        == len(of_kind(objects, "ValidatingAdmissionPolicyBinding"))
        == len(of_kind(objects, "ValidatingAdmissionPolicy"))
    )
    found = {}
    for policy in policies(objects, resource):
        name = policy["metadata"]["name"]
        assert bindings[name]["policyName"] == name
        assert "paramKind" not in policy["spec"], "an API server does not load a ConfigMap's kind a second time"
        found[name] = bindings[name]["matchResources"]["namespaceSelector"]
    return found


def refusals(policy: dict[str, Any]) -> list[str]:
    return [validation["message"].partition(" ")[0] for validation in policy["spec"]["validations"]]


def test_there_are_no_limits_by_default(render: Render) -> None:
    assert not of_kind(render(), "ValidatingAdmissionPolicy")


def test_each_namespace_has_its_limits_and_all_others_the_default(render: Render) -> None:
    objects = render(
        clusterWide=True, limits={"enabled": True, "default": {"images": []}, "namespaces": {"team": TEAM}}
    )
    team = {"matchLabels": {NAME: "team"}}
    others = {"matchExpressions": [{"key": NAME, "operator": "NotIn", "values": ["team"]}]}
    prefix = "halcyon-halcyon-system"
    assert selectors(objects) == {f"{prefix}-limits-team": team, f"{prefix}-limits": others}
    assert selectors(objects, "trainingrundefaults") == {
        f"{prefix}-defaults-limits-team": team,
        f"{prefix}-defaults-limits": others,
    }
    own, rest = policies(objects, "trainingruns")
    assert refusals(own) == [
        "spec.scheduling.serviceAccountName",
        "spec.image",
        "spec.checkpoint.root",
        "spec.data.cache.root",
        "spec.from.root",
        "spec.checkpoint.endpoint",
        "spec.scheduling.priorityClassName",
        "spec.scheduling.queue.priorityClass",
        "spec.accelerator.type",
        "spec.place.otherwise.accelerator.type",
        "an",
    ]
    assert refusals(rest) == ["spec.image"], "an empty list must be a limit, an absent list none"
    text = json.dumps(own)
    assert all(entry in text for entries in TEAM.values() for entry in entries)
    assert refusals(policies(objects, "trainingrundefaults")[0]) == [
        "spec.scheduling.serviceAccountName",
        "spec.image",
        "spec.checkpoint.rootPrefix",
        "spec.data.cache.root",
        "spec.checkpoint.endpoint",
        "spec.scheduling.priorityClassName",
        "spec.scheduling.queue.priorityClass",
    ]


def test_runs_are_counted_by_a_quota_of_the_namespace(render: Render) -> None:
    objects = render(
        clusterWide=True, limits={"enabled": True, "namespaces": {"team": {"runs": 3}, "other": {"types": []}}}
    )
    (quota,) = of_kind(objects, "ResourceQuota")
    assert quota["metadata"]["namespace"] == "team"
    assert quota["spec"]["hard"] == {"count/trainingruns.halcyon.dev": "3"}
    with pytest.raises(DevclusterError, match=r"limits\.default\.runs: a ResourceQuota is for one namespace"):
        render(clusterWide=True, limits={"enabled": True, "default": {"runs": 3}})


def test_limits_make_no_policy_for_a_kind_that_they_do_not_limit(render: Render) -> None:
    limits = {"enabled": True, "namespaces": {"free": {}, "reader": {"sources": []}}}
    objects = render(clusterWide=True, limits=limits)
    assert list(selectors(objects)) == ["halcyon-halcyon-system-limits-reader"]
    assert selectors(objects, "trainingrundefaults") == {}


def test_the_limits_of_the_guide_render_unchanged(render: Render) -> None:
    (shown,) = re.findall(
        r"```yaml\n(.*?)```", (CHART.parents[1] / "docs" / "guides" / "limits.md").read_text(), re.DOTALL
    )
    assert set(selectors(render(**yaml.safe_load(shown)))) == {
        "halcyon-halcyon-system-limits",
        "halcyon-halcyon-system-limits-team-a",
    }


def test_a_release_limits_only_the_namespaces_that_it_serves(render: Render) -> None:
    limits = {"enabled": True, "default": {"imageDigests": "required"}, "namespaces": {"a": TEAM}}
    assert selectors(render(watchNamespaces=["a", "b"], limits=limits))["halcyon-halcyon-system-limits"] == {
        "matchExpressions": [{"key": NAME, "operator": "In", "values": ["b"]}]
    }
    assert list(selectors(render(watchNamespaces=["a"], limits=limits))) == ["halcyon-halcyon-system-limits-a"]
    assert selectors(render(clusterWide=True, limits=limits | {"namespaces": {}}))["halcyon-halcyon-system-limits"] == {
        "matchExpressions": []
    }


@pytest.mark.parametrize(
    ("limits", "place"),
    [
        ({"images": ["registry.example/halcyon"]}, "/limits/default/images/0"),
        ({"roots": ["gs://team"]}, "/limits/default/roots/0"),
        ({"roots": ["https://team/"]}, "/limits/default/roots/0"),
        ({"endpoints": ["store.team.svc:7070"]}, "/limits/default/endpoints/0"),
        ({"endpoints": ["http://store/"]}, "/limits/default/endpoints/0"),
        ({"sources": ["gs://team"]}, "/limits/default/sources/0"),
        ({"sources": ["/data/"]}, "/limits/default/sources/0"),
        ({"sources": ["gs://team*/"]}, "/limits/default/sources/0"),
        ({"sources": ["https://data.example@"]}, "/limits/default/sources/0"),
        ({"slices": 0}, "/limits/default/slices"),
        ({"types": "v5e"}, "/limits/default/types"),
        ({"gpuDirect": "no"}, "/limits/default/gpuDirect"),
        ({"serviceAccount": ["a"]}, "additional properties 'serviceAccount' not allowed"),
    ],
)
def test_limits_that_would_also_match_similar_names_are_rejected(
    render: Render, limits: dict[str, Any], place: str
) -> None:
    with pytest.raises(DevclusterError, match=place):
        render(limits={"enabled": True, "default": limits})
