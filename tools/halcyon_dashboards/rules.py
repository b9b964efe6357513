"""Recording rules and alerts for Prometheus. Every alert has a runbook with its name in docs/runbooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from halcyon_dashboards import queries

RUNBOOKS = "docs/runbooks"
"""Folder of the runbooks; the chart adds the URL of a repository before it."""


@dataclass(frozen=True)
class Alert:
    """One alert.

    Attributes:
        name: Name of the alert and of its runbook.
        expr: An expression of `queries`.
        after: How long the expression must be true before the alert fires, as a Prometheus duration.
        severity: critical: act now; warning: act within hours; info: no action needed.
        summary: One line, with `{{ $labels.run }}` for labels.
        description: The meaning, with `{{ $value }}`.
    """

    name: str
    expr: str
    after: str
    severity: Literal["critical", "warning", "info"]
    summary: str
    description: str

    def document(self) -> dict[str, Any]:
        """Return the rule as a Prometheus document."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.after,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{RUNBOOKS}/{self.name}.md",
            },
        }


_RUN = "{{ $labels.namespace }}/{{ $labels.run }}"

RUN_ALERTS = (
    Alert(
        "HalcyonRunStalled",
        queries.RUN_STALLED,
        "1m",
        "critical",
        f"Run {_RUN} has stopped and needs a fix: {{{{ $labels.reason }}}}.",
        "The run does not continue until the problem in its condition Stalled is fixed.",
    ),
    Alert(
        "HalcyonRunInvalid",
        queries.RUN_INVALID,
        "10m",
        "warning",
        f"The document of run {_RUN} is not valid.",
        "The operator cannot use the document, so the run does not train. Its author must fix it; the condition "
        "Stalled names the field.",
    ),
    Alert(
        "HalcyonRunWithoutProgress",
        queries.RUN_WITHOUT_PROGRESS,
        "15m",
        "warning",
        f"Run {_RUN} is Running but does no steps.",
        "The run's phase is Running, but no new step was reported for half an hour.",
    ),
    Alert(
        "HalcyonRunWaiting",
        queries.RUN_WAITS,
        "1h",
        "warning",
        f"Run {_RUN} has not trained for an hour.",
        "The run has been Pending, Starting or Restarting for an hour; usually there are no nodes for it.",
    ),
    Alert(
        "HalcyonRunHeldBack",
        queries.RUN_HELD_BACK,
        "10m",
        "warning",
        f"Run {_RUN} is held back: {{{{ $labels.reason }}}}.",
        "It was restarted repeatedly without a new checkpoint, so each next attempt is delayed by up to half an hour.",
    ),
    Alert(
        "HalcyonRunPodsStuck",
        queries.RUN_PODS_STUCK,
        "1m",
        "warning",
        f"Run {_RUN} waits for its pods: {{{{ $labels.reason }}}}.",
        "A pod does not end (usually its node was lost), does not start, or is not made. The run's Ready condition "
        "names the cause.",
    ),
    Alert(
        "HalcyonRunDegraded",
        queries.RUN_DEGRADED,
        "6h",
        "info",
        f"Run {_RUN} has trained on fewer slices than requested for six hours.",
        "The run continues, but slower than planned, because slices are missing.",
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
        "HalcyonRunCorrupted",
        queries.RUN_CORRUPTED,
        "0m",
        "critical",
        f"An audit of run {_RUN} found wrong numbers.",
        "A device computed or kept other bits than its neighbours. The message of the event CorruptionSuspected names "
        "the processes.",
    ),
    Alert(
        "HalcyonRunMismatch",
        queries.RUN_MISMATCH,
        "15m",
        "warning",
        f"Sampling and training of run {_RUN} differ by {{{{ $value }}}} nats.",
        "For a quarter of an hour, the log-probability of a token in sampling has differed from that of the trainer by "
        f"more than {queries.MISMATCH_NATS} nats, so it learns from answers of other probabilities than "
        "those that it computes.",
    ),
    Alert(
        "HalcyonRunGoodputLow",
        queries.RUN_GOODPUT_LOW,
        "30m",
        "warning",
        f"Run {_RUN} trained {{{{ $value | humanizePercentage }}}} of the last hour.",
        f"For half an hour, less than {queries.LOW_GOODPUT:.0%} of the previous hour was spent on steps that were not "
        "repeated.",
    ),
    Alert(
        "HalcyonRunSlowerThanPlanned",
        queries.RUN_SLOWER,
        "30m",
        "warning",
        f"Run {_RUN} trains at {{{{ $value | humanizePercentage }}}} of its planned speed.",
        f"For half an hour, it was slower than {queries.SLOW_PLAN:.0%} of its plan. The condition "
        "Planned names what takes the time.",
    ),
    Alert(
        "HalcyonCheckpointOverdue",
        queries.CHECKPOINT_OVERDUE,
        "5m",
        "critical",
        f"Run {_RUN} has no new checkpoint for {queries.OVERDUE_INTERVALS} intervals.",
        "The run trains but is not saved: a preemption now loses all steps since its last checkpoint.",
    ),
    Alert(
        "HalcyonCheckpointDegraded",
        queries.CHECKPOINT_FAILS,
        "0m",
        "warning",
        f"Saves of run {_RUN} fail.",
        "{{ $value | humanize }} saves failed within half an hour. Training continues; the trainer's log has the "
        "reason.",
    ),
    Alert(
        "HalcyonCheckpointLate",
        queries.CHECKPOINT_LATE,
        "0m",
        "warning",
        f"A save of run {_RUN} takes longer than usual.",
        "It has been in flight for {{ $value | humanizeDuration }}, and another save is due. The run's condition says "
        "whether the training waits, and whether the store answers.",
    ),
    Alert(
        "HalcyonTrainerUnhealthy",
        queries.TRAINER_UNHEALTHY,
        "2m",
        "warning",
        f"Trainer {{{{ $labels.pod }}}} of run {_RUN} makes no progress.",
        "The process has ended no step (or other stage) within its limit. The kubelet restarts it if that continues.",
    ),
    Alert(
        "HalcyonTrainerUnseen",
        queries.TRAINER_UNSEEN,
        "15m",
        "warning",
        f"Run {_RUN} trains, and the metrics of {{{{ $value }}}} of its trainers do not arrive.",
        "No alert about these trainers or their saves can fire.",
    ),
)

