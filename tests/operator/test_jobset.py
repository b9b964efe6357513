"""The objects of an attempt: complete, compared with golden files that a person has reviewed, and single rules where a rule is a
promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api import names
from halcyon_api.environment import parse_environment
from halcyon_api.exit_codes import FATAL_CODES, ExitCode
from halcyon_api.hardware import TABLE
from halcyon_api.mesh import pinned
from halcyon_api.training_run import parse_run
from halcyon_operator.model.views import RunView
from halcyon_operator.objects.jobset import build_config_map, build_jobset
from halcyon_operator.observe.runs import parse_run_view
from tests.operator.builders import SETTINGS, run

GOLDEN = Path(__file__).parent / "golden"

RUNS: dict[str, dict[str, Any]] = {
    "cpu-2x1": run(
        accelerator__topology="2x1",
        accelerator__slices=1,
        accelerator__hostResources={"cpu": "500m", "memory": "1Gi", "ephemeralStorage": "2Gi"},
    ),
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
    "v4-4x4x8": run(accelerator={"type": "v4", "topology": "4x4x8"}, trainer__batchSize=128),
    "v5p-2x4x4-two-slices-reservation": run(
        accelerator={"type": "v5p", "topology": "2x4x4", "slices": 2, "provisioning": "reservation", "reservation": "ours"},
        trainer__batchSize=64,
    ),
    "v7x-2x2x2-two-slices": run(accelerator={"type": "v7x", "topology": "2x2x2", "slices": 2}, trainer__batchSize=32),
    "l4-1x4-flex-start": run(accelerator={"type": "l4", "topology": "1x4", "provisioning": "flexStart"}),
    "v6e-2x2-flex-start": run(accelerator={"type": "v6e", "topology": "2x2", "provisioning": "flexStart"}),
    "h100-1x8-spot": run(accelerator={"type": "h100", "topology": "1x8", "provisioning": "spot"}),
    "a100-80gb-1x2": run(accelerator={"type": "a100-80gb", "topology": "1x2"}),
    "h100-1x2-spot": run(accelerator={"type": "h100", "topology": "1x2", "provisioning": "spot"}),
    "gb300-2x4": run(accelerator={"type": "gb300", "topology": "2x4", "computeDomain": "rack"}),
    "b300-2x8": run(accelerator={"type": "b300", "topology": "2x8"}, trainer__batchSize=16),
    "b200-2x8-reservation": run(
        accelerator={"type": "b200", "topology": "2x8", "provisioning": "reservation", "reservation": "ours"}, trainer__batchSize=16
    ),
    "h200-2x8-shared-reservation": run(
        accelerator={"type": "h200", "topology": "2x8", "provisioning": "reservation", "reservation": "ours"}
        | {"reservationProject": "others-project"},
        trainer__batchSize=16,
    ),
    "a100-2x8-queued": run(
        accelerator={"type": "a100", "topology": "2x8", "provisioning": "queued"},
        trainer__batchSize=16,
        scheduling={"queue": {"name": "research"}},
    ),
    "h100-2x8": run(accelerator={"type": "h100", "topology": "2x8"}, trainer__batchSize=16),
    **{
        f"{name}-2x8-gpu-direct": run(accelerator={"type": name, "topology": "2x8", "network": "gpuDirect"}, trainer__batchSize=16)
        for name in ("h100", "h100-mega", "h200", "b200")
    },
    "gb200-2x4-gpu-direct": run(
        accelerator={"type": "gb200", "topology": "2x4", "network": "gpuDirect", "computeDomain": "nvlink"}, trainer__batchSize=8
    ),
    "nvidia-2x4-elsewhere": run(
        accelerator={"type": "nvidia", "topology": "2x4"},
        scheduling={
            "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"},
            "tolerations": [{"key": "dedicated", "value": "training", "effect": "NoSchedule"}, {"key": "slow"}],
        },
    ),
    "h100-2x8-two-slices-in-a-queue": run(
        accelerator={"type": "h100", "topology": "2x8", "slices": 2, "provisioning": "queued"},
        trainer__batchSize=32,
        scheduling={
            "queue": {
                "name": "research",
                "priorityClass": "urgent",
                "topology": {"preferred": "cloud.google.com/gce-topology-block", "slice": "cloud.google.com/gce-topology-subblock"},
                "maxRunDurationSeconds": 86_400,
            }
        },
    ),
    "v5e-4x4-two-slices-in-a-queue": run(
        accelerator={"type": "v5e", "topology": "4x4", "slices": 2}, trainer__batchSize=32, scheduling={"queue": {"name": "research"}}
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
    return build_jobset(found, found.spec, SETTINGS, 3, 120, 2)


@pytest.mark.parametrize("name", RUNS)
def test_objects_match_the_reviewed_golden_files(name: str, pytestconfig: pytest.Config) -> None:
    path = GOLDEN / f"{name}.yaml"
    text = yaml.safe_dump_all([build_config_map(view(name), 3), built(name)], sort_keys=False, width=130)
    if pytestconfig.getoption("--write-golden"):
        path.write_text(text)
    assert text == path.read_text(), "run pytest tests/operator/test_jobset.py --write-golden and read the difference"


def pod_of(jobset: dict[str, Any]) -> dict[str, Any]:
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_every_hardware_row_has_a_reviewed_golden_file() -> None:
    assert {document["spec"]["accelerator"]["type"] for document in RUNS.values()} == set(TABLE)
    fast = {document["spec"]["accelerator"]["type"] for document in RUNS.values() if document["spec"]["accelerator"].get("network")}
    assert fast == {row.name for row in TABLE.values() if row.fabric is not None}


GPU_DIRECT = [name for name in RUNS if name.endswith("gpu-direct")]


@pytest.mark.parametrize("name", [name for name in RUNS if name not in GPU_DIRECT])
def test_pods_share_nothing_of_the_node_unless_requested(name: str) -> None:
    pod = pod_of(built(name))
    assert "initContainers" not in pod
    assert all(set(volume) - {"name"} <= {"configMap", "emptyDir", "persistentVolumeClaim"} for volume in pod["volumes"])


@pytest.mark.parametrize("name", GPU_DIRECT)
def test_a_fabric_gets_exactly_the_settings_of_its_row(name: str) -> None:
    accelerator = RUNS[name]["spec"]["accelerator"]
    fabric = TABLE[accelerator["type"]].fabric
    assert fabric is not None
    pod = pod_of(built(name))
    shared = {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    sidecar = fabric.sidecar
    assert shared == {path.path for path in (*fabric.host_paths, *(sidecar.host_paths if sidecar is not None else ()))}
    mounted = {mount["name"] for container in (*pod["containers"], *pod.get("initContainers", ())) for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    for container in pod.get("initContainers", ()):
        assert container["restartPolicy"] == "Always", "a sidecar must end with the trainer"
        assert "privileged" not in container["securityContext"]
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert [container["name"] for container in pod.get("initContainers", ())] == ([sidecar.name] if sidecar is not None else [])


@pytest.mark.parametrize("name", RUNS)
def test_each_host_requests_its_devices_once(name: str) -> None:
    accelerator = view(name).spec.accelerator
    shape = accelerator.row.shape(accelerator.topology)
    limits = pod_of(built(name))["containers"][0].get("resources", {}).get("limits", {})
    assert limits.get(accelerator.row.resource or "none") == (str(shape.chips_per_host) if accelerator.row.resource else None)
    environment = [variable["name"] for variable in pod_of(built(name))["containers"][0]["env"]]
    assert len(environment) == len(set(environment)), "no variable may be set twice, or its value is accidental"


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


@pytest.mark.parametrize("name", RUNS)
def test_the_trainer_can_parse_the_injected_environment(name: str) -> None:
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
    assert pinned(parse_run(document).spec) == view(name).spec


def test_failure_policy_rules_are_in_the_right_order() -> None:
    job = built("cpu-2x1")["spec"]["replicatedJobs"][0]["template"]["spec"]
    first, second, third = job["podFailurePolicy"]["rules"]
    assert first["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert second["onExitCodes"]["values"] == [ExitCode.PREEMPTED]
    assert third["onExitCodes"]["values"] == sorted(FATAL_CODES)
    assert (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) == (0, "Never")
    policy = built("cpu-2x1")["spec"]["failurePolicy"]
    assert [rule["action"] for rule in policy["rules"]] == ["RestartJobSetAndIgnoreMaxRestarts"] * 2 + ["FailJobSet"]
    assert "onJobFailureMessagePatterns" not in policy["rules"][2], "the last rule must match all that the others do not"
    assert (policy["maxRestarts"], policy["restartStrategy"]) == (2, "BlockingRecreate")


def test_names_of_the_longest_run_fit() -> None:
    name = "a" * names.MAX_RUN_NAME_LENGTH
    found = parse_run_view(run(name=name))
    assert found.spec is not None
    jobset = build_jobset(found, found.spec, SETTINGS, names.MAX_ATTEMPT, 0, 0)
    coordinator = f"{jobset['metadata']['name']}-s-0-0.{jobset['spec']['network']['subdomain']}"
    assert len(coordinator) <= 63
    assert len(f"{jobset['metadata']['name']}-s-255-9999-abcde") <= 63


def test_pods_of_several_slices_get_the_variables_to_find_each_other() -> None:
    env = {variable["name"]: variable for variable in pod_of(built("v6e-4x8-two-slices-spot"))["containers"][0]["env"]}
    assert env["MEGASCALE_NUM_SLICES"]["value"] == "2"
    assert env["MEGASCALE_SLICE_ID"]["valueFrom"]["fieldRef"]["fieldPath"] == f"metadata.annotations['{names.JOBSET_JOB_INDEX}']"
    hosts = env["TPU_WORKER_HOSTNAMES"]["value"].split(",")
    assert len(hosts) == 8
    assert hosts[1].startswith("demo-3-s-$(HALCYON_JOB_INDEX)-1.")
    order = list(env)
    assert order.index("HALCYON_JOB_INDEX") < order.index("TPU_WORKER_HOSTNAMES"), "a variable can only refer to earlier ones"
    assert not any(name.startswith(("MEGASCALE", "TPU_")) for name in (v["name"] for v in pod_of(built("v5e-4x4"))["containers"][0]["env"]))


def test_pods_on_ironwood_get_addresses_with_ports() -> None:
    env = {variable["name"]: variable for variable in pod_of(built("v7x-2x2x2-two-slices"))["containers"][0]["env"]}
    assert "TPU_WORKER_HOSTNAMES" not in env
    addresses = env["TPU_PROCESS_ADDRESSES"]["value"].split(",")
    assert [address.rpartition(":")[2] for address in addresses] == [env["TPU_PROCESS_PORT"]["value"]] * 2
    assert env["HALCYON_DEVICES_PER_HOST"]["value"] == "8", "each chip must have two JAX devices"


def test_the_hosts_of_a_slice_come_from_one_node_pool() -> None:
    annotation = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    exclusive = {name for name in RUNS if annotation in built(name)["metadata"].get("annotations", {})}
    assert exclusive == {name for name in RUNS if name.startswith(("v", "gb")) and name != "v6e-2x2-flex-start"}
    assert annotation not in build_jobset_of({"type": "v5e", "topology": "2x2"})["metadata"].get("annotations", {})


def build_jobset_of(accelerator: dict[str, Any]) -> dict[str, Any]:
    found = parse_run_view(run(accelerator=accelerator))
    assert found.spec is not None, found.problems
    return build_jobset(found, found.spec, SETTINGS, 1, 0, 0)


@pytest.mark.parametrize(
    ("checkpoint", "export", "allowed"),
    [
        ({"root": "file:///mnt/runs/demo", "volumeClaim": "runs"}, {}, True),
        ({"root": "file:///mnt/runs/demo", "volumeClaim": "runs"}, {"root": "file:///mnt/runs/demo/models"}, True),
        ({"root": "file:///mnt/runs/demo", "volumeClaim": "runs"}, {"root": "file:///mnt/runs/demolished"}, False),
        ({"root": "s3://bucket/demo"}, {"root": "file:///models"}, False),
        ({"root": "s3://bucket/demo"}, {"root": "gs://bucket/models"}, True),
        ({"root": "s3://bucket/demo"}, {}, True),
    ],
)
def test_exports_into_files_of_a_pod_are_rejected(checkpoint: dict[str, Any], export: dict[str, Any], allowed: bool) -> None:
    problems = parse_run_view(run(checkpoint=checkpoint, export={"everySteps": 10, **export})).problems
    assert [problem.split(":")[0] for problem in problems] == ([] if allowed else ["spec.export.root"])
