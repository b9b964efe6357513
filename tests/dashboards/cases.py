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
    """Some series, over which an alert must fire at a time, with these labels and this value; None: it is silent."""

    why: str
    at: str
    series: Mapping[str, str]
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


def in_phase(phase: str) -> str:
    return of_run("phase", phase=phase)


def stalled(reason: str) -> str:
    return of_run("condition", type="Stalled", reason=reason)


def degraded(reason: str) -> str:
    return of_run("condition", type="Degraded", reason=reason)


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
RUNNING = {in_phase("Running"): "1x120"}
STEPPING = RUNNING | {of_run("step"): "0+10x120"}
UP = f'up{{job="{queries.OPERATOR_JOB}",namespace="halcyon",pod="operator-1"}}'

ALERT_CASES: dict[str, tuple[AlertCase, ...]] = {
    "HalcyonRunStalled": (
        AlertCase("the run diverged", "10m", {stalled("Diverged"): "0x4 1x20"}, LABELS | {"reason": "Diverged"}),
        AlertCase(
            "the reason was fixed", "15m", {stalled("Diverged"): "1x10 stale", stalled("Progressing"): "_x10 0x20"}
        ),
        AlertCase("only Degraded", "10m", {degraded("FewerSlices"): "1x20"}),
        AlertCase("a typo", "20m", {stalled("InvalidSpec"): "1x30"}),
    ),
    "HalcyonRunInvalid": (
        AlertCase("a typo", "20m", {stalled("InvalidSpec"): "0x4 1x30"}, LABELS),
        AlertCase("it diverged", "20m", {stalled("Diverged"): "1x30"}),
    ),
    "HalcyonRunCorrupted": (
        AlertCase(
            "an audit ended a process group", "12m", {of_run("restarts_total", cause="corrupted"): "0x10 1x50"}, LABELS
        ),
        AlertCase("an audit only reports", "12m", {of_trainer("corruptions_total"): "0x10 1x50"}, LABELS),
        AlertCase("another failure", "12m", {of_run("restarts_total", cause="failed"): "0x10 1x50"}),
    ),
    "HalcyonRunMismatch": (
        AlertCase("two kernels disagree", "20m", {of_trainer("mismatch_nats"): "0.75x30"}, LABELS, "0.75"),
        AlertCase("rounding of bfloat16", "20m", {of_trainer("mismatch_nats"): "0.1x30"}),
        AlertCase("only for ten minutes", "20m", {of_trainer("mismatch_nats"): "0.75x10 0.1x20"}),
    ),
    "HalcyonRunWithoutProgress": (
        AlertCase("steps stop", "60m", RUNNING | {of_run("step"): "0+10x20 200x60"}, LABELS),
        AlertCase("a step in 25 minutes", "48m", RUNNING | {of_run("step"): "0x24 1x24 2x24"}),
        AlertCase("it waits for nodes", "60m", {in_phase("Starting"): "1x90", of_run("step"): "200x90"}),
    ),
    "HalcyonRunWaiting": (
        AlertCase("no nodes", "70m", {in_phase("Pending"): "1x90"}, LABELS),
        AlertCase(
            "no nodes after a preemption, through two phases",
            "70m",
            {in_phase("Restarting"): "1x30 stale", in_phase("Starting"): "_x30 1x60"},
            LABELS,
        ),
        AlertCase("it waits for its turn in a queue", "70m", {in_phase("Queued"): "1x90"}),
        AlertCase("for half an hour only", "29m", {in_phase("Pending"): "1x30 stale"}),
        AlertCase(
            "it is stalled, which is another alert",
            "70m",
            {in_phase("Pending"): "1x90", stalled("InvalidSpec"): "1x90"},
        ),
    ),
    "HalcyonRunHeldBack": (
        AlertCase(
            "the store denies access; it also fires between two retries",
            "25m",
            {degraded("CheckpointRootUnusable"): "1x4 0x3 1x8 0x3 1x16"},
            LABELS | {"reason": "CheckpointRootUnusable"},
        ),
        AlertCase("the second try succeeded", "30m", {degraded("CheckpointRootUnusable"): "1 0x60"}),
    ),
    "HalcyonRunPodsStuck": (
        AlertCase(
            "a node is lost with its pod",
            "5m",
            {degraded("PodStuckTerminating"): "1x30"},
            LABELS | {"reason": "PodStuckTerminating"},
        ),
        AlertCase(
            "a quota refuses its pods", "5m", {degraded("PodsRefused"): "1x30"}, LABELS | {"reason": "PodsRefused"}
        ),
        AlertCase(
            "an image cannot be pulled",
            "5m",
            {degraded("ImagePullFailed"): "1x30"},
            LABELS | {"reason": "ImagePullFailed"},
        ),
        AlertCase(
            "the store is away, which has an alert of its own", "5m", {degraded("CheckpointRootUnusable"): "1x30"}
        ),
        AlertCase("a slice is missing", "5m", {degraded("FewerSlices"): "1x30"}),
    ),
    "HalcyonRunDegraded": (
        AlertCase("it is held back", "370m", {degraded("RestartsWithoutCheckpoint"): "1x400"}),
        AlertCase("a slice is missing", "370m", {degraded("FewerSlices"): "1x400"}, LABELS),
        AlertCase(
            "only for five hours",
            "299m",
            {degraded("FewerSlices"): "1x300 stale", degraded("AllSlices"): "_x300 0x100"},
        ),
    ),
    "HalcyonRunCrashLoop": (
        AlertCase("three crashes", "20m", {of_run("failures_without_checkpoint"): "0x5 1x5 2x5 3x5"}, LABELS, "3"),
        AlertCase("a checkpoint between", "25m", {of_run("failures_without_checkpoint"): "0x5 1x5 2x5 0x5 1x9"}),
    ),
    "HalcyonRunGoodputLow": (
        AlertCase(
            "two thirds of the time is lost",
            "110m",
            RUNNING | {badput("capacityWait"): "0+20x180", badput("lostWork"): "0+20x180"},
            LABELS,
            "33.33%",
        ),
        AlertCase("a sixth is lost", "110m", RUNNING | {badput("compile"): "0+10x180"}),
        AlertCase(
            "the run has ended", "110m", {in_phase("Succeeded"): "1x180", badput("capacityWait"): "0+60x100 6000x80"}
        ),
    ),
    "HalcyonRunSlowerThanPlanned": (
        AlertCase("at 62 % of the plan", "40m", RUNNING | {of_run("planned_speed_ratio"): "0.62x180"}, LABELS, "62%"),
        AlertCase("at 85 % of the plan", "40m", RUNNING | {of_run("planned_speed_ratio"): "0.85x180"}),
    ),
    "HalcyonCheckpointOverdue": (
        AlertCase(
            "at least 60 steps since the last",
            "40m",
            STEPPING | {of_run("checkpoint_step"): "0+10x10 100x100", of_run("save_interval_steps"): "20x120"},
            LABELS,
        ),
        AlertCase("none was ever made", "20m", STEPPING | {of_run("save_interval_steps"): "20x120"}, LABELS),
        AlertCase(
            "every save succeeds",
            "40m",
            STEPPING | {of_run("checkpoint_step"): "0+10x120", of_run("save_interval_steps"): "20x120"},
        ),
        AlertCase(
            "saves by time; the last is an hour old",
            "60m",
            STEPPING
            | {
                of_run("save_interval_seconds"): "600x120",
                of_run("checkpoint_timestamp_seconds"): "60x120",
                of_run("first_step_timestamp_seconds"): "30x120",
            },
            LABELS,
        ),
        AlertCase(
            "saves by time; every save succeeds",
            "60m",
            STEPPING
            | {
                of_run("save_interval_seconds"): "600x120",
                of_run("checkpoint_timestamp_seconds"): "0+60x120",
                of_run("first_step_timestamp_seconds"): "30x120",
            },
        ),
        AlertCase(
            "saves by time; none was ever made",
            "60m",
            STEPPING | {of_run("save_interval_seconds"): "600x120", of_run("first_step_timestamp_seconds"): "30x120"},
            LABELS,
        ),
        AlertCase(
            "saves by time; just resumed from a long suspension",
            "60m",
            STEPPING
            | {
                of_run("save_interval_seconds"): "600x120",
                of_run("checkpoint_timestamp_seconds"): "60x120",
                of_run("first_step_timestamp_seconds"): "3000x120",
            },
        ),
        AlertCase(
            "suspended",
            "60m",
            {in_phase("Suspended"): "1x120", of_run("step"): "500x120", of_run("save_interval_steps"): "20x120"},
        ),
    ),
    "HalcyonCheckpointDegraded": (
        AlertCase("a save failed", "20m", {of_trainer("checkpoint_failures_total"): "0x9 2x30"}, LABELS, "2"),
        AlertCase("long ago", "60m", {of_trainer("checkpoint_failures_total"): "0x9 2x90"}),
    ),
    "HalcyonCheckpointLate": (
        AlertCase("it hangs", "8m", {of_trainer("late_save_seconds"): "_x5 10+60x5"}, LABELS, "3m 10s"),
        AlertCase("it has ended", "12m", {of_trainer("late_save_seconds"): "_x5 10+60x2 stale _x20"}),
    ),
    "HalcyonTrainerUnhealthy": (
        AlertCase(
            "one of two is unhealthy",
            "15m",
            {of_trainer("healthy"): "1x30", of_trainer("healthy", "demo-1-s-0-1"): "1x5 0x30"},
            LABELS | {"pod": "demo-1-s-0-1"},
        ),
        AlertCase(
            "both are healthy", "15m", {of_trainer("healthy"): "1x30", of_trainer("healthy", "demo-1-s-0-1"): "1x30"}
        ),
        AlertCase("only for a minute", "6m", {of_trainer("healthy"): "1x5 0 1x20"}),
    ),
    "HalcyonTrainerUnseen": (
        AlertCase(
            "the metrics of one of two trainers arrive",
            "20m",
            RUNNING | {of_run("hosts"): "2x60", of_trainer("healthy"): "1x60"},
            LABELS,
            "1",
        ),
        AlertCase("none arrives", "20m", RUNNING | {of_run("hosts"): "2x60"}, LABELS, "2"),
        AlertCase(
            "those of both arrive",
            "20m",
            RUNNING | {of_run("hosts"): "2x60"} | {of_trainer("healthy", pod): "1x60" for pod in ("a", "b")},
        ),
        AlertCase("the run waits for its hosts", "20m", {in_phase("Starting"): "1x60", of_run("hosts"): "2x60"}),
    ),
    "HalcyonOperatorDown": (
        AlertCase("it does not answer", "20m", {UP: "1x5 0x30"}, {"namespace": "halcyon"}),
        AlertCase(
            "the operator of another release answers",
            "20m",
            {UP: "1x5 0x30", UP.replace("halcyon", "team-b").replace("team-b-operator", "halcyon-operator"): "1x40"},
            {"namespace": "halcyon"},
        ),
        AlertCase("its target was deleted", "20m", {UP: "1x5 stale"}, {"namespace": "halcyon"}),
        AlertCase("it does not exist at all", "20m", {'up{job="other"}': "1x30"}, {"namespace": "any"}),
        AlertCase("it was replaced", "6m", {UP: "1x5 stale", UP.replace("operator-1", "operator-2"): "_x7 1x30"}),
    ),
    "HalcyonOperatorWithoutLeader": (
        AlertCase("two operators, none leads", "15m", {LEADS[0]: "1x5 0x30", LEADS[1]: "0x60"}, {}),
        AlertCase("the other took over", "15m", {LEADS[0]: "1x5 0x30", LEADS[1]: "0x5 1x30"}),
    ),
    "HalcyonOperatorReconcileErrors": (
        AlertCase(
            "every fifth reconciliation",
            "40m",
            {
                of_operator("reconciles_total", result="ok"): "0+40x60",
                of_operator("reconciles_total", result="error"): "0+10x60",
            },
            {},
            "20%",
        ),
        AlertCase(
            "every fiftieth reconciliation",
            "40m",
            {
                of_operator("reconciles_total", result="ok"): "0+49x60",
                of_operator("reconciles_total", result="error"): "0+1x60",
            },
        ),
        AlertCase(
            "conflicts are no errors",
            "40m",
            {
                of_operator("reconciles_total", result="ok"): "0+1x60",
                of_operator("reconciles_total", result="conflict"): "0+9x60",
            },
        ),
    ),
    "HalcyonOperatorBacklog": (
        AlertCase("a hundred wait for a long time", "40m", {of_operator("queue_depth"): "0x5 100x60"}, {}, "100"),
        AlertCase("empty every ten minutes", "28m", {of_operator("queue_depth"): "100x9 0 100x9 0 100x9"}),
    ),
    "HalcyonOperatorWatchLagging": (
        AlertCase("the watch is dead", "15m", {of_operator("watch_lag_seconds"): "0x5 0+60x30"}, {}, "9m 0s"),
        AlertCase("a slow moment", "6m", {of_operator("watch_lag_seconds"): "0x5 61 0x30"}),
    ),
    "HalcyonApiServerRefuses": (
        AlertCase(
            "429 and 503",
            "40m",
            {
                of_operator("api_requests_total", code="200"): "0+9x60",
                of_operator("api_requests_total", code="429"): "0+0.5x60",
                of_operator("api_requests_total", code="503"): "0+0.5x60",
            },
            {},
            "10%",
        ),
        AlertCase(
            "it does not answer",
            "40m",
            {
                of_operator("api_requests_total", code="200"): "0+9x60",
                of_operator("api_requests_total", code="none"): "0+1x60",
            },
            {},
            "10%",
        ),
        AlertCase(
            "404 and 409 are answers",
            "40m",
            {
                of_operator("api_requests_total", code="200"): "0+5x60",
                of_operator("api_requests_total", code="404"): "0+5x60",
            },
        ),
    ),
    "HalcyonCheckpointRootUnreachable": (
        AlertCase(
            "no root can be read",
            "40m",
            {of_operator("checkpoint_head_reads_total", result="unreachable"): "0+6x60"},
            {},
            "100%",
        ),
        AlertCase(
            "one read in seven",
            "40m",
            {
                of_operator("checkpoint_head_reads_total", result="found"): "0+6x60",
                of_operator("checkpoint_head_reads_total", result="unreachable"): "0+1x60",
            },
        ),
    ),
}

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
        {in_phase("Suspended"): "1x20", of_run("checkpoint_timestamp_seconds"): "120x20"},
        "10m",
        {},
    ),
)
