"""The objects of an attempt: complete, compared with golden files that a person has reviewed, and single rules where a
rule is a promise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api import names
from halcyon_api.ends import FATAL_CODES, ExitCode
from halcyon_api.environment import parse_environment
from halcyon_api.hardware import TABLE
from halcyon_api.mesh import pinned
from halcyon_api.reading import parse_run
from halcyon_operator.model.decision import ConfigMapPlan, JobSetPlan
from halcyon_operator.objects.jobset import build_config_map, build_jobset
from halcyon_operator.observe.jobsets import parse_jobset
from halcyon_operator.observe.runs import parse_run_view
from tests.operator.builders import SETTINGS, run
from tests.operator.differences import difference
from tests.operator.hardware_rows import RUNS, built, view

GOLDEN = Path(__file__).parent / "golden"

BASE = "h100-2x8"
"""The row whose objects are kept in full; of the other rows the difference from it is kept."""
POD = "JobSet.spec.replicatedJobs[s].template.spec.template."


def documents(name: str) -> list[dict[str, Any]]:
    return [build_config_map(ConfigMapPlan(view(name), 3, view(name).spec)), built(name)]


def to_compare(name: str) -> dict[str, Any]:
    """The objects of a row by their kind, with the run document as a document, not as text."""
    config_map, jobset = documents(name)
    return {
        "ConfigMap": {**config_map, "data": {key: yaml.safe_load(text) for key, text in config_map["data"].items()}},
        "JobSet": jobset,
    }


def text_of(name: str) -> str:
    if name == BASE:
        return yaml.safe_dump_all(documents(name), sort_keys=False, width=130)
    text = yaml.safe_dump(difference(to_compare(BASE), to_compare(name)), sort_keys=False, width=130)
    return f"# How the objects of this row differ from those of {BASE}.yaml.\n{text.replace(POD, 'pod.')}"


@pytest.mark.parametrize("name", RUNS)
def test_objects_match_the_reviewed_golden_files(name: str, pytestconfig: pytest.Config) -> None:
    path = GOLDEN / f"{name}.yaml"
    text = text_of(name)
    if pytestconfig.getoption("--write-golden"):
        path.write_text(text)
    assert text == path.read_text(), "run pytest tests/operator/test_jobset.py --write-golden and read the difference"


def pod_of(jobset: dict[str, Any]) -> dict[str, Any]:
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_every_hardware_row_has_a_reviewed_golden_file() -> None:
    assert {document["spec"]["accelerator"]["type"] for document in RUNS.values()} == set(TABLE)
    fast = {
        document["spec"]["accelerator"]["type"]
        for document in RUNS.values()
        if document["spec"]["accelerator"].get("network")
    }
    assert fast == {row.name for row in TABLE.values() if row.fabric is not None}


GPU_DIRECT = [name for name in RUNS if name.endswith("gpu-direct")]


@pytest.mark.parametrize("name", [name for name in RUNS if name not in GPU_DIRECT])
def test_pods_share_nothing_of_the_node_unless_requested(name: str) -> None:
    pod = pod_of(built(name))
    assert "initContainers" not in pod
    assert all(
        set(volume) - {"name"} <= {"configMap", "emptyDir", "persistentVolumeClaim"} for volume in pod["volumes"]
    )


@pytest.mark.parametrize("name", GPU_DIRECT)
def test_a_fabric_gets_exactly_the_settings_of_its_row(name: str) -> None:
    accelerator = RUNS[name]["spec"]["accelerator"]
    fabric = TABLE[accelerator["type"]].fabric
    assert fabric is not None
    pod = pod_of(built(name))
    shared = {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    sidecar = fabric.sidecar
    assert shared == {path.path for path in (*fabric.host_paths, *(sidecar.host_paths if sidecar is not None else ()))}
    mounted = {
        mount["name"]
        for container in (*pod["containers"], *pod.get("initContainers", ()))
        for mount in container["volumeMounts"]
    }
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    for container in pod.get("initContainers", ()):
        assert container["restartPolicy"] == "Always", "a sidecar must end with the trainer"
        assert "privileged" not in container["securityContext"]
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert [container["name"] for container in pod.get("initContainers", ())] == (
        [sidecar.name] if sidecar is not None else []
    )


@pytest.mark.parametrize("name", RUNS)
def test_each_host_requests_its_devices_once(name: str) -> None:
    accelerator = view(name).spec.accelerator
    shape = accelerator.row.shape(accelerator.topology)
    limits = pod_of(built(name))["containers"][0].get("resources", {}).get("limits", {})
    assert limits.get(accelerator.row.resource or "none") == (
        str(shape.chips_per_host) if accelerator.row.resource else None
    )
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
    literals = {
        variable["name"]: variable["value"]
        for variable in pod_of(jobset)["containers"][0]["env"]
        if "value" in variable
    }
    from_pod = {
        variable["name"]: variable["valueFrom"]["fieldRef"]["fieldPath"]
        for variable in pod_of(jobset)["containers"][0]["env"]
        if "fieldRef" in variable.get("valueFrom", {})
    }
    assert from_pod["HALCYON_RESTART"] == f"metadata.annotations['{names.JOBSET_RESTART}']"
    environment = parse_environment(
        literals | {"HALCYON_JOB_INDEX": "0", "HALCYON_COMPLETION_INDEX": "0", "HALCYON_RESTART": "4"}
    )
    assert environment is not None
    assert (environment.attempt, environment.restart, environment.resume_step) == (3, 4, 120)
    job = jobset["spec"]["replicatedJobs"][0]
    assert environment.process_count == job["replicas"] * job["template"]["spec"]["parallelism"]
    subdomain = jobset["spec"]["network"]["subdomain"]
    assert environment.coordinator == f"demo-3-s-0-0.{subdomain}.default.svc.cluster.local:8476"
    document = yaml.safe_load(build_config_map(ConfigMapPlan(view(name), 3, view(name).spec))["data"]["run.yaml"])
    assert pinned(parse_run(document).spec) == view(name).spec.model_copy(update={"place": None})


def test_failure_policy_rules_are_in_the_right_order() -> None:
    found = attempt_of(recovery__inPlace=False)
    job = found["spec"]["replicatedJobs"][0]["template"]["spec"]
    first, second, third = job["podFailurePolicy"]["rules"]
    assert first["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert second["onExitCodes"]["values"] == [ExitCode.PREEMPTED]
    assert third["onExitCodes"]["values"] == sorted(FATAL_CODES)
    assert (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) == (0, "Never")
    policy = found["spec"]["failurePolicy"]
    assert [rule["action"] for rule in policy["rules"]] == ["RestartJobSetAndIgnoreMaxRestarts"] * 2 + ["FailJobSet"]
    assert "onJobFailureMessagePatterns" not in policy["rules"][2], (
        "the last rule must match all that the others do not"
    )
    assert (policy["maxRestarts"], policy["restartStrategy"]) == (3, "BlockingRecreate")


def attempt_of(**spec: Any) -> dict[str, Any]:
    view = parse_run_view(run(**spec))
    assert view.spec is not None
    return build_jobset(JobSetPlan(view, view.spec, SETTINGS, 1, 0, remaining_restarts=3))


def test_in_place_only_three_ends_replace_all_pods() -> None:
    """The rules stand so that an evicted pod is replaced alone whatever its exit code, if that is not a reserved one."""
    found = attempt_of()
    job = found["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert [
        (rule["action"], rule.get("onExitCodes", {}).get("values")) for rule in job["podFailurePolicy"]["rules"]
    ] == [
        ("FailJob", sorted([ExitCode.NOT_REJOINED, *FATAL_CODES])),
        ("Ignore", None),
        ("Ignore", [ExitCode.PREEMPTED, ExitCode.LEAVES_NODE]),
        ("FailJob", [ExitCode.FAILURE]),
    ]
    assert (job["backoffLimit"], job["podReplacementPolicy"]) == (1, "Failed")
    assert parse_jobset(found).in_place
    policy = found["spec"]["failurePolicy"]
    assert all(re.fullmatch(r"[A-Za-z]([\w,:]*\w)?", rule["name"]) for rule in policy["rules"]), (
        "JobSet's webhook checks it"
    )
    assert [rule["action"] for rule in policy["rules"]] == [
        "RestartJobSetAndIgnoreMaxRestarts",
        "RestartJobSet",
        "FailJobSet",
    ]
    for code, matches in ((43, [0, 2]), (1, [1, 2]), (83, [2]), (143, [2])):
        message = f"Container trainer for pod default/demo-1-s-1-0 failed with exit code {code} matching FailJob rule at index 0"
        patterns = [rule.get("onJobFailureMessagePatterns", [".*"]) for rule in policy["rules"]]
        assert [index for index, (one,) in enumerate(patterns) if re.fullmatch(one, message)] == matches
    assert policy["maxRestarts"] == 1, (
        "each restart of the JobSet follows two ends: one in place, and one that ends the pods"
    )
    container = pod_of(found)["containers"][0]
    assert container["command"] == ["halcyon-agent"]
    assert {"name": "agent", "containerPort": names.AGENT_PORT, "protocol": "TCP"} in container["ports"]


def test_the_only_pod_of_a_run_is_never_replaced_alone() -> None:
    """Nobody would be left who knows how often its processes have started again."""
    found = attempt_of(accelerator={"type": "cpu"})
    assert pod_of(found)["containers"][0]["command"] == ["halcyon-agent"]
    assert not parse_jobset(found).in_place
    policy, without = (one["spec"]["failurePolicy"] for one in (found, attempt_of(recovery__inPlace=False)))
    assert policy == without | {"maxRestarts": 1}


@pytest.mark.parametrize("spec", [{"recovery__maxRestarts": 0}, {"task": "data"}])
def test_a_run_that_may_not_restart_or_that_does_no_steps_is_not_restarted_in_place(spec: dict[str, Any]) -> None:
    found = attempt_of(**spec)
    assert pod_of(found)["containers"][0]["command"] == ["halcyon", "train"]
    assert not parse_jobset(found).in_place


def test_names_of_the_longest_run_fit() -> None:
    name = "a" * names.MAX_RUN_NAME_LENGTH
    found = parse_run_view(run(name=name))
    assert found.spec is not None
    jobset = build_jobset(JobSetPlan(found, found.spec, SETTINGS, names.MAX_ATTEMPT, 0, 0))
    coordinator = f"{jobset['metadata']['name']}-s-0-0.{jobset['spec']['network']['subdomain']}"
    assert len(coordinator) <= 63
    assert len(f"{jobset['metadata']['name']}-s-255-9999-abcde") <= 63


def test_pods_of_several_slices_get_the_variables_to_find_each_other() -> None:
    env = {variable["name"]: variable for variable in pod_of(built("v6e-4x8-two-slices-spot"))["containers"][0]["env"]}
    assert env["MEGASCALE_NUM_SLICES"]["value"] == "2"
    assert (
        env["MEGASCALE_SLICE_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
        == f"metadata.annotations['{names.JOBSET_JOB_INDEX}']"
    )
    hosts = env["TPU_WORKER_HOSTNAMES"]["value"].split(",")
    assert len(hosts) == 8
    assert hosts[1].startswith("demo-3-s-$(HALCYON_JOB_INDEX)-1.")
    order = list(env)
    assert order.index("HALCYON_JOB_INDEX") < order.index("TPU_WORKER_HOSTNAMES"), (
        "a variable can only refer to earlier ones"
    )
    assert not any(
        name.startswith(("MEGASCALE", "TPU_"))
        for name in (v["name"] for v in pod_of(built("v5e-4x4"))["containers"][0]["env"])
    )


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
    return build_jobset(JobSetPlan(found, found.spec, SETTINGS, 1, 0, 0))


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
def test_exports_into_files_of_a_pod_are_rejected(
    checkpoint: dict[str, Any], export: dict[str, Any], allowed: bool
) -> None:
    problems = parse_run_view(run(checkpoint=checkpoint, export={"everySteps": 10, **export})).problems
    assert [problem.split(":")[0] for problem in problems] == ([] if allowed else ["spec.export.root"])
