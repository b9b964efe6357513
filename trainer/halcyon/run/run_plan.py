"""The plan of a run for its telemetry: which steps have which size, and how many tokens. Imports no JAX."""

from __future__ import annotations

from collections.abc import Callable

from halcyon.data.batch_schedule import build_schedule
from halcyon.run.context import Context
from halcyon.telemetry import RunPlan
from halcyon_api.spec.telemetry import WatchSpec
from halcyon_api.spec.trainer import TrainerSpec


def run_plan(context: Context) -> RunPlan:
    """The plan of a run on its topology."""
    spec = context.run.spec
    peak = spec.accelerator.row.peak_flops_per_second
    return RunPlan(
        steps=spec.trainer.steps,
        tokens_before=_tokens_before(spec.trainer),
        log_every_steps=spec.trainer.log_every_steps,
        size_of=_size_of(spec.trainer, spec.telemetry.watch),
        peak_flops_per_second=None if peak is None else peak * context.topology.devices,
    )


def _tokens_before(spec: TrainerSpec) -> Callable[[int], int]:
    try:
        return build_schedule(spec).tokens_before
    except ValueError:  # `train` rejects the document, and needs this reporter to do so
        return lambda step: step * spec.batch_size * spec.sequence_length


def _size_of(spec: TrainerSpec, watch: WatchSpec | None) -> Callable[[int], tuple[int, int, bool]]:
    """Batch size and sequence length of a step, by its number, and whether it is watched: what decides which program it
    runs.
    """

    def watched(step: int) -> bool:
        return watch is not None and watch.is_due(step + 1)

    try:
        schedule = build_schedule(spec)
    except ValueError:
        return lambda step: (spec.batch_size, spec.sequence_length, watched(step))
    return lambda step: (schedule.batch_size(step), schedule.sequence_length(step), watched(step))
