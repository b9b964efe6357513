"""The Prometheus metrics of a trainer, read from its state at each scrape.

`METRICS` is the complete list: the answer to a scrape and the reference page are both generated from it. There is no
second counter and no global registry, and the loop does no work for a metric. The number of values of a label does not
grow with the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from types import SimpleNamespace
from typing import TYPE_CHECKING, Literal, get_args

from halcyon.telemetry.events import EVENTS
from halcyon.telemetry.state import State
from halcyon.telemetry.times import STEP_SECONDS_BUCKETS
from halcyon_api.status.goodput import CAUSES, cause_label
from halcyon_api.status.progress import Stage, StartupSeconds, finite

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

Sample = tuple[tuple[str, ...], float]
"""Values of the labels, and the value of the sample."""


@dataclass(frozen=True)
class Metric:
    """One metric: its name and meaning, and the function that reads it from the state."""

    kind: Literal["gauge", "counter", "histogram"]
    name: str
    help: str
    read: str | Callable[[State], float | Iterable[Sample] | None] = ""
    """Without labels, the number; None while there is none. With labels, the samples. A text: what `State.shown` has
    under it; empty: under the metric's own name.
    """
    labels: tuple[str, ...] = ()

    def samples(self, state: State) -> list[Sample]:
        """The samples of a moment."""
        read = self.read or self.name.removeprefix("halcyon_trainer_").removesuffix("_total")
        found = state.shown(read) if isinstance(read, str) else read(state)
        return [] if found is None else [((), float(found))] if isinstance(found, int | float) else list(found)


_gauge, _counter, _histogram = partial(Metric, "gauge"), partial(Metric, "counter"), partial(Metric, "histogram")


def _as_they_passed(state: State) -> Iterator[Sample]:
    """The seconds by cause as they were counted at first: a counter must not fall when steps turn out to be lost."""
    seconds = state.seconds
    moved = {"productive_step": round(seconds.productive_step + seconds.lost_work, 3), "lost_work": 0.0}
    for cause in CAUSES:
        yield (cause_label(cause),), moved[cause] if cause in moved else getattr(seconds, cause)


def _tokenized(field: str) -> Callable[[State], Iterable[Sample]]:
    """A field of this process's tokenizing progress, by source."""
    return lambda state: [((name,), float(getattr(source, field))) for name, source in state.sources.items()]


def _evaluated(field: str) -> Callable[[State], Iterable[Sample]]:
    """A field of the results of a run of task ``evaluate``, by source; absent where it is None."""

    def samples(state: State) -> Iterator[Sample]:
        for source in state.evaluated.sources if state.evaluated is not None else ():
            if (value := getattr(source, field)) is not None:
                yield (source.source,), float(value)

    return samples


def _by_layer(state: State, names: Mapping[str, str]) -> Iterator[Sample]:
    """Metrics of the objective with one number for each layer, under a label each; absent before the first step and for
    other models.
    """
    metrics = {} if state.last_step is None else state.last_step.metrics
    for label, name in names.items():
        values = metrics.get(name, ())
        for layer, value in enumerate(values if isinstance(values, tuple) else ()):
            yield (str(layer), label), value


def _by_number(state: State, beginning: str) -> Iterator[Sample]:
    """Metrics of the objective whose names end with a number, by it."""
    for name, value in ({} if state.last_step is None else state.last_step.metrics).items():
        if name.startswith(beginning) and isinstance(value, float):
            yield (name.removeprefix(beginning),), value


