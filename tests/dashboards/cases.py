"""The cases of the promtool tests: input series for each rule, and the expected result.

One sample a minute. Values are in promtool's notation: `0+1x30` counts up from 0 for thirty minutes, `_` is no sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from halcyon_dashboards import queries

WHO = 'namespace="team",run="demo"'
LABELS = {"namespace": "team", "run": "demo"}


@dataclass(frozen=True)
class AlertCase:
    """An alert over some series.

    It must fire with these labels and this value; if `fires` is None it must be silent.
    """

    alert: str
    why: str
    series: Mapping[str, str]
    at: str
    fires: Mapping[str, str] | None = None
    value: str = ""


@dataclass(frozen=True)
class RecordCase:
    """A recorded expression over some series, and its expected samples by labels."""

    record: str
    series: Mapping[str, str]
    at: str
    samples: Mapping[str, float] = field(default_factory=dict[str, float])


def of_run(name: str, **labels: str) -> str:
    """A series of the operator about the run, such as `halcyon_run_step{…}`."""
    more = "".join(f',{label}="{value}"' for label, value in labels.items())
    return f'halcyon_run_{name}{{{WHO}{more},job="{queries.OPERATOR_JOB}",pod="operator-1"}}'


def of_trainer(name: str, pod: str = "demo-1-s-0-0", **labels: str) -> str:
    """A series of one trainer of the run."""
    more = "".join(f',{label}="{value}"' for label, value in labels.items())
    return f'halcyon_trainer_{name}{{{WHO},pod="{pod}",job="{queries.TRAINER_JOB}"{more}}}'


def of_operator(name: str, **labels: str) -> str:
    """A series of the operator about itself."""
    more = "".join(f',{label}="{value}"' for label, value in labels.items())
    return f'halcyon_operator_{name}{{job="{queries.OPERATOR_JOB}",pod="operator-1"{more}}}'


def badput(cause: str) -> str:
    return f'halcyon_badput_seconds_total{{{WHO},cause="{cause}",pod="operator-1"}}'


LEADS = of_operator("leader"), of_operator("leader").replace("operator-1", "operator-2")
RUNNING = {of_run("phase", phase="Running"): "1x120"}
STEPPING = RUNNING | {of_run("step"): "0+10x120"}
UP = f'up{{job="{queries.OPERATOR_JOB}",namespace="halcyon",pod="operator-1"}}'

ALERT_CASES = (
    AlertCase(
        "HalcyonRunStalled",
        "the run diverged",
        {of_run("condition", type="Stalled", reason="Diverged"): "0x4 1x20"},
        "10m",
        LABELS | {"reason": "Diverged"},
    ),
    AlertCase(
        "HalcyonRunStalled",
        "the reason was fixed",
        {
            of_run("condition", type="Stalled", reason="Diverged"): "1x10 stale",
            of_run("condition", type="Stalled", reason="Progressing"): "_x10 0x20",
        },
        "15m",
    ),
    AlertCase(
        "HalcyonRunStalled",
        "only Degraded",
        {of_run("condition", type="Degraded", reason="FewerSlices"): "1x20"},
        "10m",
    ),
    AlertCase(
        "HalcyonRunStalled", "a typo", {of_run("condition", type="Stalled", reason="InvalidSpec"): "1x30"}, "20m"
    ),
    AlertCase(
        "HalcyonRunInvalid",
        "a typo",
        {of_run("condition", type="Stalled", reason="InvalidSpec"): "0x4 1x30"},
        "20m",
        LABELS,
    ),
    AlertCase(
        "HalcyonRunInvalid", "it diverged", {of_run("condition", type="Stalled", reason="Diverged"): "1x30"}, "20m"
    ),
    AlertCase(
        "HalcyonRunCorrupted",
        "an audit ended a process group",
        {of_run("restarts_total", cause="corrupted"): "0x10 1x50"},
        "12m",
        LABELS,
    ),
    AlertCase(
        "HalcyonRunCorrupted",
        "an audit only reports",
        {of_trainer("corruptions_total"): "0x10 1x50"},
        "12m",
        LABELS,
    ),
    AlertCase("HalcyonRunCorrupted", "another failure", {of_run("restarts_total", cause="failed"): "0x10 1x50"}, "12m"),
    AlertCase("HalcyonRunWithoutProgress", "steps stop", RUNNING | {of_run("step"): "0+10x20 200x60"}, "60m", LABELS),
    AlertCase("HalcyonRunWithoutProgress", "a step in 25 minutes", RUNNING | {of_run("step"): "0x24 1x24 2x24"}, "48m"),
    AlertCase(
        "HalcyonRunWithoutProgress",
        "it waits for nodes",
        {of_run("phase", phase="Starting"): "1x90", of_run("step"): "200x90"},
        "60m",
    ),
    AlertCase("HalcyonRunWaiting", "no nodes", {of_run("phase", phase="Pending"): "1x90"}, "70m", LABELS),
    AlertCase(
        "HalcyonRunWaiting",
        "no nodes after a preemption, through two phases",
        {of_run("phase", phase="Restarting"): "1x30 stale", of_run("phase", phase="Starting"): "_x30 1x60"},
        "70m",
        LABELS,
    ),
    AlertCase(
        "HalcyonRunWaiting", "it waits for its turn in a queue", {of_run("phase", phase="Queued"): "1x90"}, "70m"
    ),
    AlertCase("HalcyonRunWaiting", "for half an hour only", {of_run("phase", phase="Pending"): "1x30 stale"}, "29m"),
    AlertCase(
        "HalcyonRunWaiting",
        "it is stalled, which is another alert",
        {of_run("phase", phase="Pending"): "1x90", of_run("condition", type="Stalled", reason="InvalidSpec"): "1x90"},
        "70m",
    ),
    AlertCase(
        "HalcyonRunHeldBack",
        "the store denies access; it also fires between two retries",
        {of_run("condition", type="Degraded", reason="CheckpointRootUnusable"): "1x4 0x3 1x8 0x3 1x16"},
        "25m",
        LABELS | {"reason": "CheckpointRootUnusable"},
    ),
    AlertCase(
        "HalcyonRunHeldBack",
        "the second try succeeded",
        {of_run("condition", type="Degraded", reason="CheckpointRootUnusable"): "1 0x60"},
        "30m",
    ),
    AlertCase(
        "HalcyonRunPodsStuck",
        "a node is lost with its pod",
        {of_run("condition", type="Degraded", reason="PodStuckTerminating"): "1x30"},
        "5m",
        LABELS | {"reason": "PodStuckTerminating"},
    ),
    AlertCase(
        "HalcyonRunPodsStuck",
        "a quota refuses its pods",
        {of_run("condition", type="Degraded", reason="PodsRefused"): "1x30"},
        "5m",
        LABELS | {"reason": "PodsRefused"},
    ),
    AlertCase(
        "HalcyonRunPodsStuck",
        "an image cannot be pulled",
        {of_run("condition", type="Degraded", reason="ImagePullFailed"): "1x30"},
        "5m",
        LABELS | {"reason": "ImagePullFailed"},
    ),
    AlertCase(
        "HalcyonRunPodsStuck",
        "the store is away, which has an alert of its own",
        {of_run("condition", type="Degraded", reason="CheckpointRootUnusable"): "1x30"},
        "5m",
    ),
    AlertCase(
        "HalcyonRunPodsStuck",
        "a slice is missing",
        {of_run("condition", type="Degraded", reason="FewerSlices"): "1x30"},
        "5m",
    ),
    AlertCase(
        "HalcyonRunDegraded",
        "it is held back",
        {of_run("condition", type="Degraded", reason="RestartsWithoutCheckpoint"): "1x400"},
        "370m",
    ),
    AlertCase(
        "HalcyonRunDegraded",
        "a slice is missing",
        {of_run("condition", type="Degraded", reason="FewerSlices"): "1x400"},
        "370m",
        LABELS,
    ),
    AlertCase(
        "HalcyonRunDegraded",
        "only for five hours",
        {
            of_run("condition", type="Degraded", reason="FewerSlices"): "1x300 stale",
            of_run("condition", type="Degraded", reason="AllSlices"): "_x300 0x100",
        },
        "299m",
    ),
    AlertCase(
        "HalcyonRunCrashLoop",
        "three crashes",
        {of_run("failures_without_checkpoint"): "0x5 1x5 2x5 3x5"},
        "20m",
        LABELS,
        "3",
    ),
    AlertCase(
        "HalcyonRunCrashLoop",
        "a checkpoint between",
        {of_run("failures_without_checkpoint"): "0x5 1x5 2x5 0x5 1x9"},
        "25m",
    ),
    AlertCase(
        "HalcyonRunGoodputLow",
        "two thirds of the time is lost",
        RUNNING | {badput("capacityWait"): "0+20x180", badput("lostWork"): "0+20x180"},
        "110m",
        LABELS,
        "33.33%",
    ),
    AlertCase("HalcyonRunGoodputLow", "a sixth is lost", RUNNING | {badput("compile"): "0+10x180"}, "110m"),
    AlertCase(
        "HalcyonRunGoodputLow",
        "the run has ended",
        {of_run("phase", phase="Succeeded"): "1x180", badput("capacityWait"): "0+60x100 6000x80"},
        "110m",
    ),
    AlertCase(
        "HalcyonRunSlowerThanPlanned",
        "at 62 % of the plan",
        RUNNING | {of_run("planned_speed_ratio"): "0.62x180"},
        "40m",
        LABELS,
        "62%",
    ),
    AlertCase(
        "HalcyonRunSlowerThanPlanned",
        "at 85 % of the plan",
        RUNNING | {of_run("planned_speed_ratio"): "0.85x180"},
        "40m",
    ),
    AlertCase(
        "HalcyonCheckpointOverdue",
        "at least 60 steps since the last",
        STEPPING | {of_run("checkpoint_step"): "0+10x10 100x100", of_run("save_interval_steps"): "20x120"},
        "40m",
        LABELS,
    ),
    AlertCase(
        "HalcyonCheckpointOverdue",
        "none was ever made",
        STEPPING | {of_run("save_interval_steps"): "20x120"},
        "20m",
        LABELS,
    ),
    AlertCase(
        "HalcyonCheckpointOverdue",
        "every save succeeds",
        STEPPING | {of_run("checkpoint_step"): "0+10x120", of_run("save_interval_steps"): "20x120"},
        "40m",
    ),
    AlertCase(
        "HalcyonCheckpointOverdue",
        "saves by time; the last is an hour old",
        STEPPING
        | {
            of_run("save_interval_seconds"): "600x120",
            of_run("checkpoint_timestamp_seconds"): "60x120",
            of_run("first_step_timestamp_seconds"): "30x120",
        },
        "60m",
        LABELS,
    ),
    AlertCase(
        "HalcyonCheckpointOverdue",
        "saves by time; every save succeeds",
        STEPPING
        | {
            of_run("save_interval_seconds"): "600x120",
            of_run("checkpoint_timestamp_seconds"): "0+60x120",
            of_run("first_step_timestamp_seconds"): "30x120",
        },
        "60m",
    ),
    AlertCase(
        "HalcyonCheckpointOverdue",
        "saves by time; none was ever made",
        STEPPING | {of_run("save_interval_seconds"): "600x120", of_run("first_step_timestamp_seconds"): "30x120"},
        "60m",
        LABELS,
    ),
    AlertCase(
        "HalcyonCheckpointOverdue",
        "saves by time; just resumed from a long suspension",
        STEPPING
        | {
            of_run("save_interval_seconds"): "600x120",
            of_run("checkpoint_timestamp_seconds"): "60x120",
            of_run("first_step_timestamp_seconds"): "3000x120",
        },
        "60m",
    ),
    AlertCase(
        "HalcyonCheckpointOverdue",
        "suspended",
        {
            of_run("phase", phase="Suspended"): "1x120",
            of_run("step"): "500x120",
            of_run("save_interval_steps"): "20x120",
        },
        "60m",
    ),
    AlertCase(
        "HalcyonCheckpointDegraded",
        "a save failed",
        {of_trainer("checkpoint_failures_total"): "0x9 2x30"},
        "20m",
        LABELS,
        "2",
    ),
    AlertCase("HalcyonCheckpointDegraded", "long ago", {of_trainer("checkpoint_failures_total"): "0x9 2x90"}, "60m"),
    AlertCase(
        "HalcyonCheckpointLate", "it hangs", {of_trainer("late_save_seconds"): "_x5 10+60x5"}, "8m", LABELS, "3m 10s"
    ),
    AlertCase(
        "HalcyonCheckpointLate", "it has ended", {of_trainer("late_save_seconds"): "_x5 10+60x2 stale _x20"}, "12m"
    ),
    AlertCase(
        "HalcyonTrainerUnhealthy",
        "one of two is unhealthy",
        {of_trainer("healthy"): "1x30", of_trainer("healthy", "demo-1-s-0-1"): "1x5 0x30"},
        "15m",
        LABELS | {"pod": "demo-1-s-0-1"},
    ),
    AlertCase(
        "HalcyonTrainerUnhealthy",
        "both are healthy",
        {of_trainer("healthy"): "1x30", of_trainer("healthy", "demo-1-s-0-1"): "1x30"},
        "15m",
    ),
    AlertCase("HalcyonTrainerUnhealthy", "only for a minute", {of_trainer("healthy"): "1x5 0 1x20"}, "6m"),
    AlertCase(
        "HalcyonTrainerUnseen",
        "the metrics of one of two trainers arrive",
        RUNNING | {of_run("hosts"): "2x60", of_trainer("healthy"): "1x60"},
        "20m",
        LABELS,
        "1",
    ),
    AlertCase("HalcyonTrainerUnseen", "none arrives", RUNNING | {of_run("hosts"): "2x60"}, "20m", LABELS, "2"),
    AlertCase(
        "HalcyonTrainerUnseen",
        "those of both arrive",
        RUNNING | {of_run("hosts"): "2x60"} | {of_trainer("healthy", pod): "1x60" for pod in ("a", "b")},
        "20m",
    ),
    AlertCase(
        "HalcyonTrainerUnseen",
        "the run waits for its hosts",
        {of_run("phase", phase="Starting"): "1x60", of_run("hosts"): "2x60"},
        "20m",
    ),
    AlertCase("HalcyonOperatorDown", "it does not answer", {UP: "1x5 0x30"}, "20m", {"namespace": "halcyon"}),
    AlertCase(
        "HalcyonOperatorDown",
        "the operator of another release answers",
        {UP: "1x5 0x30", UP.replace("halcyon", "team-b").replace("team-b-operator", "halcyon-operator"): "1x40"},
        "20m",
        {"namespace": "halcyon"},
    ),
    AlertCase("HalcyonOperatorDown", "its target was deleted", {UP: "1x5 stale"}, "20m", {"namespace": "halcyon"}),
    AlertCase(
        "HalcyonOperatorDown", "it does not exist at all", {'up{job="other"}': "1x30"}, "20m", {"namespace": "any"}
    ),
    AlertCase(
        "HalcyonOperatorDown",
        "it was replaced",
        {UP: "1x5 stale", UP.replace("operator-1", "operator-2"): "_x7 1x30"},
        "6m",
    ),
    AlertCase(
        "HalcyonOperatorWithoutLeader", "two operators, none leads", {LEADS[0]: "1x5 0x30", LEADS[1]: "0x60"}, "15m", {}
    ),
    AlertCase(
        "HalcyonOperatorWithoutLeader", "the other took over", {LEADS[0]: "1x5 0x30", LEADS[1]: "0x5 1x30"}, "15m"
    ),
    AlertCase(
        "HalcyonOperatorReconcileErrors",
        "every fifth reconciliation",
        {
            of_operator("reconciles_total", result="ok"): "0+40x60",
            of_operator("reconciles_total", result="error"): "0+10x60",
        },
        "40m",
        {},
        "20%",
    ),
    AlertCase(
        "HalcyonOperatorReconcileErrors",
        "every fiftieth reconciliation",
        {
            of_operator("reconciles_total", result="ok"): "0+49x60",
            of_operator("reconciles_total", result="error"): "0+1x60",
        },
        "40m",
    ),
    AlertCase(
        "HalcyonOperatorReconcileErrors",
        "conflicts are no errors",
        {
            of_operator("reconciles_total", result="ok"): "0+1x60",
            of_operator("reconciles_total", result="conflict"): "0+9x60",
        },
        "40m",
    ),
    AlertCase(
        "HalcyonOperatorBacklog",
        "a hundred wait for a long time",
        {of_operator("queue_depth"): "0x5 100x60"},
        "40m",
        {},
        "100",
    ),
    AlertCase(
        "HalcyonOperatorBacklog",
        "empty every ten minutes",
        {of_operator("queue_depth"): "100x9 0 100x9 0 100x9"},
        "28m",
    ),
    AlertCase(
        "HalcyonOperatorWatchLagging",
        "the watch is dead",
        {of_operator("watch_lag_seconds"): "0x5 0+60x30"},
        "15m",
        {},
        "9m 0s",
    ),
    AlertCase("HalcyonOperatorWatchLagging", "a slow moment", {of_operator("watch_lag_seconds"): "0x5 61 0x30"}, "6m"),
    AlertCase(
        "HalcyonApiServerRefuses",
        "429 and 503",
        {
            of_operator("api_requests_total", code="200"): "0+9x60",
            of_operator("api_requests_total", code="429"): "0+0.5x60",
            of_operator("api_requests_total", code="503"): "0+0.5x60",
        },
        "40m",
        {},
        "10%",
    ),
    AlertCase(
        "HalcyonApiServerRefuses",
        "it does not answer",
        {
            of_operator("api_requests_total", code="200"): "0+9x60",
            of_operator("api_requests_total", code="none"): "0+1x60",
        },
        "40m",
        {},
        "10%",
    ),
    AlertCase(
        "HalcyonApiServerRefuses",
        "404 and 409 are answers",
        {
            of_operator("api_requests_total", code="200"): "0+5x60",
            of_operator("api_requests_total", code="404"): "0+5x60",
        },
        "40m",
    ),
    AlertCase(
        "HalcyonCheckpointRootUnreachable",
        "no root can be read",
        {of_operator("checkpoint_head_reads_total", result="unreachable"): "0+6x60"},
        "40m",
        {},
        "100%",
    ),
    AlertCase(
        "HalcyonCheckpointRootUnreachable",
        "one read in seven",
        {
            of_operator("checkpoint_head_reads_total", result="found"): "0+6x60",
            of_operator("checkpoint_head_reads_total", result="unreachable"): "0+1x60",
        },
        "40m",
    ),
)

_TWO_RUNS = {
    'halcyon_run_phase{namespace="team",run="big",phase="Running"}': "1x120",
    'halcyon_run_phase{namespace="team",run="big",phase="Running",pod="second-operator"}': "1x120",
    'halcyon_run_phase{namespace="team",run="small",phase="Starting"}': "1x120",
    'halcyon_run_phase{namespace="team",run="over",phase="Succeeded"}': "1x120",
    'halcyon_run_devices{namespace="team",run="big"}': "30x120",
    'halcyon_run_devices{namespace="team",run="small"}': "10x120",
    'halcyon_run_devices{namespace="team",run="over"}': "0x120",
    'halcyon_badput_seconds_total{namespace="team",run="big",cause="compile"}': "0+6x120",
    'halcyon_badput_seconds_total{namespace="team",run="small",cause="capacityWait"}': "0+30x120",
    # with capacityWait 1.1 seconds a second
    'halcyon_badput_seconds_total{namespace="team",run="small",cause="startup"}': "0+36x120",
    'halcyon_badput_seconds_total{namespace="team",run="over",cause="compile"}': "100x120",
}

RECORD_CASES = (
    RecordCase(
        queries.BADPUT,
        _TWO_RUNS,
        "100m",
        {
            'namespace="team",run="big",cause="compile"': 0.1,
            'namespace="team",run="small",cause="capacityWait"': 0.5,
            'namespace="team",run="small",cause="startup"': 0.6,
            'namespace="team",run="over",cause="compile"': 0,
        },
    ),
    RecordCase(
        queries.GOODPUT, _TWO_RUNS, "100m", {'namespace="team",run="big"': 0.9, 'namespace="team",run="small"': 0}
    ),
    RecordCase(queries.FLEET_GOODPUT, _TWO_RUNS, "100m", {"": 0.675}),
    RecordCase(
        queries.DEVICES,
        _TWO_RUNS,
        "10m",
        {
            'namespace="team",phase="Running"': 30,
            'namespace="team",phase="Starting"': 10,
            'namespace="team",phase="Succeeded"': 0,
        },
    ),
    RecordCase(
        queries.TOKENS_PER_SECOND,
        {of_trainer("tokens_per_second"): "1000x10", of_trainer("tokens_per_second", "demo-1-s-0-1"): "1010x10"},
        "5m",
        {WHO: 1010},
    ),
    RecordCase(
        queries.STEP_SECONDS,
        {
            of_trainer("step_seconds_bucket", le="0.5"): "0+0x10",
            of_trainer("step_seconds_bucket", le="1.0"): "0+60x10",
            of_trainer("step_seconds_bucket", le="+Inf"): "0+60x10",
        },
        "10m",
        {WHO: 0.75},
    ),
    RecordCase(queries.CHECKPOINT_AGE, RUNNING | {of_run("checkpoint_timestamp_seconds"): "120x20"}, "10m", {WHO: 480}),
    RecordCase(
        queries.CHECKPOINT_AGE,
        {of_run("phase", phase="Suspended"): "1x20", of_run("checkpoint_timestamp_seconds"): "120x20"},
        "10m",
        {},
    ),
)
