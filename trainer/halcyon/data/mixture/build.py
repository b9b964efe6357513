"""The mixture of ``spec.data``, and the check that its data suffices for the run."""

from __future__ import annotations

from collections.abc import Mapping

from halcyon.data.batch_schedule import BatchSchedule
from halcyon.data.mixture.mixture import Mixture
from halcyon.errors import BadConfiguration
from halcyon_api.spec.data import DataSpec


def build_mixture(data: DataSpec, sequences: Mapping[str, int], schedule: BatchSchedule, *, seed: int) -> Mixture:
    """The mixture of a run.

    Args:
        data: ``spec.data``.
        sequences: Training sequences of an epoch, by source, of the schedule's longest length.
        schedule: Maps the steps at which weights change to positions.
        seed: Seed of the run.

    Raises:
        BadConfiguration: A source with a weight above 0 has no training sequences, or no source has any. The message
            names the field.
    """
    names = [source.name for source in data.sources]
    sizes = [sequences[name] for name in names]
    if not any(sizes):
        raise BadConfiguration(
            "spec.data.sources: no source has sequences to train on; give more text, or hold out less of it"
        )
    weights = [
        float(size) if source.weight is None else source.weight
        for source, size in zip(data.sources, sizes, strict=True)
    ]
    stages = [(0, weights)]
    for entry in data.mixture.schedule:
        given = {share.source: share.weight for share in entry.weights}
        stages.append((schedule.positions_before(entry.from_step), [given.get(name, 0.0) for name in names]))
    for number, (_, shares) in enumerate(stages):
        for name, size, weight in zip(names, sizes, shares, strict=True):
            if weight > 0 and not size:
                field = f"mixture.schedule[{number - 1}].weights[{name}]" if number else f"sources[{name}].weight"
                raise BadConfiguration(
                    f"spec.data.{field}: the source has no sequences to train on; set its weight to 0, or give it more "
                    "text"
                )
    mixture = data.mixture
    return Mixture(names, sizes, stages, block_sequences=mixture.block_sequences, seed=seed, stop=mixture.stop)


def stop_problem(mixture: Mixture, schedule: BatchSchedule, *, pad_last: bool) -> str | None:
    """An error message if the mixture's stop rule ends the data before the run's last step; else None."""
    limit = mixture.limit()
    if limit is None or (steps := schedule.steps_within(limit, partial=pad_last)) >= schedule.steps:
        return None
    names = ", ".join(mixture.exhausted(limit))
    return (
        f"spec.trainer.steps: {schedule.steps} steps need more than the {limit} sequences after which "
        f"spec.data.mixture.stop: {mixture.stop} ends the data (exhausted: {names}); set steps to {steps} or less, or "
        "stop to restart"
    )


def rehearsed_sequences(sequences: int, *, run_tokens: int, simulate_tokens: int) -> int:
    """Number of a source's sequences that a run over ``run_tokens`` tokens uses to rehearse a run over
    ``simulate_tokens`` tokens.

    The used sequences are then seen in as many epochs as the longer run sees all sequences. `halcyon.data.split.spread`
    chooses them.
    """
    if run_tokens >= simulate_tokens or not sequences:
        return sequences
    return max(1, (2 * sequences * run_tokens + simulate_tokens) // (2 * simulate_tokens))
