"""The metrics with a run's name as label, for dashboards and alerts about runs whose pods may be deleted.

They are computed from a run's spec and status at each reconcile, kept as plain samples, and removed with the run. A run
has about thirty of them, and all label values come from the contract, so their number increases only with the number of
runs."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from halcyon_api.ends import COUNTERS
from halcyon_api.spec.checkpoint import SaveSpec
from halcyon_api.status.goodput import BADPUT_CAUSES, cause_label
from halcyon_api.status.run_status import ConditionType, Phase, TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.model.planned_speed import speed_ratio
from halcyon_operator.model.untrusted import moment
from halcyon_operator.model.views import RunKey

Sample = tuple[tuple[str, ...], float]
"""Values of the labels after namespace and run, and the value of the sample."""

PHASES_WITH_DEVICES: frozenset[Phase] = frozenset({"Starting", "Running", "Restarting", "Suspending"})
"""Phases in which a run has devices, or waits for them."""
SHOWN_CONDITIONS: tuple[ConditionType, ...] = ("Stalled", "Degraded", "Queued")


@dataclass(frozen=True)
class RunMetric:
    """One metric of a run: name, help text, and where its value comes from."""

    name: str
    help: str
    read: str | Callable[[TrainingRunSpec | None, TrainingRunStatus], float | Iterable[Sample] | None]
    """A path in the status, or a function. Without labels, the number; None while there is none. With labels, the
    samples.
    """
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"
    grows: bool = False
    """Whether its values never decrease: seconds that later move to another cause are counted in both."""

    def samples(self, spec: TrainingRunSpec | None, status: TrainingRunStatus) -> tuple[Sample, ...]:
        """The samples of a run."""
        if isinstance(self.read, str):
            found: Any = status
            for name in self.read.split("."):
                found = found and getattr(found, name)
        else:
            found = self.read(spec, status)
        return () if found is None else (((), float(found)),) if isinstance(found, int | float) else tuple(found)


def _conditions(_: TrainingRunSpec | None, status: TrainingRunStatus) -> Iterator[Sample]:
    for kind in SHOWN_CONDITIONS:
        if (condition := status.condition(kind)) is not None:
            yield (kind, condition.reason), float(condition.status == "True")


def _restarts(_: TrainingRunSpec | None, status: TrainingRunStatus) -> Iterator[Sample]:
    by_cause = status.restarts.model_dump(by_alias=True)
    for cause in COUNTERS:
        yield (cause,), float(by_cause[cause])


def _badput(_: TrainingRunSpec | None, status: TrainingRunStatus) -> Iterator[Sample]:
    if status.goodput is not None:
        for cause in BADPUT_CAUSES:
            yield (cause_label(cause),), getattr(status.goodput.seconds, cause)


def _tasks(_: TrainingRunSpec | None, status: TrainingRunStatus) -> Iterator[Sample]:
    for name, value in (status.progress.tasks or {} if status.progress is not None else {}).items():
        yield (name,), value


def _held(status: TrainingRunStatus, what: Literal["devices", "hosts"]) -> float:
    return (
        float(getattr(status.topology, what))
        if status.topology is not None and status.phase in PHASES_WITH_DEVICES
        else 0.0
    )


def _seconds(time: str | None) -> float | None:
    """A time of the status in seconds since 1970."""
    known = moment(time)
    return known and known.timestamp()


def _first_step_time(_: TrainingRunSpec | None, status: TrainingRunStatus) -> float | None:
    newest = status.history[-1] if status.history else None
    return None if newest is None or newest.ended_at is not None else _seconds(newest.first_step_at)


def _saves(spec: TrainingRunSpec | None) -> SaveSpec | None:
    """The save settings of a run; None if the run makes no checkpoints."""
    return spec.checkpoint.save if spec and spec.task == "train" else None


def _steps(what: Literal["step", "steps"]) -> Callable[[TrainingRunSpec | None, TrainingRunStatus], float | None]:
    """A field of progress; None for a task that does no steps."""
    return lambda spec, status: (
        None if spec and spec.task in ("data", "sample") else getattr(status.progress, what, None)
    )


def _interval_steps(spec: TrainingRunSpec | None, _: TrainingRunStatus) -> float | None:
    save = _saves(spec)
    return save.every_steps if save and save.every_steps and not save.auto else None


def _interval_seconds(spec: TrainingRunSpec | None, status: TrainingRunStatus) -> float | None:
    save = _saves(spec)
    if save and save.every_seconds and not save.auto:
        return save.every_seconds
    return status.progress and status.progress.save_interval_seconds


RUN_METRICS = (
    RunMetric("halcyon_goodput_ratio", "Share of a run's time in steps that were kept.", "goodput.ratio"),
    RunMetric(
        "halcyon_badput_seconds_total",
        "Seconds of a run outside steps that were kept, by cause, as in `status.goodput.seconds`.",
        _badput,
        ("cause",),
        "counter",
        grows=True,
    ),
    RunMetric(
        "halcyon_run_phase",
        "Always 1; the label is the phase of the run.",
        lambda _, s: [((s.phase,), 1.0)],
        ("phase",),
    ),
    RunMetric(
        "halcyon_run_condition",
        f"1 while the condition is True, else 0, by type and reason; of {', '.join(SHOWN_CONDITIONS)}.",
        _conditions,
        ("type", "reason"),
    ),
    RunMetric("halcyon_run_attempt", "Number of the run's present attempt.", "attempt"),
    RunMetric(
        "halcyon_run_devices",
        "JAX devices that the run holds or waits for; 0 while it needs none.",
        lambda _, s: _held(s, "devices"),
    ),
    RunMetric(
        "halcyon_run_hosts",
        "Hosts that the run holds or waits for; 0 while it needs none.",
        lambda _, s: _held(s, "hosts"),
    ),
    RunMetric(
        "halcyon_run_queued_timestamp_seconds",
        "Since when the run waits in its queue, in seconds since 1970; absent if it does not wait.",
        lambda _, s: _seconds(s.queue and s.queue.waiting_since),
    ),
    RunMetric(
        "halcyon_run_restarts_total",
        "Process groups of the run that were followed by another, by cause.",
        _restarts,
        ("cause",),
        "counter",
    ),
    RunMetric(
        "halcyon_run_restarts_in_place_total",
        "Those of them in which the processes started again in their pods.",
        "restarts.in_place",
        kind="counter",
    ),
    RunMetric(
        "halcyon_run_failures_without_checkpoint",
        "Failures in a row without a new checkpoint.",
        "failures_without_checkpoint",
    ),
    RunMetric(
        "halcyon_run_step",
        "Steps done. With task `evaluate`: batches evaluated. Absent with task `data`.",
        _steps("step"),
    ),
    RunMetric("halcyon_run_planned_steps", "Steps, or batches, of the whole run.", _steps("steps")),
    RunMetric(
        "halcyon_run_evaluation_loss_nats",
        "Loss on the held-out part at the last evaluation, nats per token.",
        "progress.evaluation_loss",
    ),
    RunMetric(
        "halcyon_run_evaluation_bits_per_byte",
        "Loss on the held-out part at the last evaluation, bits per byte of text.",
        "progress.bits_per_byte",
    ),
    RunMetric(
        "halcyon_run_task_ratio",
        "Last result of each task (`trainer.evaluation.tasks`), by task, as in `status.progress.tasks`.",
        _tasks,
        ("task",),
    ),
    RunMetric(
        "halcyon_run_chip_hours",
        "Hours of chips that the run has used, while it held hardware.",
        "spent.chip_hours",
    ),
    RunMetric(
        "halcyon_run_money",
        "The same times `accelerator.pricePerChipHour`; absent without a price.",
        "spent.money",
    ),
    RunMetric(
        "halcyon_run_budget_ratio",
        "The largest used share of a part of `spec.budget`; absent without a budget.",
        "spent.share",
    ),
    RunMetric(
        "halcyon_run_planned_tokens_per_second",
        "Tokens a second by the plan; absent without a plan.",
        "plan.tokens_per_second",
    ),
    RunMetric(
        "halcyon_run_planned_speed_ratio",
        "Measured speed as a share of the planned one, after the first steps.",
        lambda _, s: speed_ratio(s),
    ),
    RunMetric(
        "halcyon_run_checkpoint_step",
        "Steps done when the newest committed checkpoint was made.",
        "checkpoint.step",
    ),
    RunMetric(
        "halcyon_run_checkpoint_timestamp_seconds",
        "When the newest checkpoint was committed, in seconds since 1970.",
        lambda _, s: _seconds(s.checkpoint and s.checkpoint.time),
    ),
    RunMetric(
        "halcyon_run_first_step_timestamp_seconds",
        "When the present process group ended its first step, in seconds since 1970.",
        _first_step_time,
    ),
    RunMetric(
        "halcyon_run_save_interval_steps",
        "Steps between saves, if saves are made by steps.",
        _interval_steps,
    ),
    RunMetric(
        "halcyon_run_save_interval_seconds",
        "Seconds between saves, if saves are made by time; with `checkpoint.save.auto` as the trainer reports.",
        _interval_seconds,
    ),
)


class RunCollector:
    """The collector for `prometheus_client`: the samples of all runs at their last reconcile."""

    def __init__(self) -> None:
        self._runs: dict[RunKey, tuple[tuple[Sample, ...], ...]] = {}

    def saw(self, key: RunKey, spec: TrainingRunSpec | None, status: TrainingRunStatus) -> None:
        """Record a run; `spec` is None if the document is invalid."""
        found, before = [metric.samples(spec, status) for metric in RUN_METRICS], self._runs.get(key, ())
        for index, (metric, known) in enumerate(zip(RUN_METRICS, map(dict, before), strict=False)):
            if metric.grows:
                found[index] = tuple((labels, max(value, known.get(labels, 0.0))) for labels, value in found[index])
        self._runs[key] = tuple(found)

    def lost(self, key: RunKey) -> None:
        """Remove the samples of a run."""
        self._runs.pop(key, None)

    def collect(self) -> Iterator[Metric]:
        """The samples of all runs."""
        runs = list(self._runs.items())
        for index, metric in enumerate(RUN_METRICS):
            made = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = made(metric.name, metric.help, labels=("namespace", "run", *metric.labels))
            for key, samples in runs:
                for labels, value in samples[index]:
                    family.add_metric((*key, *labels), value)
            yield family
