"""Every PromQL expression of the dashboards, the recording rules and the alerts, by name.

They depend on labels: the operator's metrics have the `namespace` and `run` of their run (the ServiceMonitor sets
`honorLabels`), and the trainers' metrics have the `namespace`, `run` and `attempt` of their pod (the PodMonitor
relabels them). `max by` around the operator's samples counts a run once, also if there are several operators or one has
just been replaced.
"""

from __future__ import annotations

from dataclasses import dataclass

from halcyon_api.ends import HELD_REASONS

OPERATOR_JOB = "halcyon-operator"
"""Label `job` of the operator's metrics, set by the ServiceMonitor."""
TRAINER_JOB = "halcyon-trainer"
"""Label `job` of the trainers' metrics, set by the PodMonitor."""


@dataclass(frozen=True)
class Query:
    """A query of a panel.

    Attributes:
        expr: PromQL with the dashboard's variables.
        legend: Name of a series, with `{{label}}` for labels.
    """

    expr: str
    legend: str = ""


_FLEET = 'namespace=~"$namespace"'
_RUN = 'namespace="$namespace",run="$run"'


def _per_run(metric: str, selector: str = "", *, by: str = "") -> str:
    """Return an expression for the operator's sample of each run, one sample per run even if several operators export
    it.
    """
    labels = f"namespace, run, {by}" if by else "namespace, run"
    return f"max by ({labels}) ({metric}{{{selector}}})" if selector else f"max by ({labels}) ({metric})"


# Parts of other expressions
# -------------------------------------------------------------------------------------------------------------

_WORKING = 'phase=~"Starting|Running|Restarting"'
_STALLED = 'type="Stalled"'
INVALID = "InvalidSpec"
"""Reason of a run whose document is not valid."""
_IN_WORK = _per_run("halcyon_run_phase", _WORKING)
_RUNNING = _per_run("halcyon_run_phase", 'phase="Running"')
_HOLDS = _per_run("halcyon_run_devices")
_STEP = _per_run("halcyon_run_step")
_SAVED_STEP = _per_run("halcyon_run_checkpoint_step")
_SAVED_AT = _per_run("halcyon_run_checkpoint_timestamp_seconds")

# Recorded
# ----------------------------------------------------------------------------------------------------------------------

BADPUT = "namespace_run_cause:halcyon_badput:ratio1h"
GOODPUT = "namespace_run:halcyon_goodput:ratio1h"
FLEET_GOODPUT = "halcyon:goodput:ratio1h"
DEVICES = "namespace_phase:halcyon_run_devices:sum"
TOKENS_PER_SECOND = "namespace_run:halcyon_tokens_per_second:max"
STEP_SECONDS = "namespace_run:halcyon_step_seconds:p50_5m"
CHECKPOINT_AGE = "namespace_run:halcyon_checkpoint_age_seconds:max"

RECORDED: dict[str, str] = {
    BADPUT: "max by (namespace, run, cause) (rate(halcyon_badput_seconds_total[1h]))",
    # Badput grows by one second per second while a run does nothing useful. The part of the hour before a run began
    # counts as goodput.
    GOODPUT: f"clamp_min(1 - sum by (namespace, run) ({BADPUT}), 0) and on (namespace, run) {_IN_WORK}",
    FLEET_GOODPUT: f"sum({GOODPUT} * on (namespace, run) {_HOLDS}) / (sum({_HOLDS} and on "
    f"(namespace, run) {GOODPUT}) > 0)",
    DEVICES: f"sum by (namespace, phase) ({_per_run('halcyon_run_phase', by='phase')} * on (namespace, run) group_left "
    f"{_HOLDS})",
    TOKENS_PER_SECOND: "max by (namespace, run) (halcyon_trainer_tokens_per_second)",
    STEP_SECONDS: "histogram_quantile(0.5, sum by (namespace, run, le) "
    "(rate(halcyon_trainer_step_seconds_bucket[5m])))",
    CHECKPOINT_AGE: f"(time() - {_SAVED_AT}) and on (namespace, run) {_IN_WORK}",
}