METRICS = (
    _gauge(
        "halcyon_trainer_info",
        "Always 1; the labels name the run, the attempt, the restart and the process.",
        lambda state: [
            (
                (
                    state.identity.run,
                    str(state.identity.attempt),
                    str(state.identity.restart),
                    str(state.identity.process_index),
                ),
                1.0,
            ),
        ],
        ("run", "attempt", "restart", "process"),
    ),
    _gauge(
        "halcyon_trainer_stage",
        "1 for the stage the process is in, 0 for the others.",
        lambda state: [((stage,), float(stage == state.stage)) for stage in get_args(Stage)],
        ("stage",),
    ),
    _gauge("halcyon_trainer_healthy", "1 while /healthz answers 200, else 0.", "health.healthy"),
    _gauge(
        "halcyon_trainer_idle_seconds",
        "Time since the last step ended while training, else since the stage began; pauses of the machine do not "
        "count.",
        "health.idle_seconds",
    ),
    _gauge(
        "halcyon_trainer_idle_limit_seconds",
        "Limit of `halcyon_trainer_idle_seconds`, above which /healthz fails; computed from earlier steps while "
        "training.",
        "health.limit_seconds",
    ),
    _gauge(
        "halcyon_trainer_startup_seconds",
        "Parts of the time from process start to the end of the first step.",
        lambda state: [((part,), getattr(state.startup_seconds, part)) for part in StartupSeconds.model_fields],
        ("part",),
    ),
    _counter(
        "halcyon_trainer_seconds_total",
        "Every second of this process from its start, by cause; causes that are only known later, such as lost work, "
        "are 0 here.",
        _as_they_passed,
        ("cause",),
    ),
    _gauge("halcyon_trainer_step", "Steps done, over all attempts."),
    _gauge("halcyon_trainer_planned_steps", "Steps of the whole run.", "steps"),
    _gauge(
        "halcyon_trainer_resumed_step",
        "Steps already done when this process resumed the run.",
    ),
    _gauge("halcyon_trainer_tokens", "Tokens trained on, over all attempts."),
    _counter(
        "halcyon_trainer_processed_steps_total",
        "Steps that this process computed, including those that a later failure lost.",
    ),
    _counter(
        "halcyon_trainer_processed_tokens_total",
        "Tokens of the steps that this process computed.",
    ),
    _histogram(
        "halcyon_trainer_step_seconds",
        "Duration of the steps of this process, without the first one.",
        lambda state: [((), float(count)) for count in state.pace.buckets],
    ),
    _gauge(
        "halcyon_trainer_own_work_seconds",
        "Time of a fixed product on the devices of this process, which waits for no other process, at its last "
        "measurement.",
    ),
    _gauge(
        "halcyon_trainer_slow_process_ratio",
        "Process 0: time of the own work of the process that the others wait for, as a multiple of their median; "
        "absent while there is none.",
        lambda state: state.slow and [((str(state.slow.process),), state.slow.ratio)],
        ("process",),
    ),
    _gauge(
        "halcyon_trainer_last_step_timestamp_seconds",
        "When the last step of this process ended, in seconds since 1970.",
        "last_step_time",
    ),
    _gauge(
        "halcyon_trainer_tokens_per_second",
        "Tokens trained on per second by all devices of the run, over the last steps.",
    ),
    _gauge(
        "halcyon_trainer_mfu_ratio",
        "Model FLOPs utilisation, between 0 and 1, if the device's peak is known.",
        "mfu",
    ),
    _gauge(
        "halcyon_trainer_eta_seconds",
        "Seconds until the last step at the present speed.",
    ),
    _gauge("halcyon_trainer_loss_nats", "Training loss of the last step, nats per token.", "loss"),
    _gauge(
        "halcyon_trainer_gradient_norm",
        "Global norm of the last step's gradient before clipping.",
        "last_step.gradient_norm",
    ),
    _gauge(
        "halcyon_trainer_learning_rate",
        "Learning rate of the last step.",
        "last_step.learning_rate",
    ),
    _gauge(
        "halcyon_trainer_load_balance_loss",
        "Models with experts: mean balance loss of the routers in the last step; 1 if every expert gets the same "
        "number of tokens.",
    ),
    _gauge(
        "halcyon_trainer_z_loss",
        "Objective `nextToken` with `zLoss`: mean z-loss of the last step, without its weight.",
    ),
    _gauge(
        "halcyon_trainer_multi_token_loss_nats",
        "Layers that predict further tokens, from 1: loss of each in the last step, divided by the weight of the next "
        "tokens.",
        lambda state: _by_number(state, "multi_token_loss_"),
        ("layer",),
    ),
    _gauge(
        "halcyon_trainer_router_z_loss",
        "Models with experts: mean z-loss of the routers in the last step.",
    ),
    _gauge(
        "halcyon_trainer_preference_accuracy",
        "Objective `preference`: share of the pairs of the last step whose preferred answer has the greater reward.",
    ),
    _gauge(
        "halcyon_trainer_reward_margin",
        "Objective `preference`: mean difference of the rewards of the preferred and the rejected answers of the last "
        "step.",
    ),
    _gauge(
        "halcyon_trainer_reward",
        "Objective `policy`: mean reward of the answers of the last step.",
    ),
    _gauge(
        "halcyon_trainer_mismatch_nats",
        "Objective `policy`: greatest difference of a token's log-probability in sampling from that of the trainer, of "
        "the last step.",
        "mismatch_max",
    ),
    _gauge(
        "halcyon_trainer_expert_load_ratio",
        "Models with experts: tokens of the busiest (max) and the least busy (min) expert of a layer, divided by the "
        "mean of the layer.",
        lambda state: _by_layer(state, {"max": "expert_load_max", "min": "expert_load_min"}),
        ("layer", "of"),
    ),
    _gauge(
        "halcyon_trainer_watch_norm",
        "Norm of each parameter, of its gradient before clipping, of its update, or of the outputs of blocks, in the "
        "last watched step.",
        lambda state: [((one.what, one.path), one.value) for one in state.watched if one.statistic == "norm"],
        ("of", "parameter"),
    ),
    _gauge(
        "halcyon_trainer_watch_update_ratio",
        "Norm of the update divided by that of the parameter in the last watched step; of several layers, the "
        "greatest.",
        lambda state: [((one.path,), one.value) for one in state.watched if one.statistic == "ratio"],
        ("parameter",),
    ),
    _gauge(
        "halcyon_trainer_evaluation_loss_nats",
        "Loss on the held-out part, nats per token.",
        lambda state: finite(state.evaluation_loss),
    ),
    _gauge(
        "halcyon_trainer_evaluation_bits_per_byte",
        "Loss on the held-out part, bits per byte of text.",
        lambda state: finite(state.bits_per_byte),
    ),
    _gauge(
        "halcyon_trainer_evaluation_average_loss_nats",
        "Loss of the average of the parameters (`average`) on the held-out part, nats per token.",
        lambda state: finite(state.average_loss),
    ),
    _gauge(
        "halcyon_trainer_evaluation_source_loss_nats",
        "Loss on the held-out part of one source, nats per token, with task `evaluate`.",
        _evaluated("loss"),
        ("source",),
    ),
    _gauge(
        "halcyon_trainer_evaluation_source_bits_per_byte",
        "Loss on the held-out part of one source, bits per byte of text, with task `evaluate`.",
        _evaluated("bits_per_byte"),
        ("source",),
    ),
    _gauge(
        "halcyon_trainer_task_ratio",
        "Result of each task (`trainer.evaluation.tasks`): accuracy, bits per byte of smoltalk, word errors of "
        "speech, means of core and chat-core.",
        lambda state: [((name,), value) for name, value in (state.tasks or {}).items()],
        ("task",),
    ),
    *(
        _counter(f"halcyon_trainer_{name}_total", about, lambda state, name=name: state.counts.get(name, 0))
        for name, about in (event.counts for event in EVENTS if event.counts)
    ),
    _counter("halcyon_trainer_evaluations_total", "Evaluations of this process."),
    _counter(
        "halcyon_trainer_data_wait_seconds_total",
        "Time that the steps of this process waited for their batches.",
    ),
    _gauge(
        "halcyon_trainer_data_wait_ratio",
        "Share of the last steps' time in which they waited for their batches.",
        "pace.wait_ratio",
    ),
    *(
        _counter(
            f"halcyon_trainer_tokenized_{what}_total",
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
    _gauge(
        "halcyon_trainer_checkpoint_step",
        "Steps done when the newest committed checkpoint was made.",
        "checkpoint.step",
    ),
    _gauge(
        "halcyon_trainer_checkpoint_size_bytes",
        "Size of the newest committed checkpoint.",
        "checkpoint.size_bytes",
    ),
    _gauge(
        "halcyon_trainer_checkpoint_timestamp_seconds",
        "When this process learned of the newest committed checkpoint, in seconds since 1970.",
        "checkpoint_time",
    ),
    _gauge(
        "halcyon_trainer_save_interval_seconds",
        "Seconds between saves, if saves are made by time.",
    ),
    _counter(
        "halcyon_trainer_checkpoint_save_seconds_total",
        "Time of the committed saves of this process, from their beginning to the commit.",
    ),
    _counter(
        "halcyon_trainer_checkpoint_blocked_seconds_total",
        "Time that the committed saves of this process blocked the loop.",
    ),
    _gauge(
        "halcyon_trainer_late_save_seconds",
        "Age of the save in flight, if it takes longer than usual while another one is due.",
    ),
    _gauge(
        "halcyon_trainer_audited_step",
        "Step of the last audit that found all numbers right.",
    ),
    _gauge("halcyon_trainer_exported_step", "Step of the newest complete export."),
)


def exposition(state: State) -> tuple[bytes, str]:
    """The answer to a scrape: text and content type.

    The first scrape imports `prometheus_client`, so the start of a run is not slower.
    """
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    scrape = SimpleNamespace(collect=lambda: [_family(metric, state) for metric in METRICS])
    return generate_latest(scrape), CONTENT_TYPE_LATEST  # pyright: ignore[reportArgumentType]


def _family(metric: Metric, state: State) -> Family:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    samples = metric.samples(state)
    if metric.kind == "histogram":
        bounds = (*(str(bound) for bound in STEP_SECONDS_BUCKETS), "+Inf")
        buckets = list(zip(bounds, accumulate(value for _, value in samples), strict=True))
        return HistogramMetricFamily(metric.name, metric.help, buckets=buckets, sum_value=state.pace.sum_seconds)
    family = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(
        metric.name, metric.help, labels=metric.labels
    )
    for labels, value in samples:
        family.add_metric(labels, value)
    return family
