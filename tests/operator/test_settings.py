"""The operator's settings: values of the chart, as one JSON document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from halcyon_operator.model.settings import VARIABLE, InvalidSettings, parse_settings
from tests.operator.builders import settings_of
from tests.suite.limits import limit


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"trainerPods": {"security": {"v99": {}}}}, "trainerPods.security: 'v99' is no accelerator; name a type"),
        (
            {"trainerPods": {"security": {"tpu": {"capabilities": ["IPC_LOCK"]}}}},
            "trainerPods.security.tpu: capabilities: Kubernetes gives added capabilities to root only; set runAsUser: "
            "0",
        ),
        (
            {"trainerPods": {"security": {"tpu": {"capabilities": ["CAP_IPC_LOCK"], "runAsUser": 0}}}},
            "write a capability without CAP_",
        ),
        ({"trainerPods": {"security": {"tpu": {"runAsUser": -1}}}}, "trainerPods.security.tpu.runAsUser"),
        ({"trainerPods": {"security": {"tpu": {"hostPID": True}}}}, "trainerPods.security.tpu.hostPID"),
        ({"trainerPods": {"variables": ["*"]}}, "trainerPods.variables: '*' cannot be allowed"),
        ({"trainerPods": {"variables": ["HALCYON_*"]}}, "'HALCYON_*' cannot be allowed"),
        ({"trainerPods": {"variables": ["LD_PRELOAD"]}}, "'LD_PRELOAD' cannot be allowed"),
        (
            {"trainerPods": {"labels": {"halcyon.dev/run": "x"}}},
            "trainerPods.labels: 'halcyon.dev/run' is a label of Kubernetes or Halcyon; take another key",
        ),
        ({"trainerPods": {"labels": {"a b": "x"}}}, "trainerPods.labels: 'a b' is no key of a label"),
        (
            {"trainerPods": {"runLabels": ["kueue.x-k8s.io/queue-name"]}},
            "trainerPods.runLabels: 'kueue.x-k8s.io/queue-name' is a label of Kubernetes",
        ),
        (
            {"trainerPods": {"cache": {"claim": "a", "hostPath": "/b"}}},
            "trainerPods.cache: claim and hostPath cannot be used together",
        ),
        ({"trainerPods": {"cache": {"hostPath": "/a/../b"}}}, "trainerPods.cache.hostPath"),
        ({"trainerPods": {"nothing": 1}}, "trainerPods.nothing"),
        (
            {"trainerPods": {"fabrics": {"h100": {}}}},
            "trainerPods.fabrics: h100 is a kind of accelerator; give the fabric",
        ),
        (
            {"trainerPods": {"fabrics": {"x": {"types": ["h9"]}}}},
            "trainerPods.fabrics: x: there is no accelerator type 'h9'",
        ),
        ({"trainerPods": {"fabrics": {"x": {"needs": ["root"]}}}}, "trainerPods.fabrics.x.needs.0"),
        ({"trainerPods": {"fabrics": {"x": {"hostPath": "/"}}}}, "trainerPods.fabrics.x.hostPath"),
        ({"proxy": {"https": "http://user:password@proxy"}}, "proxy.https"),
        ({"caBundle": {"configMap": "A B"}}, "caBundle.configMap"),
        ({"podMemory": {"cqu": "2Gi"}}, "podMemory: there is no accelerator type 'cqu'; choose one of cpu, "),
        ({"podMemory": {"cpu": "-1"}}, "podMemory.cpu"),
        ({"log": {"level": "loud"}}, "log.level: Input should be 'debug', 'info', 'warning' or 'error'"),
        ({"objectStore": {"s3": {"endpoints": ["store:7070"]}}}, "objectStore.s3.endpoints.0"),
        ({"workers": "8"}, "workers: Input should be a valid integer"),
    ],
)
def test_a_mistake_of_the_owner_is_reported_in_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        settings_of(**values)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_json_is_reported_by_the_name_of_its_variable() -> None:
    with pytest.raises(InvalidSettings, match=f"^{VARIABLE}: Invalid JSON"):
        parse_settings("{")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (None, "trainerImage: Field required; correct the chart's values"),
        (
            {"trainerImage": "t", "metrics": {"port": 80}},
            "metrics.port: Input should be greater than or equal to 1024",
        ),
    ],
)
def test_an_operator_with_invalid_settings_ends_with_one_line(settings: dict[str, Any] | None, sentence: str) -> None:
    given = {} if settings is None else {VARIABLE: json.dumps(settings)}
    command = [sys.executable, "-m", "halcyon_operator"]
    ended = subprocess.run(
        command, env=os.environ | given, capture_output=True, text=True, timeout=limit(60), check=False
    )
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert sentence in json.loads(line)["message"]