# Alerts
# ----------------------------------------------------------------------------------------------------------------------

OVERDUE_INTERVALS = 3
CRASHES = 3
MISMATCH_NATS = 0.5
LOW_GOODPUT = 0.5
SLOW_PLAN = 0.8
"""Share of the planned speed below which a run counts as slower than planned, as in the condition `Planned`."""
RECONCILE_ERRORS = 0.1
API_ERRORS = 0.05
BACKLOG = 50
WATCH_LAG_SECONDS = 60

_LATE_SECONDS = f"{OVERDUE_INTERVALS} * {_per_run('halcyon_run_save_interval_seconds')}"

RUN_STALLED = _per_run("halcyon_run_condition", f'{_STALLED},reason!="{INVALID}"', by="reason") + " == 1"
RUN_INVALID = _per_run("halcyon_run_condition", f'{_STALLED},reason="{INVALID}"') + " == 1"
RUN_WITHOUT_PROGRESS = (
    f"max by (namespace, run) (changes(halcyon_run_step[15m])) == 0 and on (namespace, run) {_RUNNING}"
)
RUN_WAITS = (
    _per_run("halcyon_run_phase", 'phase=~"Pending|Starting|Restarting"')
    + f" == 1 unless on (namespace, run) {_per_run('halcyon_run_condition', _STALLED)} == 1"
)
RUN_DEGRADED = _per_run("halcyon_run_condition", 'type="Degraded",reason="FewerSlices"') + " == 1"
# Between two pauses the run tries again, and the condition is not True for a while, so the last 10 minutes count.
RUN_HELD_BACK = (
    "max by (namespace, run, reason) (max_over_time(halcyon_run_condition"
    f'{{type="Degraded",reason=~"{"|".join(HELD_REASONS)}"}}[10m])) == 1'
)
RUN_PODS_STUCK = (
    _per_run(
        "halcyon_run_condition",
        f'type="Degraded",reason!~"FewerSlices|{"|".join(HELD_REASONS)}"',
        by="reason",
    )
    + " == 1"
)
RUN_CRASHES = f"{_per_run('halcyon_run_failures_without_checkpoint')} >= {CRASHES}"
# A trainer that goes back ends before the next scrape, so the operator's counter of ends counts too.
RUN_CORRUPTED = (
    'sum by (namespace, run) (increase(halcyon_run_restarts_total{cause="corrupted"}[1h])) > 0'
    " or sum by (namespace, run) (increase(halcyon_trainer_corruptions_total[1h])) > 0"
)
# The difference of a ratio by 1.65, far more than the loss clips by default.
RUN_MISMATCH = f"{_per_run('halcyon_trainer_mismatch_nats')} > {MISMATCH_NATS}"
RUN_GOODPUT_LOW = f"{GOODPUT} < {LOW_GOODPUT}"
RUN_SLOWER = f"{_per_run('halcyon_run_planned_speed_ratio')} < {SLOW_PLAN} and on (namespace, run) {_RUNNING}"
# By steps: those done since the checkpoint, or all steps if there is none. By time: since the checkpoint, or since the
# current processes began to train, whichever is later, so that a run that comes back from a suspension has a full
# interval.
CHECKPOINT_OVERDUE = (
    f"(({_STEP} - ({_SAVED_STEP} or {_STEP} * 0)) > {OVERDUE_INTERVALS} * {_per_run('halcyon_run_save_interval_steps')}"
    f" or ((time() - {_per_run('halcyon_run_first_step_timestamp_seconds')}) > {_LATE_SECONDS}"
    f" unless (time() - {_SAVED_AT}) <= {_LATE_SECONDS}))"
    f" and on (namespace, run) {_RUNNING}"
)
CHECKPOINT_LATE = "max by (namespace, run) (halcyon_trainer_late_save_seconds) > 60"
CHECKPOINT_FAILS = "sum by (namespace, run) (increase(halcyon_trainer_checkpoint_failures_total[30m])) > 0"
TRAINER_UNHEALTHY = "min by (namespace, run, pod) (halcyon_trainer_healthy) == 0"
# A metric that does not arrive fires no alert.
TRAINER_UNSEEN = (
    f"({_per_run('halcyon_run_hosts')} and on (namespace, run) {_RUNNING})"
    f" - (count by (namespace, run) (halcyon_trainer_healthy) or {_RUNNING} * 0) > 0"
)
ROOT_UNREACHABLE = (
    'sum(rate(halcyon_operator_checkpoint_head_reads_total{result="unreachable"}[15m]))'
    " / sum(rate(halcyon_operator_checkpoint_head_reads_total[15m])) > 0.5"
)
_UP = f'up{{job="{OPERATOR_JOB}"}}'
OPERATOR_DOWN = (
    # Per release: a target of it was seen within the last hour, and none answers now.
    f"(max by (namespace) (max_over_time({_UP}[1h])) unless on (namespace) max by (namespace) ({_UP} == 1))"
    f' or label_replace(absent(max_over_time({_UP}[1h])), "namespace", "any", "", "")'
)
OPERATOR_WITHOUT_LEADER = "max(halcyon_operator_leader) == 0"
OPERATOR_ERRORS = (
    'sum(rate(halcyon_operator_reconciles_total{result="error"}[10m]))'
    f" / sum(rate(halcyon_operator_reconciles_total[10m])) > {RECONCILE_ERRORS}"
)
OPERATOR_BACKLOG = f"max(min_over_time(halcyon_operator_queue_depth[15m])) > {BACKLOG}"
OPERATOR_WATCH_LAGS = f"max(halcyon_operator_watch_lag_seconds) > {WATCH_LAG_SECONDS}"
API_SERVER_REFUSES = (
    'sum(rate(halcyon_operator_api_requests_total{code=~"429|5..|none"}[10m]))'
    f" / sum(rate(halcyon_operator_api_requests_total[10m])) > {API_ERRORS}"
)

