"""Recording rules and alerts, as Prometheus reads them. Every alert has a runbook of its name in docs/runbooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from halcyon_dashboards import queries

RUNBOOKS = "docs/runbooks"
"""Folder of the runbooks; the chart puts the address of a repository in front of it."""


@dataclass(frozen=True)
class Alert:
    """One alert.

    Attributes:
        name: Its name, and its runbook's.
        expr: A name or an expression of `queries`.
        after: How long it must hold, as Prometheus writes durations.
        severity: critical: somebody has to act now; warning: within hours; info: good to know.
        summary: One line, with `{{ $labels.run }}` for labels.
        description: What it means, with `{{ $value }}`.
    """

    name: str
    expr: str
    after: str
    severity: Literal["critical", "warning", "info"]
    summary: str
    description: str

    def document(self) -> dict[str, Any]:
        """The rule as Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.after,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "description": self.description, "runbook_url": f"{RUNBOOKS}/{self.name}.md"},
        }


_RUN = "{{ $labels.namespace }}/{{ $labels.run }}"

RUN_ALERTS = (
    Alert(
        "HalcyonRunStalled",
        queries.RUN_STALLED,
        "1m",
        "critical",
        f"Run {_RUN} has stopped for good: {{{{ $labels.reason }}}}.",
        "Nothing more happens to this run until somebody mends what its condition Stalled says.",
    ),
    Alert(
        "HalcyonRunInvalid",
        queries.RUN_INVALID,
        "10m",
        "warning",
        f"The document of run {_RUN} is not valid.",
        "Nothing can be made of the document, so the run does not train. Its author corrects it; the condition Stalled names the field.",
    ),
    Alert(
        "HalcyonRunWithoutProgress",
        queries.RUN_WITHOUT_PROGRESS,
        "15m",
        "warning",
        f"Run {_RUN} is Running and does no steps.",
        "The run's phase is Running, and for half an hour no step was told of.",
    ),
    Alert(
        "HalcyonRunWaiting",
        queries.RUN_WAITS,
        "1h",
        "warning",
        f"Run {_RUN} has not trained for an hour.",
        "The run wants to train and has been Pending, Starting or Restarting for an hour: mostly there are no nodes for it.",
    ),
    Alert(
        "HalcyonRunHeldBack",
        queries.RUN_HELD_BACK,
        "10m",
        "warning",
        f"Run {_RUN} is held back: {{{{ $labels.reason }}}}.",
        "It was started again and again without getting to a checkpoint, so its next attempts wait, for up to half an hour each.",
    ),
    Alert(
        "HalcyonRunPodsStuck",
        queries.RUN_PODS_STUCK,
        "1m",
        "warning",
        f"Run {_RUN} waits for a pod that hangs: {{{{ $labels.reason }}}}.",
        "A pod does not end, mostly because its node is gone, or has a node and does not start. The run's Ready condition names it.",
    ),
    Alert(
        "HalcyonRunDegraded",
        queries.RUN_DEGRADED,
        "6h",
        "info",
        f"Run {_RUN} has trained on fewer slices than it asks for, for six hours.",
        "The run goes on and is slower than planned, because slices are missing.",
    ),
    Alert(
        "HalcyonRunCrashLoop",
        queries.RUN_CRASHES,
        "0m",
        "critical",
        f"Run {_RUN} failed {{{{ $value }}}} times without a new checkpoint.",
        "It makes no progress. At spec.recovery.maxRestarts the operator stops it.",
    ),
    Alert(
        "HalcyonRunGoodputLow",
        queries.RUN_GOODPUT_LOW,
        "30m",
        "warning",
        f"Run {_RUN} trained {{{{ $value | humanizePercentage }}}} of the last hour.",
        f"For half an hour, less than {queries.LOW_GOODPUT:.0%} of the hour before went into steps that lasted.",
    ),
    Alert(
        "HalcyonCheckpointOverdue",
        queries.CHECKPOINT_OVERDUE,
        "5m",
        "critical",
        f"Run {_RUN} has no new checkpoint for {queries.OVERDUE_INTERVALS} intervals.",
        "The run trains and is not saved: a preemption now loses all steps since its last checkpoint.",
    ),
    Alert(
        "HalcyonCheckpointDegraded",
        queries.CHECKPOINT_FAILS,
        "0m",
        "warning",
        f"Saves of run {_RUN} fail.",
        "{{ $value | humanize }} saves failed within half an hour. Training goes on; the trainer's log has the reason.",
    ),
    Alert(
        "HalcyonTrainerUnhealthy",
        queries.TRAINER_UNHEALTHY,
        "2m",
        "warning",
        f"Trainer {{{{ $labels.pod }}}} of run {_RUN} makes no progress.",
        "No step, or no other stage of the process, has ended within its limit. The kubelet restarts a process that stays so.",
    ),
)

OPERATOR_ALERTS = (
    Alert(
        "HalcyonOperatorDown",
        queries.OPERATOR_DOWN,
        "5m",
        "critical",
        "No Halcyon operator of namespace {{ $labels.namespace }} answers.",
        "Runs go on, and JobSet restarts them; edits, new runs and new attempts wait for the operator.",
    ),
    Alert(
        "HalcyonOperatorWithoutLeader",
        queries.OPERATOR_WITHOUT_LEADER,
        "2m",
        "critical",
        "No Halcyon operator leads.",
        "Operators stand by, and none gets or keeps the lease: edits, new runs and new attempts wait.",
    ),
    Alert(
        "HalcyonOperatorReconcileErrors",
        queries.OPERATOR_ERRORS,
        "15m",
        "warning",
        "{{ $value | humanizePercentage }} of the operator's looks at runs fail.",
        "The operator cannot look after some runs; their Events and its log say why.",
    ),
    Alert(
        "HalcyonOperatorBacklog",
        queries.OPERATOR_BACKLOG,
        "5m",
        "warning",
        "{{ $value }} runs wait for the operator.",
        "The operator is slower than changes come: restarts and new runs are late.",
    ),
    Alert(
        "HalcyonOperatorWatchLagging",
        queries.OPERATOR_WATCH_LAGS,
        "2m",
        "critical",
        "The operator's watch is {{ $value | humanizeDuration }} behind.",
        "The operator does not see what it wrote itself; its liveness probe restarts it if that stays so.",
    ),
    Alert(
        "HalcyonApiServerRefuses",
        queries.API_SERVER_REFUSES,
        "15m",
        "warning",
        "{{ $value | humanizePercentage }} of the operator's requests are refused by the API server.",
        "The API server answers 429 or 5xx: it is overloaded or broken.",
    ),
    Alert(
        "HalcyonCheckpointRootUnreachable",
        queries.ROOT_UNREACHABLE,
        "15m",
        "warning",
        "The operator cannot read {{ $value | humanizePercentage }} of the checkpoint roots it looks at.",
        "Runs go on; restarts are decided by what trainers say of their checkpoints, not by the checkpoints themselves.",
    ),
)

ALERTS = RUN_ALERTS + OPERATOR_ALERTS


def rules() -> dict[str, Any]:
    """The whole rule file."""
    recorded = [{"record": name, "expr": expr} for name, expr in queries.RECORDED.items()]
    return {
        "groups": [
            {"name": "halcyon.recorded", "interval": "30s", "rules": recorded},
            {"name": "halcyon.runs", "rules": [alert.document() for alert in RUN_ALERTS]},
            {"name": "halcyon.operator", "rules": [alert.document() for alert in OPERATOR_ALERTS]},
        ]
    }
