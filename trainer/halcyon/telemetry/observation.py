"""The values of telemetry: what the loop reports of a run, and what a reader observes of it at one moment."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from halcyon.telemetry.health import Health
from halcyon.telemetry.tokenizing import TokenizedSource
from halcyon_api.progress import ProgressReport


@dataclass(frozen=True)
class RunPlan:
    """What the counts of a run are made from."""

    steps: int
    """Steps of the whole run."""
    tokens_before: Callable[[int], int]
    """Tokens of the first steps, by their number, over all devices: the sum of batch size x sequence length."""
    log_every_steps: int = 1
    size_of: Callable[[int], Hashable] = lambda step: None
    """Size of a step by its number, counted from 0: steps of the same size run the same program."""
    flops_per_token: float | None = None
    """Floating-point operations of training on one token, forward and backward."""
    peak_flops_per_second: float | None = None
    """What all devices of the run can do at best; None where it is not known."""


@dataclass(frozen=True)
class StepReport:
    """What a step said of itself, fetched to the host."""

    step: int
    """Steps done, this one included."""
    loss: float
    """Training loss before the update, nats per token; a float32 widened to a float keeps its bits."""
    gradient_norm: float
    learning_rate: float
    tokens: float
    """Sum of the loss weights: targets that counted."""
    data_wait_seconds: float = 0.0
    """How long the step waited for its batch."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    """Further metrics of the objective by name, each per unit of weight."""


@dataclass(frozen=True)
class Tallies:
    """What this process did since its start, for counters."""

    steps: int = 0
    tokens: int = 0
    data_wait_seconds: float = 0.0
    evaluations: int = 0
    checkpoints: int = 0
    checkpoint_failures: int = 0
    save_seconds: float = 0.0
    """From the beginning of saves to their commits."""
    blocked_seconds: float = 0.0
    """How long saves held the loop up."""
    skipped: int = 0
    step_buckets: tuple[int, ...] = ()
    step_seconds: float = 0.0
    data_wait_ratio: float | None = None
    """Share of the last steps' time; None before there are two."""


@dataclass(frozen=True)
class Observation:
    """One consistent look at a process."""

    report: ProgressReport
    last_step: StepReport | None
    first_step_time: float | None
    last_step_time: float | None
    checkpoint_time: float | None
    """Wall time in seconds since 1970 at which this process learned of the newest checkpoint."""
    tallies: Tallies
    sources: tuple[TokenizedSource, ...]
    """Sources that this process has tokenized, or is tokenizing."""
    health: Health
