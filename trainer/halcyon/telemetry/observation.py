"""The values of telemetry: the reports of the loop, and a snapshot of them for readers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from halcyon.telemetry.health import Health
from halcyon.telemetry.tokenizing import TokenizedSource
from halcyon_api.status.progress import ProgressReport


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run, from which its counts are computed."""

    steps: int
    """Steps of the whole run."""
    tokens_before: Callable[[int], int]
    """Tokens of the first n steps, as a function of n, over all devices: the sum of batch size x sequence length."""
    log_every_steps: int = 1
    size_of: Callable[[int], Hashable] = lambda step: None
    """Size of a step by its number, counted from 0: steps of the same size run the same program."""
    flops_per_token: float | None = None
    """Floating-point operations of training on one token, forward and backward."""
    peak_flops_per_second: float | None = None
    """Peak of all devices of the run together; None if it is not known."""


ReportedMetric = float | tuple[float, ...]
"""A number, or one number for each layer."""


@dataclass(frozen=True)
class StepReport:
    """The numbers of a step, fetched to the host."""

    step: int
    """Steps done, including this one."""
    loss: float
    """Training loss before the update, nats per token; the conversion of the device's float32 to a float is exact."""
    gradient_norm: float
    learning_rate: float
    tokens: float
    """Sum of the loss weights: targets that counted in the loss."""
    data_wait_seconds: float = 0.0
    """Time that the step waited for its batch."""
    metrics: Mapping[str, ReportedMetric] = field(default_factory=dict[str, ReportedMetric])
    """Further metrics of the objective by name, each per unit of weight."""


@dataclass(frozen=True)
class Tallies:
    """Counts of this process since its start, for counters."""

    steps: int = 0
    tokens: int = 0
    data_wait_seconds: float = 0.0
    evaluations: int = 0
    checkpoints: int = 0
    checkpoint_failures: int = 0
    save_seconds: float = 0.0
    """Sum of the times from the beginning of a save to its commit."""
    blocked_seconds: float = 0.0
    """Time that the loop was blocked by saves."""
    skipped: int = 0
    rollbacks: int = 0
    exports: int = 0
    export_failures: int = 0
    step_buckets: tuple[int, ...] = ()
    step_seconds: float = 0.0
    data_wait_ratio: float | None = None
    """Share of the last steps' time in which they waited for data; None before the second step."""


@dataclass(frozen=True)
class WatchedParameter:
    """A number of one parameter in the last watched step, over all its layers."""

    what: str
    """`parameters`, `gradients` or `updates`."""
    statistic: str
    """`norm`, or `ratio` of update and parameter."""
    path: str
    value: float


@dataclass(frozen=True)
class Observation:
    """A consistent snapshot of a process."""

    report: ProgressReport
    last_step: StepReport | None
    first_step_time: float | None
    last_step_time: float | None
    checkpoint_time: float | None
    """Wall time in seconds since 1970 at which this process learned of the newest checkpoint."""
    tallies: Tallies
    sources: tuple[TokenizedSource, ...]
    """Progress of the sources that this process has tokenized, or is tokenizing."""
    health: Health
    average_loss: float | None = None
    """Loss of the average of the parameters on the held-out part, in nats per token; None without an average."""
    watched: tuple[WatchedParameter, ...] = ()
    """Numbers of the last watched step."""
