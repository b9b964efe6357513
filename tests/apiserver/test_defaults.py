"""Which defaults the API server accepts and rejects, and which fields of a run it leaves to the defaults."""

from __future__ import annotations

from typing import Any

import pytest

from tests.apiserver.api import Api, Refused

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"checkpoint": {"rootPrefix": "https://bucket"}}, "spec.checkpoint.rootPrefix"),
    ({"checkpoint": {"rootPrefix": "s3://bucket/../other"}}, "rootPrefix must not contain"),
    (
        {"checkpoint": {"rootPrefix": "gs://bucket", "endpoint": "http://a:1"}},
        "endpoint belongs to an s3:// or az:// rootPrefix",
    ),
    ({"checkpoint": {"root": "gs://bucket/a"}}, 'unknown field "spec.checkpoint.root"'),
    ({"trainer": {"steps": 1}}, 'unknown field "spec.trainer"'),
    ({"recovery": {"maxRestarts": -1}}, "spec.recovery.maxRestarts"),
    ({"checkpoint": {"save": {"auto": "yes"}}}, "spec.checkpoint.save.auto"),
    ({"image": "-"}, "spec.image"),
    ({"env": [{"name": "XLA_FLAGS", "value": "a"}, {"name": "XLA_FLAGS", "value": "b"}]}, "spec.env[1]"),
    ({"env": [{"name": "HF_TOKEN", "value": "a"}]}, "spec.env[0].value"),
    ({"env": [{"name": "XLA_FLAGS"}]}, "spec.env[0]"),
]
TAKEN: list[dict[str, Any]] = [
    {"checkpoint": {"rootPrefix": "gs://bucket"}},
    {
        "checkpoint": {"rootPrefix": "s3://nowhere/runs", "endpoint": "http://object-store.invalid:7070"},
        "recovery": {"maxRestarts": 2, "gracePeriodSeconds": 5},
        "scheduling": {"serviceAccountName": "trainer"},
        "telemetry": {"statusIntervalSeconds": 1},
        "image": "a/b:1",
        "ttlSecondsAfterFinished": 3,
    },
    {
        "env": [
            {"name": "XLA_FLAGS", "value": "--xla_dump_to="},
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
        ]
    },
]


def defaults(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRunDefaults",
        "metadata": {"name": "default"},
        "spec": spec,
    }


@pytest.mark.parametrize(("spec", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_the_api_server_checks_defaults_like_runs(
    api: Api, shared_namespace: str, spec: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Refused) as refused:
        api.create(defaults(spec), shared_namespace, dry_run=True)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("spec", TAKEN, ids="-".join)
def test_valid_defaults_are_accepted(api: Api, shared_namespace: str, spec: dict[str, Any]) -> None:
    api.create(defaults(spec), shared_namespace, dry_run=True)