# Dashboards: the fleet
# ------------------------------------------------------------------------------------------------------------------

FLEET: dict[str, Query] = {
    "runs": Query(f"count by (phase) ({_per_run('halcyon_run_phase', _FLEET, by='phase')})", "{{phase}}"),
    "runs in work": Query(f"sum({_per_run('halcyon_run_phase', f'{_FLEET},{_WORKING}')}) or vector(0)"),
    "runs stalled": Query(f"sum({_per_run('halcyon_run_condition', f'{_FLEET},{_STALLED}')}) or vector(0)"),
    "devices": Query(f"sum by (phase) ({DEVICES}{{{_FLEET}}})", "{{phase}}"),
    "devices busy": Query(f'sum({DEVICES}{{{_FLEET},phase="Running"}}) or vector(0)'),
    "hosts": Query(f"sum({_per_run('halcyon_run_hosts', _FLEET)})", "hosts"),
    "goodput": Query(FLEET_GOODPUT, "all runs"),
    "goodput of runs": Query(f"{GOODPUT}{{{_FLEET}}}", "{{namespace}}/{{run}}"),
    "badput": Query(f"sum by (cause) ({BADPUT}{{{_FLEET}}}) > 0", "{{cause}}"),
    "restarts": Query(
        f"sum by (cause) (increase(halcyon_run_restarts_total{{{_FLEET}}}[$__rate_interval]))", "{{cause}}"
    ),
    "waiting": Query(f'sum({BADPUT}{{{_FLEET},cause=~"capacityWait|operatorDelay|startup"}}) by (cause)', "{{cause}}"),
    "waited": Query(
        f'topk(10, max by (namespace, run) (halcyon_badput_seconds_total{{{_FLEET},cause="capacityWait"}}))',
        "{{namespace}}/{{run}}",
    ),
    "queued": Query(
        f"topk(10, time() - {_per_run('halcyon_run_queued_timestamp_seconds', _FLEET)})", "{{namespace}}/{{run}}"
    ),
    "tokens": Query(f"sum({TOKENS_PER_SECOND}{{{_FLEET}}})", "tokens per second"),
    "table phase": Query(_per_run("halcyon_run_phase", _FLEET, by="phase")),
    "table progress": Query(
        f"{_per_run('halcyon_run_step', _FLEET)} / {_per_run('halcyon_run_planned_steps', _FLEET)}"
    ),
    "table goodput": Query(_per_run("halcyon_goodput_ratio", _FLEET)),
    "table devices": Query(_per_run("halcyon_run_devices", _FLEET)),
    "table restarts": Query(f"sum by (namespace, run) ({_per_run('halcyon_run_restarts_total', _FLEET, by='cause')})"),
    "table checkpoint": Query(f"time() - {_per_run('halcyon_run_checkpoint_timestamp_seconds', _FLEET)}"),
}

