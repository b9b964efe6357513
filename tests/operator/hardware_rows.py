"""A run of each row of the hardware table, and the JobSet that the operator builds for it."""

from __future__ import annotations

from typing import Any

from halcyon_operator.model.decision import JobSetPlan
from halcyon_operator.model.views import RunView
from halcyon_operator.objects.jobset import build_jobset
from halcyon_operator.observe.runs import parse_run_view
from tests.operator.builders import SETTINGS, run

IN_TWO_ROWS: dict[str, Any] = {
    "accelerator": {"type": "v6e", "topology": "4x4", "slices": 2, "provisioning": "spot"},
    "mesh": {"ici": {"fsdp": 8, "data": 2}},
    "trainer__batchSize": 32,
    "place": {
        "otherwise": [
            {
                "accelerator": {
                    "type": "h100",
                    "topology": "1x8",
                    "provisioning": "reservation",
                    "reservation": "ours",
                },
                "microbatches": 4,
                "nodeSelector": {"team": "research"},
            }
        ]
    },
}

RUNS: dict[str, dict[str, Any]] = {
    "cpu-2x1": run(
        accelerator__topology="2x1",
        accelerator__slices=1,
        accelerator__hostResources={"cpu": "500m", "memory": "1Gi", "ephemeralStorage": "2Gi"},
    ),
    "h100-2x8-not-in-place": run(
        accelerator={"type": "h100", "topology": "2x8"}, trainer__batchSize=16, recovery__inPlace=False
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
        checkpoint={
            "root": "s3://bucket/demo",
            "endpoint": "http://store:7070",
            "credentialsSecret": {"name": "store"},
            "memory": {"everySteps": 50},
        },
    ),
    "v4-4x4x8": run(accelerator={"type": "v4", "topology": "4x4x8"}, trainer__batchSize=128),
    "v5p-2x4x4-two-slices-reservation": run(
        accelerator={
            "type": "v5p",
            "topology": "2x4x4",
            "slices": 2,
            "provisioning": "reservation",
            "reservation": "ours",
        },
        trainer__batchSize=64,
    ),
    "v7x-2x2x2-two-slices": run(accelerator={"type": "v7x", "topology": "2x2x2", "slices": 2}, trainer__batchSize=32),
    "rtx-pro-6000-1x8": run(accelerator={"type": "rtx-pro-6000", "topology": "1x8"}),
    "l4-1x4-flex-start": run(accelerator={"type": "l4", "topology": "1x4", "provisioning": "flexStart"}),
    "v6e-2x2-flex-start": run(accelerator={"type": "v6e", "topology": "2x2", "provisioning": "flexStart"}),
    "h100-1x8-spot": run(accelerator={"type": "h100", "topology": "1x8", "provisioning": "spot"}),
    "a100-80gb-1x2": run(accelerator={"type": "a100-80gb", "topology": "1x2"}),
    "h100-1x2-spot": run(accelerator={"type": "h100", "topology": "1x2", "provisioning": "spot"}),
    "gb300-2x4": run(accelerator={"type": "gb300", "topology": "2x4", "computeDomain": "rack"}),
    "b300-2x8": run(accelerator={"type": "b300", "topology": "2x8"}, trainer__batchSize=16),
    "mi300x-2x8": run(accelerator={"type": "mi300x", "topology": "2x8"}, trainer__batchSize=16),
    "mi355x-1x4": run(accelerator={"type": "mi355x", "topology": "1x4"}),
    "b200-2x8-reservation": run(
        accelerator={"type": "b200", "topology": "2x8", "provisioning": "reservation", "reservation": "ours"},
        trainer__batchSize=16,
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
        f"{name}-2x8-gpu-direct": run(
            accelerator={"type": name, "topology": "2x8", "network": "gpuDirect"}, trainer__batchSize=16
        )
        for name in ("h100", "h100-mega", "h200", "b200")
    },
    "gb200-2x4-gpu-direct": run(
        accelerator={"type": "gb200", "topology": "2x4", "network": "gpuDirect", "computeDomain": "nvlink"},
        trainer__batchSize=8,
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
                "topology": {
                    "preferred": "cloud.google.com/gce-topology-block",
                    "slice": "cloud.google.com/gce-topology-subblock",
                },
                "maxRunDurationSeconds": 86_400,
            }
        },
    ),
    "v5e-4x4-two-slices-in-a-queue": run(
        accelerator={"type": "v5e", "topology": "4x4", "slices": 2},
        trainer__batchSize=32,
        scheduling={"queue": {"name": "research"}},
    ),
    "v6e-4x4-spot-with-another-row": run(**IN_TWO_ROWS),
    "h100-1x8-of-another-row": run({"placement": {"slices": 1, "wantedSlices": 1, "row": 1}}, **IN_TWO_ROWS),
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
    return build_jobset(JobSetPlan(found, found.spec, SETTINGS, 3, 120, 2))
