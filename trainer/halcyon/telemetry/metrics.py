"""The Prometheus metrics of a trainer, read from its state at each scrape.

``metrics.yaml`` and the counters of events are the complete list: the answer to a scrape and the reference page are
both generated from it. There is no second counter and no global registry, and the loop does no work for a metric. The
number of values of a label does not grow with the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Literal, get_args

from halcyon.telemetry.events import EVENTS
from halcyon.telemetry.state import State
from halcyon.telemetry.times import STEP_SECONDS_BUCKETS
from halcyon_api.status.goodput import CAUSES, cause_label
from halcyon_api.status.progress import Stage, StartupSeconds, finite
from halcyon_api.yaml_text import read_document

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

_FURTHER = "multi_token_loss_"
Sample = tuple[tuple[str, ...], float]
"""Values of the labels, and the value of the sample."""
Read = Callable[[State], float | Iterable[Sample] | None]


@dataclass(frozen=True)
class Metric:
    """One metric: its name and meaning, and the function that reads it from the state."""

    kind: Literal["gauge", "counter", "histogram"]
    name: str
    help: str
    read: str | Read = ""
    """Without labels, the number; None while there is none. With labels, the samples. A text: what `State.shown` has
    under it; empty: under the metric's own name.
    """
    labels: tuple[str, ...] = ()

    def samples(self, state: State) -> list[Sample]:
        """The samples of a moment."""
        read = self.read or self.name.removeprefix("halcyon_trainer_").removesuffix("_total")
        found = state.shown(read) if isinstance(read, str) else read(state)
        return [] if found is None else [((), float(found))] if isinstance(found, int | float) else list(found)


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


def _expert_loads(state: State) -> Iterator[Sample]:
    """The loads of experts in each layer; absent before the first step and for other models."""
    metrics = state.last_step.metrics if state.last_step else {}
    for label in ("max", "min"):
        values = metrics.get(f"expert_load_{label}", ())
        for layer, value in enumerate(values if isinstance(values, tuple) else ()):
            yield (str(layer), label), value


def _multi_token_losses(state: State) -> Iterator[Sample]:
    """The losses of further tokens, by their distance."""
    for name, value in (state.last_step.metrics if state.last_step else {}).items():
        if name.startswith(_FURTHER) and isinstance(value, float):
            yield (name.removeprefix(_FURTHER),), value


READS: dict[str, Read] = {
    "halcyon_trainer_info": lambda state: [(tuple(map(str, vars(state.identity).values())), 1.0)],
    "halcyon_trainer_stage": lambda state: [((stage,), float(stage == state.stage)) for stage in get_args(Stage)],
    "halcyon_trainer_startup_seconds": lambda state: [
        ((part,), getattr(state.startup_seconds, part)) for part in StartupSeconds.model_fields
    ],
    "halcyon_trainer_seconds_total": _as_they_passed,
    "halcyon_trainer_step_seconds": lambda state: [((), float(count)) for count in state.pace.buckets],
    "halcyon_trainer_slow_process_ratio": lambda state: state.slow and [((str(state.slow.process),), state.slow.ratio)],
    "halcyon_trainer_multi_token_loss_nats": _multi_token_losses,
    "halcyon_trainer_expert_load_ratio": _expert_loads,
    "halcyon_trainer_watch_norm": lambda state: [
        ((one.what, one.path), one.value) for one in state.watched if one.statistic == "norm"
    ],
    "halcyon_trainer_watch_update_ratio": lambda state: [
        ((one.path,), one.value) for one in state.watched if one.statistic == "ratio"
    ],
    "halcyon_trainer_evaluation_loss_nats": lambda state: finite(state.evaluation_loss),
    "halcyon_trainer_evaluation_bits_per_byte": lambda state: finite(state.bits_per_byte),
    "halcyon_trainer_evaluation_average_loss_nats": lambda state: finite(state.average_loss),
    "halcyon_trainer_evaluation_source_loss_nats": _evaluated("loss"),
    "halcyon_trainer_evaluation_source_bits_per_byte": _evaluated("bits_per_byte"),
    "halcyon_trainer_task_ratio": lambda state: [((name,), value) for name, value in (state.tasks or {}).items()],
    "halcyon_trainer_tokenized_documents_total": _tokenized("documents"),
    "halcyon_trainer_tokenized_tokens_total": _tokenized("tokens"),
    "halcyon_trainer_tokenized_bytes_total": _tokenized("size_bytes"),
    "halcyon_trainer_tokenized_shards_total": _tokenized("shards"),
}
"""How a metric is read that is no field of the state."""


def _metrics() -> Iterator[Metric]:
    table = read_document(Path(__file__).with_name("metrics.yaml").read_text(encoding="utf-8"))
    for name, row in table.items():
        yield Metric(name=name, **{"kind": "gauge", "read": READS.get(name, "")} | row)
    for name, about in (event.counts for event in EVENTS if event.counts):
        yield Metric(
            "counter", f"halcyon_trainer_{name}_total", about, lambda state, name=name: state.counts.get(name, 0)
        )


METRICS = tuple(_metrics())


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
