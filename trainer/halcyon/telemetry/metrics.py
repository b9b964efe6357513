"""The Prometheus metrics of a trainer, computed from one observation of the reporter at each scrape.

`METRICS` is the complete list: the answer to a scrape and the reference page are both generated from it. There is no second counter and no
global registry, and the loop does no work for a metric. The number of values of a label does not grow with the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, get_args

from halcyon.telemetry.observation import Observation
from halcyon.telemetry.pace import STEP_SECONDS_BUCKETS
from halcyon_api.status.goodput import CAUSES, GoodputSeconds, cause_label
from halcyon_api.status.progress import Stage, StartupSeconds

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

    from halcyon.telemetry.reporter import RunReporter

Sample = tuple[tuple[str, ...], float]
"""Values of the labels, and the value of the sample."""


@dataclass(frozen=True)
class Metric:
    """One metric: its name and meaning, and the function that reads it from an observation."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    read: Callable[[Observation], Iterable[Sample]]
    labels: tuple[str, ...] = ()


def _as_they_passed(seconds: GoodputSeconds) -> dict[str, float]:
    """The seconds by cause as they were counted at first: a counter must not fall when steps turn out to be lost."""
    return {cause: getattr(seconds, cause) for cause in CAUSES} | {
        "productive_step": round(seconds.productive_step + seconds.lost_work, 3),
        "lost_work": 0.0,
    }


def _one(read: Callable[[Observation], float | int | None]) -> Callable[[Observation], Iterable[Sample]]:
    """A metric without labels that is absent while its value is None."""

    def samples(seen: Observation) -> Iterator[Sample]:
        value = read(seen)
        if value is not None:
            yield (), float(value)

    return samples


def _tokenized(field: str) -> Callable[[Observation], Iterable[Sample]]:
    """A field of this process's tokenizing progress, by source."""
    return lambda seen: [((source.source,), float(getattr(source, field))) for source in seen.sources]


def _evaluated(field: str) -> Callable[[Observation], Iterable[Sample]]:
    """A field of the results of a run of task ``evaluate``, by source; absent where it is None."""

    def samples(seen: Observation) -> Iterator[Sample]:
        evaluated = seen.report.progress.evaluated
        for source in evaluated.sources if evaluated is not None else ():
            if (value := getattr(source, field)) is not None:
                yield (source.source,), float(value)

    return samples


def _by_layer(seen: Observation, names: Mapping[str, str]) -> Iterator[Sample]:
    """Metrics of the objective with one number for each layer, under a label each; absent before the first step and for other models."""
    metrics = {} if seen.last_step is None else seen.last_step.metrics
    for label, name in names.items():
        values = metrics.get(name, ())
        for layer, value in enumerate(values if isinstance(values, tuple) else ()):
            yield (str(layer), label), value