OPERATOR_ALERTS = (
    Alert(
        "HalcyonOperatorDown",
        queries.OPERATOR_DOWN,
        "5m",
        "critical",
        "No Halcyon operator of namespace {{ $labels.namespace }} answers.",
        "Runs continue, and JobSet restarts them; edits, new runs and new attempts wait for the operator.",
    ),
    Alert(
        "HalcyonOperatorWithoutLeader",
        queries.OPERATOR_WITHOUT_LEADER,
        "2m",
        "critical",
        "No Halcyon operator is the leader.",
        "Operators run, but none gets or keeps the lease: edits, new runs and new attempts wait.",
    ),
    Alert(
        "HalcyonOperatorReconcileErrors",
        queries.OPERATOR_ERRORS,
        "15m",
        "warning",
        "{{ $value | humanizePercentage }} of the operator's reconciles fail.",
        "The operator cannot reconcile some runs; their Events and its log have the reason.",
    ),
    Alert(
        "HalcyonOperatorBacklog",
        queries.OPERATOR_BACKLOG,
        "5m",
        "warning",
        "{{ $value }} runs wait for the operator.",
        "The operator is too slow for the rate of changes: restarts and new runs are late.",
    ),
    Alert(
        "HalcyonOperatorWatchLagging",
        queries.OPERATOR_WATCH_LAGS,
        "2m",
        "critical",
        "The operator's watch is {{ $value | humanizeDuration }} behind.",
        "The operator does not see its own writes; its liveness probe restarts it if that continues.",
    ),
    Alert(
        "HalcyonApiServerRefuses",
        queries.API_SERVER_REFUSES,
        "15m",
        "warning",
        "The API server refuses, or does not answer, {{ $value | humanizePercentage }} of the operator's requests.",
        "The API server answers 429 or 5xx, or not at all: it is overloaded or broken, or the network to it is.",
    ),
    Alert(
        "HalcyonCheckpointRootUnreachable",
        queries.ROOT_UNREACHABLE,
        "15m",
        "warning",
        "{{ $value | humanizePercentage }} of the operator's reads of checkpoint roots fail.",
        "Runs continue. The operator decides on restarts by the trainers' reports of their checkpoints, not by the "
        "checkpoints themselves.",
    ),
)

ALERTS = RUN_ALERTS + OPERATOR_ALERTS


def rules() -> dict[str, Any]:
    """Return the document of the rule file."""
    recorded = [{"record": name, "expr": expr} for name, expr in queries.RECORDED.items()]
    return {
        "groups": [
            {"name": "halcyon.recorded", "interval": "30s", "rules": recorded},
            {"name": "halcyon.runs", "rules": [alert.document() for alert in RUN_ALERTS]},
            {"name": "halcyon.operator", "rules": [alert.document() for alert in OPERATOR_ALERTS]},
        ]
    }