# Dashboards: one run
# --------------------------------------------------------------------------------------------------------------------

RUN: dict[str, Query] = {
    "phase": Query(_per_run("halcyon_run_phase", _RUN, by="phase"), "{{phase}}"),
    "progress": Query(f"max(halcyon_run_step{{{_RUN}}}) / max(halcyon_run_planned_steps{{{_RUN}}})"),
    "eta": Query(f"max(halcyon_trainer_eta_seconds{{{_RUN}}})"),
    "attempt": Query(f"max(halcyon_run_attempt{{{_RUN}}})"),
    "goodput": Query(f"max(halcyon_goodput_ratio{{{_RUN}}})", "whole run"),
    "goodput of the last hour": Query(f"{GOODPUT}{{{_RUN}}}", "last hour"),
    "devices": Query(f"max(halcyon_run_devices{{{_RUN}}})"),
    "loss": Query(f"max(halcyon_trainer_loss_nats{{{_RUN}}})", "training"),
    "evaluation loss": Query(f"max(halcyon_trainer_evaluation_loss_nats{{{_RUN}}})", "held out"),
    "gradient norm": Query(f"max(halcyon_trainer_gradient_norm{{{_RUN}}})", "gradient norm"),
    "learning rate": Query(f"max(halcyon_trainer_learning_rate{{{_RUN}}})", "learning rate"),
    "tokens": Query(f"{TOKENS_PER_SECOND}{{{_RUN}}}", "tokens per second"),
    "planned tokens": Query(f"max(halcyon_run_planned_tokens_per_second{{{_RUN}}})", "planned"),
    "mfu": Query(f"max(halcyon_trainer_mfu_ratio{{{_RUN}}})", "MFU"),
    **{
        f"step p{100 * quantile:g}": Query(
            f"histogram_quantile({quantile}, sum by (le) "
            f"(rate(halcyon_trainer_step_seconds_bucket{{{_RUN}}}[$__rate_interval])))",
            f"p{100 * quantile:g}",
        )
        for quantile in (0.5, 0.9, 0.99)
    },
    "data wait": Query(f"max(halcyon_trainer_data_wait_ratio{{{_RUN}}})", "share of step time"),
    "step": Query(f"max(halcyon_run_step{{{_RUN}}})", "done"),
    "checkpoint step": Query(f"max(halcyon_run_checkpoint_step{{{_RUN}}})", "in the newest checkpoint"),
    "checkpoint age": Query(f"{CHECKPOINT_AGE}{{{_RUN}}}", "age"),
    "save seconds": Query(
        f"sum(rate(halcyon_trainer_checkpoint_save_seconds_total{{{_RUN}}}[15m]))"
        f" / (sum(rate(halcyon_trainer_checkpoints_total{{{_RUN}}}[15m])) > 0)",
        "until the commit",
    ),
    "blocked seconds": Query(
        f"sum(rate(halcyon_trainer_checkpoint_blocked_seconds_total{{{_RUN}}}[15m]))"
        f" / (sum(rate(halcyon_trainer_checkpoints_total{{{_RUN}}}[15m])) > 0)",
        "the loop was blocked",
    ),
    "checkpoint size": Query(f"max(halcyon_trainer_checkpoint_size_bytes{{{_RUN}}})", "size"),
    "checkpoint failures": Query(
        f"sum(increase(halcyon_trainer_checkpoint_failures_total{{{_RUN}}}[$__rate_interval]))", "failed saves"
    ),
    "processes": Query(f"sum by (attempt) (halcyon_trainer_info{{{_RUN}}})", "attempt {{attempt}}"),
    "healthy": Query(f"sum(halcyon_trainer_healthy{{{_RUN}}})", "healthy"),
    "idle": Query(f"max by (pod) (halcyon_trainer_idle_seconds{{{_RUN}}})", "{{pod}}"),
    "idle limit": Query(f"min(halcyon_trainer_idle_limit_seconds{{{_RUN}}})", "limit"),
    "stages": Query(f"sum by (stage) (halcyon_trainer_stage{{{_RUN}}}) > 0", "{{stage}}"),
    "badput": Query(f"max by (cause) (halcyon_badput_seconds_total{{{_RUN}}}) > 0", "{{cause}}"),
    "badput of the last hour": Query(f"{BADPUT}{{{_RUN}}} > 0", "{{cause}}"),
    "restarts": Query(_per_run("halcyon_run_restarts_total", _RUN, by="cause"), "{{cause}}"),
    "restarts in place": Query(_per_run("halcyon_run_restarts_in_place_total", _RUN), "in place"),
    # Annotations are queried with a step of one minute, so each restart is in exactly one step.
    "restart marks": Query(
        f"max by (cause) (halcyon_run_restarts_total{{{_RUN}}}) - max by (cause) (halcyon_run_restarts_total{{{_RUN}}} "
        "offset 1m) > 0",
        "{{cause}}",
    ),
}

