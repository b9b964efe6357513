"""A real API server accepts pods with all settings that an owner may make, and rejects privilege where a namespace
enforces the restricted profile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.apiserver.api import Api, Refused
from tests.operator.test_owned_pods import FAST, TWO_SLICES, V6E, template
from tests.variants import few_of

EVERYTHING = {"annotations": {"example.com/team": "a"}, "imagePullSecrets": ["pull"]}
CONNECTIONS = {"caBundle": {"configMap": "trust"}, "proxy": {"https": "http://proxy:3128"}}
PRIVILEGED = {"pod-security.kubernetes.io/enforce": "privileged"}
SECURITY: dict[str, dict[str, Any]] = {
    "restricted": {},
    "namespace": {"runAsUser": "namespace"},
    "other user": {"runAsUser": 1000},
    "root": {"runAsUser": 0},
    "privileged": {"privileged": True, "runAsUser": 0},
    "capabilities": {"capabilities": ["IPC_LOCK", "SYS_RESOURCE"], "runAsUser": 0},
    "sys_admin": {"capabilities": ["SYS_ADMIN"], "runAsUser": 0},
    "host network": {"hostNetwork": "always"},
}
ENV = [
    {"name": "XLA_FLAGS", "value": "--xla_dump_to=/tmp"},
    {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
]


def pod(policy: dict[str, Any], **spec: Any) -> dict[str, Any]:
    made = template(policy, CONNECTIONS, env=ENV, **spec)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", **made["metadata"]}, "spec": made["spec"]}


@pytest.fixture(scope="module")
def open_namespace(api: Api, make_namespace: Callable[[], str]) -> str:
    """A namespace that admits every pod."""
    name = make_namespace()
    api.patch(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, {"metadata": {"labels": PRIVILEGED}}, ""
    )
    return name


@pytest.mark.parametrize(
    "kept", few_of([{}, {"claim": "programs"}, {"hostPath": "/var/halcyon"}], [{"claim": "programs"}])
)
@pytest.mark.parametrize("security", SECURITY)
@pytest.mark.parametrize("spec", [V6E, TWO_SLICES, FAST], ids=["tpu", "two slices", "fabric"])
def test_the_api_server_accepts_pods_with_all_settings_of_an_owner(
    api: Api, open_namespace: str, spec: dict[str, Any], security: str, kept: dict[str, str]
) -> None:
    made = pod(EVERYTHING | {"security": {"default": SECURITY[security]}, "cache": kept}, **spec)
    try:
        api.create(made, open_namespace, dry_run=True)
    except Refused as refused:
        # This API server accepts no privileged pod at all; it must have no other objection.
        if security != "privileged" or str(refused).count("privileged: Forbidden") != str(refused).count("spec."):
            raise


@pytest.mark.parametrize(
    ("security", "goes"), [(name, name in ("restricted", "namespace", "other user")) for name in SECURITY]
)
def test_the_restricted_profile_admits_only_unprivileged_pods(
    api: Api, namespace: str, security: str, goes: bool
) -> None:
    made = pod(EVERYTHING | {"security": {"default": SECURITY[security]}}, **V6E)
    if goes:
        api.create(made, namespace, dry_run=True)
        return
    with pytest.raises(Refused, match=r"violates PodSecurity|disallowed by cluster policy"):
        api.create(made, namespace, dry_run=True)
