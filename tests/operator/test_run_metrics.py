"""The operator's metrics of each run, for dashboards and alerts: derived from spec and status, bounded in number, and
removed with the run."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import generate_latest

from halcyon_api.status.run_status import parse_status
from halcyon_operator.observe.runs import parse_run_view
from halcyon_operator.run.metrics import Metrics
from halcyon_operator.run.run_metrics import RUN_METRICS
from tests.operator.builders import rfc, run

KEY = ("team", "demo")
STALLED = {
    "type": "Stalled",
    "status": "True",
    "reason": "Diverged",
    "message": "The loss is not a number.",
    "lastTransitionTime": rfc(0),
}
CHECKPOINT = {"step": 40, "attempt": 2, "path": "steps/x", "time": "2026-01-01T00:00:00Z", "source": "root"}
STATUS: dict[str, Any] = {
    "phase": "Running",
    "attempt": 2,
    "conditions": [STALLED | {"status": "False", "reason": "Progressing"}],
    "restarts": {"total": 3, "preempted": 2, "failed": 1},
    "failuresWithoutCheckpoint": 1,
    "progress": {"step": 57, "steps": 100, "saveIntervalSeconds": 120},
    "checkpoint": CHECKPOINT,
    "history": [
        {"attempt": 1, "restart": 0, "startedAt": rfc(0), "firstStepAt": rfc(1), "endedAt": rfc(2)},
        {"attempt": 2, "restart": 0, "startedAt": rfc(3), "firstStepAt": "2026-01-01T01:00:00Z"},
    ],
    "topology": {"slices": 2, "hosts": 4, "devices": 16, "mesh": {"replica": 2, "data": 8, "fsdp": 1, "tensor": 1}},
}


class SampledMetrics:
    """Metrics that have seen one run, and a way to read its samples."""

    def __init__(self, status: dict[str, Any], **spec: Any) -> None:
        self.metrics = Metrics()
        self.see(status, **spec)

    def see(self, status: dict[str, Any], **spec: Any) -> None:
        parsed = parse_status(status)
        self.metrics.saw_run(KEY, parsed, parsed, parse_run_view(run(**spec)).spec)

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(
            f"halcyon_run_{name}", {"namespace": KEY[0], "run": KEY[1], **labels}
        )

    def lines(self) -> list[str]:
        return [
            line
            for line in generate_latest(self.metrics.registry).decode().splitlines()
            if line.startswith("halcyon_run_")
        ]


def test_a_training_run_has_the_metrics_of_its_status() -> None:
    sampled = SampledMetrics(STATUS, checkpoint__save={"everySteps": 20})
    assert sampled("phase", phase="Running") == 1
    assert sampled("condition", type="Stalled", reason="Progressing") == 0
    assert (sampled("attempt"), sampled("step"), sampled("planned_steps")) == (2, 57, 100)
    assert (sampled("devices"), sampled("hosts")) == (16, 4)
    assert sampled("restarts_total", cause="preempted") == 2
    assert sampled("restarts_total", cause="hung") == 0, (
        "it must exist from the start, so that the first restart is an increase"
    )
    assert sampled("failures_without_checkpoint") == 1
    assert (sampled("checkpoint_step"), sampled("checkpoint_timestamp_seconds")) == (40, 1767225600)
    assert (sampled("save_interval_steps"), sampled("save_interval_seconds")) == (20, 120)
    assert sampled("first_step_timestamp_seconds") == 1767225600 + 3600


@pytest.mark.parametrize(
    ("save", "steps", "seconds"),
    [
        ({"everySteps": 0, "everySeconds": 60}, None, 60),
        ({"everySteps": 10, "everySeconds": 60}, 10, 60),
        ({"everySteps": 10, "everySeconds": 60, "auto": True}, None, 120),
    ],
)
def test_the_interval_between_saves_is_the_one_that_counts(
    save: dict[str, Any], steps: float | None, seconds: float
) -> None:
    sampled = SampledMetrics(STATUS, checkpoint__save=save)
    assert (sampled("save_interval_steps"), sampled("save_interval_seconds")) == (steps, seconds)


@pytest.mark.parametrize("phase", ["Pending", "Suspended", "Succeeded", "Failed"])
def test_a_run_without_pods_holds_no_devices_and_no_hosts(phase: str) -> None:
    sampled = SampledMetrics(STATUS | {"phase": phase})
    assert (sampled("devices"), sampled("hosts")) == (0, 0)


def test_a_new_phase_or_reason_replaces_the_old_sample() -> None:
    sampled = SampledMetrics(STATUS)
    sampled.see(STATUS | {"phase": "Failed", "conditions": [STALLED]})
    assert sampled("phase", phase="Running") is None
    assert sampled("phase", phase="Failed") == 1
    assert sampled("condition", type="Stalled", reason="Progressing") is None
    assert sampled("condition", type="Stalled", reason="Diverged") == 1
    sampled.see(STATUS | {"history": STATUS["history"][:1]})
    assert sampled("first_step_timestamp_seconds") is None, "no process trains"


def test_unknown_values_have_no_sample_and_an_invalid_document_is_tolerated() -> None:
    sampled = SampledMetrics({"phase": "Pending", "checkpoint": CHECKPOINT | {"time": "yesterday"}})
    for name in ("step", "planned_steps", "checkpoint_timestamp_seconds", "save_interval_seconds"):
        assert sampled(name) is None, name
    parsed = parse_status(STATUS)
    sampled.metrics.saw_run(KEY, parsed, parsed, None)
    assert sampled("save_interval_steps") is None
    assert sampled("step") == 57


def test_a_run_has_a_bounded_number_of_samples_and_leaves_none() -> None:
    sampled = SampledMetrics(
        STATUS
        | {"conditions": [STALLED | {"type": kind} for kind in ("Stalled", "Degraded", "Queued", "Ready", "Failed")]}
    )
    assert len(sampled.lines()) <= 35
    assert {line.partition("{")[0] for line in sampled.lines()} <= {metric.name for metric in RUN_METRICS}
    sampled.metrics.lost_run(KEY)
    assert sampled.lines() == []
