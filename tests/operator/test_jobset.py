"""The objects of an attempt: whole, against files that a person has read, and rule by rule where a rule is a promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api import names
from halcyon_api.environment import parse_environment
from halcyon_api.exit_codes import FATAL_CODES, ExitCode
from halcyon_api.training_run import parse_run
from halcyon_operator.jobset import build_config_map, build_jobset
from halcyon_operator.runs import parse_run_view
from halcyon_operator.views import RunView
from tests.operator.builders import PLATFORM, run

GOLDEN = Path(__file__).parent / "golden"

RUNS: dict[str, dict[str, Any]] = {
    "cpu-2x1": run(accelerator__topology="2x1", accelerator__slices=1, accelerator__hostResources={"cpu": "500m", "memory": "1Gi"}),
    "v5e-4x4": run(
        accelerator={"type": "v5e", "topology": "4x4"},
        trainer__batchSize=16,
        checkpoint={"root": "gs://bucket/demo"},
        scheduling={"serviceAccountName": "trainer", "priorityClassName": "high"},
    ),
    "v6e-4x8-two-slices-spot": run(
        accelerator={"type": "v6e", "topology": "4x8", "slices": 2, "provisioning": "spot"},
        trainer__batchSize=64,
        checkpoint={"root": "s3://bucket/demo", "endpoint": "http://store:7070", "credentialsSecret": {"name": "store"}},
    ),
    "cpu-on-a-volume": run(
        checkpoint={"root": "file:///checkpoints/demo", "volumeClaim": "checkpoints"},
        data__volume={"claim": "text", "mountPath": "/text"},
        image="other:2",
    ),
}


def view(name: str) -> RunView:
    found = parse_run_view(RUNS[name])
    assert found.spec is not None, found.problems
    return found


def built(name: str) -> dict[str, Any]:
    found = view(name)
    assert found.spec is not None
    return build_jobset(found, found.spec, PLATFORM, 3, 120, 2)


@pytest.mark.parametrize("name", RUNS)
def test_objects_are_those_that_were_read(name: str, pytestconfig: pytest.Config) -> None:
    path = GOLDEN / f"{name}.yaml"
    text = yaml.safe_dump_all([build_config_map(view(name), 3), built(name)], sort_keys=False, width=130)
    if pytestconfig.getoption("--write-golden"):
        path.write_text(text)
    assert text == path.read_text(), "run pytest tests/operator/test_jobset.py --write-golden and read the difference"


def pod_of(jobset: dict[str, Any]) -> dict[str, Any]:
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", RUNS)
def test_restricted_pod_security_holds(name: str) -> None:
    pod = pod_of(built(name))
    container = pod["containers"][0]
    security = container["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["readOnlyRootFilesystem"] is True
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert all(set(volume) - {"name"} <= {"configMap", "emptyDir", "persistentVolumeClaim"} for volume in pod["volumes"])


@pytest.mark.parametrize("name", RUNS)
def test_the_trainer_can_read_what_is_injected(name: str) -> None:
    jobset = built(name)
    literals = {variable["name"]: variable["value"] for variable in pod_of(jobset)["containers"][0]["env"] if "value" in variable}
    from_pod = {
        variable["name"]: variable["valueFrom"]["fieldRef"]["fieldPath"]
        for variable in pod_of(jobset)["containers"][0]["env"]
        if "fieldRef" in variable.get("valueFrom", {})
    }
    assert from_pod["HALCYON_RESTART"] == f"metadata.annotations['{names.JOBSET_RESTART}']"
    environment = parse_environment(literals | {"HALCYON_JOB_INDEX": "0", "HALCYON_COMPLETION_INDEX": "0", "HALCYON_RESTART": "4"})
    assert environment is not None
    assert (environment.attempt, environment.restart, environment.resume_step) == (3, 4, 120)
    job = jobset["spec"]["replicatedJobs"][0]
    assert environment.process_count == job["replicas"] * job["template"]["spec"]["parallelism"]
    subdomain = jobset["spec"]["network"]["subdomain"]
    assert environment.coordinator == f"demo-3-s-0-0.{subdomain}.default.svc.cluster.local:8476"
    document = yaml.safe_load(build_config_map(view(name), 3)["data"]["run.yaml"])
    assert parse_run(document).spec == view(name).spec


def test_rules_stand_in_the_order_that_judges_right() -> None:
    job = built("cpu-2x1")["spec"]["replicatedJobs"][0]["template"]["spec"]
    first, second, third = job["podFailurePolicy"]["rules"]
    assert first["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert second["onExitCodes"]["values"] == [ExitCode.PREEMPTED]
    assert third["onExitCodes"]["values"] == sorted(FATAL_CODES)
    assert (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) == (0, "Never")
    policy = built("cpu-2x1")["spec"]["failurePolicy"]
    assert [rule["action"] for rule in policy["rules"]] == ["RestartJobSetAndIgnoreMaxRestarts"] * 2 + ["FailJobSet"]
    assert "onJobFailureMessagePatterns" not in policy["rules"][2], "the last rule takes what the others leave"
    assert (policy["maxRestarts"], policy["restartStrategy"]) == (2, "BlockingRecreate")


def test_names_of_the_longest_run_fit() -> None:
    name = "a" * names.MAX_RUN_NAME_LENGTH
    found = parse_run_view(run(name=name))
    assert found.spec is not None
    jobset = build_jobset(found, found.spec, PLATFORM, names.MAX_ATTEMPT, 0, 0)
    coordinator = f"{jobset['metadata']['name']}-s-0-0.{jobset['spec']['network']['subdomain']}"
    assert len(coordinator) <= 63
    assert len(f"{jobset['metadata']['name']}-s-255-9999-abcde") <= 63


def test_slices_know_each_other() -> None:
    env = {variable["name"]: variable for variable in pod_of(built("v6e-4x8-two-slices-spot"))["containers"][0]["env"]}
    assert env["MEGASCALE_NUM_SLICES"]["value"] == "2"
    assert env["MEGASCALE_SLICE_ID"]["valueFrom"]["fieldRef"]["fieldPath"] == f"metadata.annotations['{names.JOBSET_JOB_INDEX}']"
    hosts = env["TPU_WORKER_HOSTNAMES"]["value"].split(",")
    assert len(hosts) == 8
    assert hosts[1].startswith("demo-3-s-$(HALCYON_JOB_INDEX)-1.")
    order = list(env)
    assert order.index("HALCYON_JOB_INDEX") < order.index("TPU_WORKER_HOSTNAMES"), "a reference works backwards only"
    assert not any(name.startswith(("MEGASCALE", "TPU_")) for name in (v["name"] for v in pod_of(built("v5e-4x4"))["containers"][0]["env"]))
