"""Which namespaces the policy binds to which limits. What the API server makes of it is tested in the cluster suite."""

import re
from typing import Any

import pytest
import yaml

from halcyon_devcluster.errors import DevclusterError
from tests.chart.conftest import CHART, Objects, Render, of_kind

pytestmark = pytest.mark.slow  # Helm is built where it is not there yet

TEAM: dict[str, Any] = {"serviceAccounts": ["trainer"], "images": ["registry.example/halcyon/"], "roots": ["gs://team/", "s3://team/x/"]}
NAME = "kubernetes.io/metadata.name"


def selectors(objects: Objects) -> dict[str, Any]:
    """Selectors of the bindings by the name of their parameters."""
    of_runs, of_defaults = of_kind(objects, "ValidatingAdmissionPolicy")
    bindings = of_kind(objects, "ValidatingAdmissionPolicyBinding")
    assert len({binding["metadata"]["name"] for binding in bindings}) == len(bindings)
    parameters = {found["metadata"]["name"] for found in of_kind(objects, "ConfigMap")}
    found: list[dict[str, Any]] = []
    for policy in (of_runs, of_defaults):
        own = [binding["spec"] for binding in bindings if binding["spec"]["policyName"] == policy["metadata"]["name"]]
        assert all(binding["paramRef"]["parameterNotFoundAction"] == "Deny" for binding in own)
        assert {binding["paramRef"]["name"] for binding in own} == parameters
        found.append({binding["paramRef"]["name"]: binding["matchResources"]["namespaceSelector"] for binding in own})
    assert found[0] == found[1], "defaults are limited where runs are"
    assert [policy["spec"]["matchConstraints"]["resourceRules"][0]["resources"] for policy in (of_runs, of_defaults)] == [
        ["trainingruns"],
        ["trainingrundefaults"],
    ]
    return found[0]


def test_there_are_no_limits_by_default(render: Render) -> None:
    assert not of_kind(render(), "ValidatingAdmissionPolicy")


def test_each_namespace_has_its_limits_and_all_others_the_default(render: Render) -> None:
    objects = render(clusterWide=True, limits={"enabled": True, "default": {"images": []}, "namespaces": {"team": TEAM}})
    assert selectors(objects) == {
        "halcyon-limits-team": {"matchLabels": {NAME: "team"}},
        "halcyon-limits": {"matchExpressions": [{"key": NAME, "operator": "NotIn", "values": ["team"]}]},
    }
    data = {found["metadata"]["name"]: found["data"] for found in of_kind(objects, "ConfigMap")}
    assert data["halcyon-limits-team"] == {
        "for": "team",
        "serviceAccounts": "trainer",
        "images": "registry.example/halcyon/",
        "roots": "gs://team/\ns3://team/x/",
    }
    assert data["halcyon-limits"] == {"for": "all other namespaces", "images": ""}, "an empty list is a limit, an absent one is none"
    assert {found["metadata"]["namespace"] for found in of_kind(objects, "ConfigMap")} == {"halcyon-system"}


def test_the_guides_limits_are_taken(render: Render) -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", (CHART.parents[1] / "docs" / "guides" / "limits.md").read_text(), re.DOTALL)
    assert set(selectors(render(clusterWide=True, **yaml.safe_load(shown)))) == {"halcyon-limits", "halcyon-limits-team-a"}


def test_a_release_limits_only_the_namespaces_that_it_serves(render: Render) -> None:
    limits = {"enabled": True, "default": {"imageDigests": "required"}, "namespaces": {"a": TEAM}}
    assert selectors(render(watchNamespaces=["a", "b"], limits=limits))["halcyon-limits"] == {
        "matchExpressions": [{"key": NAME, "operator": "In", "values": ["b"]}]
    }
    assert list(selectors(render(watchNamespaces=["a"], limits=limits))) == ["halcyon-limits-a"]
    assert selectors(render(clusterWide=True, limits=limits | {"namespaces": {}}))["halcyon-limits"] == {"matchExpressions": []}


@pytest.mark.parametrize(
    ("limits", "place"),
    [
        ({"images": ["registry.example/halcyon"]}, "/limits/default/images/0"),
        ({"roots": ["gs://team"]}, "/limits/default/roots/0"),
        ({"roots": ["https://team/"]}, "/limits/default/roots/0"),
        ({"serviceAccount": ["a"]}, "additional properties 'serviceAccount' not allowed"),
    ],
)
def test_limits_that_would_let_a_neighbour_in_are_refused(render: Render, limits: dict[str, Any], place: str) -> None:
    with pytest.raises(DevclusterError, match=place):
        render(limits={"enabled": True, "default": limits})