METRICS = (
    Metric(
        "halcyon_trainer_info",
        "gauge",
        "Always 1; the labels name the run, the attempt, the restart and the process.",
        lambda seen: [
            ((seen.report.run, str(seen.report.attempt), str(seen.report.restart), str(seen.report.process_index)), 1.0),
        ],
        ("run", "attempt", "restart", "process"),
    ),
    Metric(
        "halcyon_trainer_stage",
        "gauge",
        "1 for the stage the process is in, 0 for the others.",
        lambda seen: [((stage,), float(stage == seen.report.stage)) for stage in get_args(Stage)],
        ("stage",),
    ),
    Metric(
        "halcyon_trainer_healthy",
        "gauge",
        "1 while /healthz answers 200, else 0.",
        _one(lambda seen: seen.health.healthy),
    ),
    Metric(
        "halcyon_trainer_idle_seconds",
        "gauge",
        "Time since the last step ended while training, else since the stage began; pauses of the machine do not count.",
        _one(lambda seen: seen.health.idle_seconds),
    ),
    Metric(
        "halcyon_trainer_idle_limit_seconds",
        "gauge",
        "Limit of `halcyon_trainer_idle_seconds`, above which /healthz fails; computed from earlier steps while training.",
        _one(lambda seen: seen.health.limit_seconds),
    ),
    Metric(
        "halcyon_trainer_startup_seconds",
        "gauge",
        "Parts of the time from process start to the end of the first step.",
        lambda seen: [((part,), getattr(seen.report.startup_seconds, part)) for part in StartupSeconds.model_fields],
        ("part",),
    ),
    Metric(
        "halcyon_trainer_seconds_total",
        "counter",
        "Every second of this process from its start, by cause; causes that are only known later, such as lost work, are 0 here.",
        lambda seen: [((cause_label(cause),), seconds) for cause, seconds in _as_they_passed(seen.report.seconds).items()],
        ("cause",),
    ),
    Metric("halcyon_trainer_step", "gauge", "Steps done, over all attempts.", _one(lambda seen: seen.report.progress.step)),
    Metric("halcyon_trainer_planned_steps", "gauge", "Steps of the whole run.", _one(lambda seen: seen.report.progress.steps)),
    Metric(
        "halcyon_trainer_resumed_step",
        "gauge",
        "Steps already done when this process resumed the run.",
        _one(lambda seen: seen.report.resumed_step),
    ),
    Metric("halcyon_trainer_tokens", "gauge", "Tokens trained on, over all attempts.", _one(lambda seen: seen.report.progress.tokens)),
    Metric(
        "halcyon_trainer_skipped_steps_total",
        "counter",
        "Steps of this process whose update was dropped, by the policy `recovery.divergence`.",
        _one(lambda seen: seen.tallies.skipped),
    ),
    Metric(
        "halcyon_trainer_rollbacks_total",
        "counter",
        "Returns of this process to an earlier checkpoint, by the policy `recovery.divergence`.",
        _one(lambda seen: seen.tallies.rollbacks),
    ),
    Metric(
        "halcyon_trainer_processed_steps_total",
        "counter",
        "Steps that this process computed, including those that a later failure lost.",
        _one(lambda seen: seen.tallies.steps),
    ),
    Metric(
        "halcyon_trainer_processed_tokens_total",
        "counter",
        "Tokens of the steps that this process computed.",
        _one(lambda seen: seen.tallies.tokens),
    ),
    Metric(
        "halcyon_trainer_step_seconds",
        "histogram",
        "Duration of the steps of this process, without the first one.",
        lambda seen: [((), float(count)) for count in seen.tallies.step_buckets],
    ),
    Metric(
        "halcyon_trainer_last_step_timestamp_seconds",
        "gauge",
        "When the last step of this process ended, in seconds since 1970.",
        _one(lambda seen: seen.last_step_time),
    ),
    Metric(
        "halcyon_trainer_tokens_per_second",
        "gauge",
        "Tokens trained on per second by all devices of the run, over the last steps.",
        _one(lambda seen: seen.report.progress.tokens_per_second),
    ),
    Metric(
        "halcyon_trainer_mfu_ratio",
        "gauge",
        "Model FLOPs utilisation, between 0 and 1, if the device's peak is known.",
        _one(lambda seen: seen.report.progress.mfu),
    ),
    Metric(
        "halcyon_trainer_eta_seconds",
        "gauge",
        "Seconds until the last step at the present speed.",
        _one(lambda seen: seen.report.progress.eta_seconds),
    ),
    Metric(
        "halcyon_trainer_loss_nats",
        "gauge",
        "Training loss of the last step, nats per token.",
        _one(lambda seen: seen.last_step and seen.last_step.loss),
    ),
    Metric(
        "halcyon_trainer_gradient_norm",
        "gauge",
        "Global norm of the last step's gradient before clipping.",
        _one(lambda seen: seen.last_step and seen.last_step.gradient_norm),
    ),
    Metric(
        "halcyon_trainer_learning_rate",
        "gauge",
        "Learning rate of the last step.",
        _one(lambda seen: seen.last_step and seen.last_step.learning_rate),
    ),
    Metric(
        "halcyon_trainer_load_balance_loss",
        "gauge",
        "Models with experts: mean balance loss of the routers in the last step; 1 if every expert gets the same number of tokens.",
        _one(lambda seen: seen.report.progress.load_balance_loss),
    ),
    Metric(
        "halcyon_trainer_z_loss",
        "gauge",
        "Objective `nextToken` with `zLoss`: mean z-loss of the last step, without its weight.",
        _one(lambda seen: seen.report.progress.z_loss),
    ),
    Metric(
        "halcyon_trainer_router_z_loss",
        "gauge",
        "Models with experts: mean z-loss of the routers in the last step.",
        _one(lambda seen: seen.report.progress.router_z_loss),
    ),
    Metric(
        "halcyon_trainer_preference_accuracy",
        "gauge",
        "Objective `preference`: share of the pairs of the last step whose preferred answer has the greater reward.",
        _one(lambda seen: seen.report.progress.preference_accuracy),
    ),
    Metric(
        "halcyon_trainer_reward_margin",
        "gauge",
        "Objective `preference`: mean difference of the rewards of the preferred and the rejected answers of the last step.",
        _one(lambda seen: seen.report.progress.reward_margin),
    ),
    Metric(
        "halcyon_trainer_reward",
        "gauge",
        "Objective `policy`: mean reward of the answers of the last step.",
        _one(lambda seen: seen.report.progress.reward),
    ),
    Metric(
        "halcyon_trainer_expert_load_ratio",
        "gauge",
        "Models with experts: tokens of the busiest (max) and the least busy (min) expert of a layer, divided by the mean of the layer.",
        lambda seen: _by_layer(seen, {"max": "expert_load_max", "min": "expert_load_min"}),
        ("layer", "of"),
    ),
    Metric(
        "halcyon_trainer_watch_norm",
        "gauge",
        "Norm of each parameter, of its gradient before clipping, of its update, or of the outputs of blocks, in the last watched step.",
        lambda seen: [((one.what, one.path), one.value) for one in seen.watched if one.statistic == "norm"],
        ("of", "parameter"),
    ),
    Metric(
        "halcyon_trainer_watch_update_ratio",
        "gauge",
        "Norm of the update divided by that of the parameter in the last watched step; of several layers, the greatest.",
        lambda seen: [((one.path,), one.value) for one in seen.watched if one.statistic == "ratio"],
        ("parameter",),
    ),
    Metric(
        "halcyon_trainer_evaluation_loss_nats",
        "gauge",
        "Loss on the held-out part, nats per token.",
        _one(lambda seen: seen.report.progress.evaluation_loss),
    ),
    Metric(
        "halcyon_trainer_evaluation_bits_per_byte",
        "gauge",
        "Loss on the held-out part, bits per byte of text.",
        _one(lambda seen: seen.report.progress.bits_per_byte),
    ),
    Metric(
        "halcyon_trainer_evaluation_average_loss_nats",
        "gauge",
        "Loss of the average of the parameters (`average`) on the held-out part, nats per token.",
        _one(lambda seen: seen.average_loss),
    ),
    Metric(
        "halcyon_trainer_evaluation_source_loss_nats",
        "gauge",
        "Loss on the held-out part of one source, nats per token, with task `evaluate`.",
        _evaluated("loss"),
        ("source",),
    ),
    Metric(
        "halcyon_trainer_evaluation_source_bits_per_byte",
        "gauge",
        "Loss on the held-out part of one source, bits per byte of text, with task `evaluate`.",
        _evaluated("bits_per_byte"),
        ("source",),
    ),
    Metric(
        "halcyon_trainer_task_ratio",
        "gauge",
        "Result of each task (`trainer.evaluation.tasks`): accuracy, bits per byte of smoltalk, means of core and chat-core.",
        lambda seen: [((name,), value) for name, value in (seen.report.progress.tasks or {}).items()],
        ("task",),
    ),
    Metric("halcyon_trainer_evaluations_total", "counter", "Evaluations of this process.", _one(lambda seen: seen.tallies.evaluations)),
    Metric(
        "halcyon_trainer_data_wait_seconds_total",
        "counter",
        "Time that the steps of this process waited for their batches.",
        _one(lambda seen: seen.tallies.data_wait_seconds),
    ),
    Metric(
        "halcyon_trainer_data_wait_ratio",
        "gauge",
        "Share of the last steps' time in which they waited for their batches.",
        _one(lambda seen: seen.tallies.data_wait_ratio),
    ),
    *(
        Metric(
            f"halcyon_trainer_tokenized_{what}_total",
            "counter",
            f"{meaning} that this process has tokenized.",
            _tokenized(field),
            ("source",),
        )
        for what, field, meaning in (
            ("documents", "documents", "Documents"),
            ("tokens", "tokens", "Tokens"),
            ("bytes", "size_bytes", "Bytes of text"),
            ("shards", "shards", "Shards of the token cache"),
        )
    ),
    Metric(
        "halcyon_trainer_checkpoint_step",
        "gauge",
        "Steps done when the newest committed checkpoint was made.",
        _one(lambda seen: seen.report.checkpoint and seen.report.checkpoint.step),
    ),
    Metric(
        "halcyon_trainer_checkpoint_size_bytes",
        "gauge",
        "Size of the newest committed checkpoint.",
        _one(lambda seen: seen.report.checkpoint and seen.report.checkpoint.size_bytes),
    ),
    Metric(
        "halcyon_trainer_checkpoint_timestamp_seconds",
        "gauge",
        "When this process learned of the newest committed checkpoint, in seconds since 1970.",
        _one(lambda seen: seen.checkpoint_time),
    ),
    Metric(
        "halcyon_trainer_save_interval_seconds",
        "gauge",
        "Seconds between saves, if saves are made by time.",
        _one(lambda seen: seen.report.progress.save_interval_seconds),
    ),
    Metric(
        "halcyon_trainer_checkpoints_total",
        "counter",
        "Checkpoints committed that this process took part in.",
        _one(lambda seen: seen.tallies.checkpoints),
    ),
    Metric(
        "halcyon_trainer_checkpoint_save_seconds_total",
        "counter",
        "Time of the committed saves of this process, from their beginning to the commit.",
        _one(lambda seen: seen.tallies.save_seconds),
    ),
    Metric(
        "halcyon_trainer_checkpoint_blocked_seconds_total",
        "counter",
        "Time that the committed saves of this process blocked the loop.",
        _one(lambda seen: seen.tallies.blocked_seconds),
    ),
    Metric(
        "halcyon_trainer_checkpoint_failures_total",
        "counter",
        "Saves of this process that failed.",
        _one(lambda seen: seen.tallies.checkpoint_failures),
    ),
    Metric(
        "halcyon_trainer_exported_step",
        "gauge",
        "Step of the newest complete export.",
        _one(lambda seen: seen.report.progress.exported_step),
    ),
    Metric("halcyon_trainer_exports_total", "counter", "Exports that this process completed.", _one(lambda seen: seen.tallies.exports)),
    Metric(
        "halcyon_trainer_export_failures_total",
        "counter",
        "Failed tries of exports of this process.",
        _one(lambda seen: seen.tallies.export_failures),
    ),
)


class TrainerCollector:
    """The collector that `prometheus_client` calls at every scrape."""

    def __init__(self, reporter: RunReporter) -> None:
        self._reporter = reporter

    def collect(self) -> Iterator[Family]:
        """All metrics at one moment."""
        seen = self._reporter.observe()
        for metric in METRICS:
            yield _family(metric, seen)


def _family(metric: Metric, seen: Observation) -> Family:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    samples = list(metric.read(seen))
    if metric.kind == "histogram":
        bounds = (*(str(bound) for bound in STEP_SECONDS_BUCKETS), "+Inf")
        cumulative = accumulate(value for _, value in samples)
        return HistogramMetricFamily(
            metric.name, metric.help, buckets=list(zip(bounds, cumulative, strict=True)), sum_value=seen.tallies.step_seconds
        )
    family = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def exposition(reporter: RunReporter) -> tuple[bytes, str]:
    """The answer to a scrape: text and content type. The first scrape imports `prometheus_client`, so the start of a run is not slower."""
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(TrainerCollector(reporter))  # pyright: ignore[reportArgumentType]
    return generate_latest(registry), CONTENT_TYPE_LATEST
