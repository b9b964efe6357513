"""Pods request CPUs and memory, memory is limited to the request, and every folder that they write on a node's disk has
a size limit.
"""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_api.hardware import TABLE
from halcyon_api.hardware.machines import CPU_POD_CPUS, CPU_POD_GIB, left_of_host_gib, pod_cpus
from halcyon_operator.model.decision import JobSetPlan, ProbePlan
from halcyon_operator.model.settings import Settings
from halcyon_operator.objects.jobset import build_jobset, build_probe
from halcyon_operator.observe.runs import parse_run_view
from tests.operator.builders import SETTINGS, run, settings_of


def pod(settings: Settings = SETTINGS, probe: bool = False, **spec: Any) -> dict[str, Any]:
    view = parse_run_view(run(**{"trainer__batchSize": 64, **spec}))
    assert view.spec is not None, view.problems
    own = build_jobset(JobSetPlan(view, view.spec, settings, 1, 0, 3))
    jobset = build_probe(ProbePlan(view, view.spec, settings, 1)) if probe else own
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def memory(pod: dict[str, Any]) -> tuple[str | None, str | None]:
    """The trainer's memory request and memory limit."""
    resources = pod["containers"][0].get("resources", {})
    return resources.get("requests", {}).get("memory"), resources.get("limits", {}).get("memory")


@pytest.mark.parametrize(
    ("accelerator", "amount"),
    [
        ({"type": "cpu", "topology": "2x1"}, f"{CPU_POD_GIB}Gi"),
        ({"type": "nvidia", "topology": "1x4"}, "64Gi"),
        ({"type": "v5e", "topology": "4x4"}, "171Gi"),
        ({"type": "v5e", "topology": "1x1"}, "38Gi"),
        ({"type": "h100", "topology": "2x8"}, "1767Gi"),
        ({"type": "cpu", "topology": "2x1", "hostResources": {"memory": "1Gi"}}, "1Gi"),
    ],
)
def test_pods_request_the_memory_of_their_machine(accelerator: dict[str, Any], amount: str) -> None:
    assert memory(pod(accelerator=accelerator)) == (amount, amount)


def cpus(pod: dict[str, Any]) -> tuple[str | None, str | None]:
    """The trainer's CPU request and CPU limit."""
    resources = pod["containers"][0]["resources"]
    return resources["requests"].get("cpu"), resources.get("limits", {}).get("cpu")


@pytest.mark.parametrize("probe", [False, True])
@pytest.mark.parametrize(
    ("accelerator", "amount"),
    [
        ({"type": "cpu", "topology": "2x1"}, CPU_POD_CPUS),
        ({"type": "nvidia", "topology": "1x4"}, "8"),
        ({"type": "v5e", "topology": "1x1"}, "12"),
        ({"type": "v6e", "topology": "4x4"}, "90"),
        ({"type": "h100", "topology": "2x8"}, "104"),
        ({"type": "b300", "topology": "2x8"}, "16"),
    ],
)
def test_pods_request_cpus_without_a_limit(accelerator: dict[str, Any], amount: str, probe: bool) -> None:
    assert cpus(pod(accelerator=accelerator, probe=probe)) == (amount, None)


def test_a_run_sets_its_cpus_as_request_and_limit() -> None:
    wanted = {"type": "v6e", "topology": "4x4", "hostResources": {"cpu": "170"}}
    assert cpus(pod(accelerator=wanted)) == ("170", "170")


def test_each_container_of_a_pod_requests_cpus() -> None:
    fast = pod(accelerator={"type": "h100", "topology": "2x8", "network": "gpuDirect"})
    assert [each["resources"]["requests"]["cpu"] for each in (*fast["containers"], *fast["initContainers"])] == [
        "104",
        "1",
    ]


def test_every_row_has_an_amount_for_every_shape() -> None:
    for row in TABLE.values():
        topologies = row.topologies or [f"1x{count}" for count in row.devices_per_host or (1, row.max_devices_per_host)]
        for topology in topologies:
            shape = row.shape(topology)
            assert shape is not None
            assert not shape.machine_type or shape.machine_size, f"{row.name}: give the size of {shape.machine_type}"
            memory_gib, machine_cpus = shape.machine_size or (1, 1 << 10)
            # At least 4 CPUs are left, and no machine of a row has another ratio by a wrong row of the table.
            assert row.family == "cpu" or 4 <= int(pod_cpus(row, shape)) <= machine_cpus - 4 or not shape.machine_type
            assert not shape.machine_type or 1.5 <= memory_gib / machine_cpus <= 20


@pytest.mark.parametrize("host", sorted({size[0] for row in TABLE.values() for size in row.machine_sizes.values()}))
def test_enough_memory_is_left_for_the_node(host: int) -> None:
    """GKE reserves about 2 % of a large machine's memory and 10 % of a small one's. Its guides leave at least as much
    again to the node's other pods."""
    left = left_of_host_gib(host)
    assert 0.75 * host < left < host - 4


def test_the_owner_sets_memory_by_type_and_the_run_overrides_the_owner() -> None:
    ours = settings_of(podMemory={"cpu": "2Gi", "nvidia": "none"})
    assert memory(pod(ours, accelerator={"type": "cpu", "topology": "2x1"})) == ("2Gi", "2Gi")
    assert memory(pod(ours, accelerator={"type": "cpu", "topology": "2x1", "hostResources": {"memory": "1Gi"}})) == (
        "1Gi",
        "1Gi",
    )
    assert memory(pod(ours, accelerator={"type": "nvidia", "topology": "1x4"})) == (None, None)
    assert pod(ours, accelerator={"type": "nvidia", "topology": "1x4"})["containers"][0]["resources"]["limits"] == {
        "nvidia.com/gpu": "4"
    }


def test_a_probe_requests_the_memory_of_a_real_pod() -> None:
    wanted = {"accelerator": {"type": "cpu", "slices": 2}, "recovery": {"elastic": {"minSlices": 1}}}
    assert memory(pod(probe=True, **wanted)) == memory(pod(**wanted)) == (f"{CPU_POD_GIB}Gi",) * 2
    ours = settings_of(podMemory={"cpu": "2Gi"})
    assert memory(pod(ours, probe=True, **wanted)) == ("2Gi", "2Gi")


@pytest.mark.parametrize(
    "accelerator",
    [
        {"type": "cpu", "topology": "2x1"},
        {"type": "h100-mega", "topology": "2x8", "network": "gpuDirect"},
        {"type": "h200", "topology": "2x8", "network": "gpuDirect"},
    ],
)
def test_every_folder_that_a_pod_writes_is_bounded(accelerator: dict[str, Any]) -> None:
    folders = [volume["emptyDir"] for volume in pod(accelerator=accelerator)["volumes"] if "emptyDir" in volume]
    assert len(folders) >= 2
    assert all("sizeLimit" in folder for folder in folders)