# Dashboards: the operator
# ---------------------------------------------------------------------------------------------------------------

_JOB = f'job="{OPERATOR_JOB}"'

OPERATOR: dict[str, Query] = {
    "up": Query(f"sum(up{{{_JOB}}})"),
    "version": Query("max by (version) (halcyon_operator_build_info)", "{{version}}"),
    "reconciles": Query("sum by (result) (rate(halcyon_operator_reconciles_total[$__rate_interval]))", "{{result}}"),
    "errors": Query(
        'sum(rate(halcyon_operator_reconciles_total{result="error"}[$__rate_interval]))'
        " / (sum(rate(halcyon_operator_reconciles_total[$__rate_interval])) > 0)",
        "share of errors",
    ),
    **{
        f"reconcile p{100 * quantile:g}": Query(
            f"histogram_quantile({quantile}, sum by (le) "
            "(rate(halcyon_operator_reconcile_seconds_bucket[$__rate_interval])))",
            f"p{100 * quantile:g}",
        )
        for quantile in (0.5, 0.99)
    },
    "queue": Query("max(halcyon_operator_queue_depth)", "runs in the work queue"),
    "watch lag": Query("max(halcyon_operator_watch_lag_seconds)", "watch lag"),
    "api": Query(
        "sum by (verb, resource) (rate(halcyon_operator_api_requests_total[$__rate_interval])) > 0",
        "{{verb}} {{resource}}",
    ),
    "api codes": Query("sum by (code) (rate(halcyon_operator_api_requests_total[$__rate_interval]))", "{{code}}"),
    "polls": Query("sum by (result) (rate(halcyon_operator_trainer_polls_total[$__rate_interval]))", "{{result}}"),
    "head reads": Query(
        "sum by (result) (rate(halcyon_operator_checkpoint_head_reads_total[$__rate_interval]))", "{{result}}"
    ),
    "runs": Query("sum(max by (phase) (halcyon_operator_runs))", "runs"),
    "cpu": Query(f"rate(process_cpu_seconds_total{{{_JOB}}}[$__rate_interval])", "{{pod}}"),
    "memory": Query(f"process_resident_memory_bytes{{{_JOB}}}", "{{pod}}"),
}

DASHBOARDS: dict[str, dict[str, Query]] = {"fleet": FLEET, "run": RUN, "operator": OPERATOR}
